"""Structured pruning: removes whole channels, so that shapes shrink."""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from ...errors import InfeasibleError
from ...spaces.candidate import PRUNING, PRUNING_RATIO, Candidate, Value
from ...spaces.capabilities import Capabilities
from ...spaces.layers import Group, Network
from ...spaces.space import Choice, Conflict
from ...studies.networks.copied import copied
from ..modules import out_channels
from ..technique import Supplies, Technique
from ..tied import tie, tied
from .dependency_groups import channel_group, dependency_graph, outputs_of, remove, units
from .importance import FROM_GRADIENTS, FROM_NORMS, IMPORTANCES, scorer
from .regularizer import PENALTIES, sparsity_penalty

STEPS = 8
"""A group is offered at up to this many widths, evenly apart."""

LEAST = 2
"""Narrower widths that a group is to be offered at least, if need be at the cost of multiples the runtime likes."""

MOST = 1 - 1 / STEPS
"""The largest share of a group that goes when one threshold decides about all groups."""

SETTINGS = (
    Choice(axis=PRUNING, target="importance", levels=IMPORTANCES, needs=PRUNING_RATIO),
    Choice(axis=PRUNING, target="steps", levels=(1, 2, 4), needs=PRUNING_RATIO),
    Choice(axis=PRUNING, target="penalty", levels=("none", *PENALTIES), needs=PRUNING_RATIO),
)

DEFAULTS: Mapping[str, Value] = {choice.target: choice.levels[0] for choice in SETTINGS}


class Prune(Technique):
    """Removes the least important channels from each dependency group."""

    axis = PRUNING_RATIO

    def choices(self, network: Network, capabilities: Capabilities) -> tuple[Choice, ...]:
        """Offer each group the ratios that leave a multiple of channels that the runtime prefers."""
        offers = ((group, ratios(group, capabilities.channel_multiple)) for group in network.groups)
        return tuple(
            Choice(axis=self.axis, target=group.name, levels=levels, neutral=0.0)
            for group, levels in offers
            if len(levels) > 1
        )

    def settings(self) -> tuple[Choice, ...]:
        """Offer the importance, the number of pruning steps, and the penalty before pruning."""
        return SETTINGS

    def conflicts(self, network: Network, choices: Sequence[Choice]) -> Iterator[Conflict]:
        """Yield the groups that have no batch norm whose scales could tell their channels' importance."""
        unscaled = {group.name for group in network.groups if not group.scaled}
        for choice in choices:
            if choice.axis == self.axis and choice.target in unscaled:
                name = f"{PRUNING}:importance"
                yield Conflict(choice=name, level=FROM_NORMS, other=choice.name, beside=choice.levels[1:])

    def apply(self, model: nn.Module, candidate: Candidate, supplies: Supplies) -> nn.Module:
        """Return a copy of the network with the candidate's share of each group's channels removed."""
        widths = {name: width for name, (_, width) in _widths(model, candidate).items()}
        importance = str(_setting(candidate, "importance"))
        pruned, kept = _without(model, widths, supplies.examples, importance=importance, supplies=supplies)
        supplies.kept.update(kept)
        return pruned


def _setting(candidate: Candidate, target: str) -> Value:
    return candidate[PRUNING].get(target, DEFAULTS[target])


def _widths(model: nn.Module, candidate: Candidate) -> dict[str, tuple[int, int]]:
    """Return for each group of a candidate the channels that it has and the channels that it keeps."""
    modules, widths = dict(model.named_modules()), {}
    for name, ratio in candidate[PRUNING_RATIO].items():
        if name not in modules:
            raise InfeasibleError(f"the network has no group {name!r} to prune", rung="build")
        channels = out_channels(modules[name])
        widths[name] = channels, max(1, round(channels * (1 - float(ratio))))
    return widths


