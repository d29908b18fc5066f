"""Tries pruning on copies of a network: which groups can be pruned, and by how many channels at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from ...errors import InfeasibleError, gist
from ...studies.networks.copied import copied
from ..modes import Shapes, shapes_in_training
from ..modules import Inputs, run
from ..technique import Supplies
from ..tied import tie, tied
from .channels.silence import Statistics, same, silent
from .channels.units import Units
from .dependency_groups import Traced, channel_group, dependency_graph, remove, units
from .importance import scorer

TRIES = 64
"""Networks that are built at most to find out which groups can be pruned."""

COARSER = (16, 8, 4, 2)
"""Multiples of a group's granularity that are tried where its forward wants more than the tracing saw."""

Left = list[tuple[str, str]]
Width = Callable[[Traced], int]


class Attempts:
    """Prunes copies of a network to see whether they still work.

    Args:
        model: the network; it is not changed.
        examples: its inputs, batch first.

    """

    def __init__(self, model: nn.Module, examples: Inputs) -> None:
        self.model, self.examples = model, examples
        self.whole = copied(model)
        self.graph = dependency_graph(self.whole, examples)
        self.modules = dict(self.whole.named_modules())
        self.shape = run(model, examples).shape
        try:
            self.trained: Shapes | None = shapes_in_training(self.whole, examples)
        except Exception:  # a user's forward may want more of a batch than a network is served with
            self.trained = None
        self.known: dict[str, tuple[Units, Tensor]] = {}
        self.left = TRIES

    def split(self, groups: Sequence[Traced]) -> tuple[list[Traced], Left]:
        """Split groups into those that can be pruned and those that cannot, with reasons, by bisection."""
        left: Left = []
        for width_of in WIDTHS:
            groups, broken = self._bisect(groups, width_of)
            left += broken
        return list(groups), left

    def _bisect(self, groups: Sequence[Traced], width_of: Width) -> tuple[list[Traced], Left]:
        reason = self._breaks(groups, width_of) if groups else None
        if reason is None:
            return list(groups), []
        if len(groups) == 1:
            coarse = self._coarser(groups[0])
            return ([coarse], []) if coarse else ([], [(groups[0].data.name, reason)])
        middle = len(groups) // 2
        first, second = self._bisect(groups[:middle], width_of), self._bisect(groups[middle:], width_of)
        return [*first[0], *second[0]], [*first[1], *second[1]]

    def _coarser(self, group: Traced) -> Traced | None:
        """Return the group with the smallest granularity at which its widths do not break the network."""
        found = None
        for multiple in COARSER:
            granularity = group.data.granularity * multiple
            if group.data.channels % granularity or group.data.channels // granularity < 2:
                continue
            coarse = replace(group, data=replace(group.data, granularity=granularity))
            if any(self._breaks([coarse], width_of) for width_of in WIDTHS):
                break
            found = coarse
        return found

    def _breaks(self, groups: Sequence[Traced], width_of: Width) -> str | None:
        """Return the error of a network whose groups have these widths; None if it works."""
        if self.left == 0:
            return f"{TRIES} networks were tried to find out which groups can be pruned, and none was left for it"
        self.left -= 1
        return self._try({group.data.name: width_of(group) for group in groups})

    def _try(self, widths: dict[str, int]) -> str | None:
        try:
            gone = {name: self._least(name, width) for name, width in widths.items()}
            pruned = self._without(gone)
        except InfeasibleError as error:
            return error.reason
        except Exception as error:  # what the library that prunes cannot do
            return f"its channels cannot be removed: {gist(error)}"
        try:
            after = run(pruned, self.examples).shape
            if after != self.shape:
                return f"it makes the outputs, whose shape would change from {tuple(self.shape)} to {tuple(after)}"
            if self.trained is not None and shapes_in_training(pruned, self.examples) != self.trained:
                return "it makes outputs that the network has while it trains, whose shapes would change"
            same = self._means_the_same(pruned, gone)
        except Exception as error:  # a user's forward may fail in any way
            return f"its forward breaks after pruning: {gist(error)}"
        return None if same else "its channels mean something else once some are gone"

    def _without(self, gone: dict[str, list[int]]) -> nn.Module:
        pruned = copied(self.model)
        graph, modules = dependency_graph(pruned, self.examples), dict(pruned.named_modules())
        for name, channels in gone.items():
            remove(channel_group(graph, modules[name], channels))
        tie(pruned, tied(self.model))
        return pruned

    def _least(self, name: str, width: int) -> list[int]:
        if name not in self.known:
            score = scorer("magnitude", self.whole, self.graph, Supplies(examples=self.examples, calibration=()))
            self.known[name] = units(self.graph, self.modules[name]), score(name)
        way, scores = self.known[name]
        return way.least_important(scores, width)

    def _means_the_same(self, pruned: nn.Module, gone: dict[str, list[int]]) -> bool:
        """Whether a pruned network matches the full one with the pruned channels silenced."""
        groups = [channel_group(self.graph, self.modules[name], channels) for name, channels in gone.items()]
        recorded = Statistics()
        with torch.random.fork_rng(devices=[]), silent(self.graph, groups), recorded:
            torch.manual_seed(0)
            expected = run(self.whole, self.examples)
        played = Statistics(recorded.found)
        with torch.random.fork_rng(devices=[]), played:
            torch.manual_seed(0)
            return same(run(pruned, self.examples), expected)


def _half(group: Traced) -> int:
    """Return half of a group's width, rounded up."""
    steps = group.data.channels // group.data.granularity
    return (steps - steps // 2) * group.data.granularity


def _most(group: Traced) -> int:
    """Return a group's width after the smallest possible pruning step."""
    return max(group.data.channels - group.data.granularity, group.data.granularity)


WIDTHS: tuple[Width, ...] = (_half, _most)
"""What is tried of each group: widths that are multiples of its granularity and seldom of anything more."""