def schedule(candidate: Candidate, model: nn.Module, examples: tuple[Tensor, ...]) -> Sequence[Candidate]:
    """Return the pruning steps of a candidate, with training between them.

    The channels go in equal parts, in as many steps as the candidate's settings say. Each step's ratios are of what
    the steps before it left; groups and steps in which nothing goes are left out.

    Args:
        candidate: what to reach.
        model: the network before anything is pruned.
        examples: its inputs, batch first.

    """
    steps = int(_setting(candidate, "steps"))
    if steps < 1:
        raise InfeasibleError(f"channels go in 1 step or more, got {steps}", rung="build")
    if steps == 1:
        return [candidate]
    graph = dependency_graph(copied(model), examples)
    modules = dict(graph.model.named_modules())
    ratios: list[dict[str, Value]] = [{} for _ in range(steps)]
    for name, (channels, width) in _widths(model, candidate).items():
        widths = [channels, *way(channels, width, steps, granularity=units(graph, modules[name]).granularity)]
        for step, (before, after) in zip(ratios, itertools.pairwise(widths), strict=True):
            if after < before:
                step[name] = 1 - after / before
    found = [Candidate({**candidate.axes, PRUNING_RATIO: step}) for step in ratios if step]
    return found or [candidate]


def beyond(candidate: Candidate, done: Candidate, model: nn.Module) -> Candidate:
    """Return a candidate with only the pruning that remains after another candidate's.

    Args:
        candidate: what to reach.
        done: what was pruned before; nowhere more than the candidate prunes.
        model: the network before anything is pruned.

    """
    before, after = _widths(model, done), _widths(model, candidate)
    kept = {name: before[name][1] if name in before else channels for name, (channels, _) in after.items()}
    ratios: dict[str, Value] = {
        name: 1 - width / kept[name] for name, (_, width) in after.items() if width < kept[name]
    }
    return Candidate({**candidate.axes, PRUNING_RATIO: ratios})


def way(channels: int, width: int, steps: int, *, granularity: int = 1) -> list[int]:
    """Return evenly spaced widths, one for each step, from all channels down to a width.

    They are multiples of the largest power of two that the width is a multiple of, if there are enough of them.

    Args:
        channels: of the whole group.
        width: channels that stay in the end.
        steps: how many widths to return.
        granularity: channels go so many at a time.

    >>> way(64, 32, 2), way(64, 32, 4), way(12, 11, 2)
    ([48, 32], [56, 48, 40, 32], [12, 11])
    """
    powers = (granularity * 2**i for i in reversed(range(12)))
    unit = next((u for u in powers if width % u == 0 and (channels - width) // u >= steps), granularity)
    path = (channels - (channels - width) * step / steps for step in range(1, steps))
    return [*(min(channels, max(width, math.floor(w / unit + 0.5) * unit)) for w in path), width]


def penalty(
    candidate: Candidate, model: nn.Module, examples: tuple[Tensor, ...]
) -> Callable[[nn.Module], Tensor] | None:
    """Return the penalty on the unpruned network's loss, which makes channels small before they are removed.

    Args:
        candidate: names the groups and, in its settings, the penalty.
        model: the unpruned network before it is trained.
        examples: its inputs, batch first.

    """
    chosen = _setting(candidate, "penalty")
    names = [name for name, (channels, width) in _widths(model, candidate).items() if width < channels]
    if chosen == "none" or not names:
        return None
    return sparsity_penalty(str(chosen), model, names, examples)


def ratios(group: Group, multiple: int) -> tuple[float, ...]:
    """Return the distinct pruning ratios of a group, mild to strong, starting with 0.

    Its layers' granularity is kept (attention loses whole heads), and so is the multiple where that leaves a choice.

    >>> ratios(Group(name="conv1", channels=32, members=("conv1",)), multiple=8)
    (0.0, 0.25, 0.5, 0.75)
    """
    widths = _offered(group.channels, math.lcm(multiple, group.granularity))
    if len(widths) < LEAST and multiple % group.granularity:
        widths = _offered(group.channels, group.granularity)
    return tuple(1 - width / group.channels for width in (group.channels, *widths))


def _offered(channels: int, multiple: int) -> list[int]:
    """Return evenly spaced widths below a number of channels that are multiples, the widest first."""
    steps = (round(channels * (1 - step / STEPS) / multiple) * multiple for step in range(1, STEPS))
    return sorted({width for width in steps if multiple <= width < channels}, reverse=True)


def global_ratios(
    model: nn.Module,
    network: Network,
    supplies: Supplies,
    share: float,
    *,
    importance: str = "magnitude",
    multiple: int = 8,
) -> dict[str, float]:
    """Return the nonzero pruning ratios of all groups under one global threshold.

    Scores are relative to the mean of their group. Of each group the nearest of its `ratios` is taken, at most 7/8, and
    the threshold is the one with which the channels that go are nearest to the share asked for.

    Args:
        model: the network; it is not changed.
        network: its groups.
        supplies: example inputs, and batches for importances that need gradients.
        share: of the channels of all groups, between 0 and 1.
        importance: see `importance.scorer`.
        multiple: groups keep a multiple of so many channels.

    Raises:
        InfeasibleError: there is not what the importance needs.

    """
    if not network.groups:
        return {}
    scores = channel_scores(model, [group.name for group in network.groups], supplies, importance=importance)
    relative = [score / score.mean().clamp_min(torch.finfo(score.dtype).tiny) for score in scores.values()]
    owners = torch.cat([torch.full((len(score),), i) for i, score in enumerate(relative)])
    order = owners[torch.cat(relative).argsort(stable=True).to(owners.device)]
    levels = [[level for level in ratios(group, multiple) if level <= MOST] for group in network.groups]

    def chosen(count: int) -> list[float]:
        gone = torch.bincount(order[:count], minlength=len(levels)).tolist()
        shares = [n / group.channels for n, group in zip(gone, network.groups, strict=True)]
        return [min(offer, key=lambda r: abs(r - s)) for offer, s in zip(levels, shares, strict=True)]

    def total(count: int) -> float:
        return sum(r * group.channels for r, group in zip(chosen(count), network.groups, strict=True))

    goal = share * len(order)
    first = bisect_left(range(len(order)), goal, key=total)
    best = min((max(first - 1, 0), first), key=lambda count: abs(total(count) - goal))
    return {group.name: r for group, r in zip(network.groups, chosen(best), strict=True) if r > 0}


def channel_scores(model: nn.Module, names: Sequence[str], supplies: Supplies, *, importance: str) -> dict[str, Tensor]:
    """Return how important each channel of each group is in the unpruned network, by the group's root."""
    model = copied(model)
    score = scorer(importance, model, dependency_graph(model, supplies.examples), supplies)
    return {name: score(name) for name in names}


def remove_channels(
    model: nn.Module,
    widths: Mapping[str, int],
    examples: tuple[Tensor, ...],
    *,
    importance: str = "magnitude",
    supplies: Supplies | None = None,
) -> nn.Module:
    """Return a copy of a network whose groups keep only their most important channels.

    Args:
        model: the network; it is not changed.
        widths: for the root layer of each group, how many output channels it keeps.
        examples: inputs to trace the network with, batch first.
        importance: see `importance.scorer`. What is taken from gradients is of the unpruned network; the rest of
            what the groups before have left.
        supplies: batches and loss for importances that need gradients.

    Raises:
        InfeasibleError: there is not what the importance needs, or a weight that modules share would be two.

    """
    return _without(model, widths, examples, importance=importance, supplies=supplies)[0]


def _without(
    model: nn.Module,
    widths: Mapping[str, int],
    examples: tuple[Tensor, ...],
    *,
    importance: str,
    supplies: Supplies | None,
) -> tuple[nn.Module, dict[str, list[int]]]:
    """Return what `remove_channels` does, and which of its outputs each layer that has lost some has kept."""
    kept: dict[str, list[int]] = {}
    training = model.training
    model = copied(model)
    if widths:
        together = tied(model)
        graph = dependency_graph(model, examples)
        score = scorer(importance, model, graph, supplies or Supplies(examples=examples, calibration=()))
        known = {name: score(name) for name in widths} if importance in FROM_GRADIENTS else {}
        modules = dict(model.named_modules())
        ways = {name: units(graph, modules[name]) for name in widths}
        for name, width in widths.items():
            scores = known[name] if name in known else score(name)
            least = ways[name].least_important(scores, width)
            if least:
                group = channel_group(graph, modules[name], least)
                for layer, gone in outputs_of(graph, group).items():
                    left = kept.get(layer, range(out_channels(modules[layer])))
                    kept[layer] = [channel for i, channel in enumerate(left) if i not in gone]
                remove(group)
        tie(model, together)
    model.train(training)
    return model, kept
