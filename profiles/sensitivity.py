"""Measures the sensitivity of a network to each choice: the change of its outputs when one choice is applied alone."""

from __future__ import annotations

import itertools
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from ..compressors.technique import Supplies
from ..evaluators.device_lock import waited_s
from ..spaces.candidate import PRUNING_RATIO
from ..spaces.layers import Network
from ..spaces.space import Choice, Space
from .damage import Damages
from .forks import in_forks
from .saliency import saliencies, saliency_of, stand_in

SENSITIVITY_BUDGET_S = 60.0
"""Seconds after which no more choices are applied."""

SALIENT = 2
"""Batches of the network's inputs from which gradients are taken."""


Sensitivities = dict[str, tuple[float, ...]]
"""The damage of each level of a choice, by the choice's name."""


@contextmanager
def sensitivities(
    model: nn.Module,
    supplies: Supplies,
    space: Space,
    notice: Callable[[str], None],
    *,
    network: Network | None = None,
    budget_s: float = SENSITIVITY_BUDGET_S,
    processes: int = 1,
) -> Iterator[Callable[[], Sensitivities]]:
    """Begin to measure the damage of each compressing choice's levels, each applied alone; see `Damages`.

    The context gives a function that waits for the damages, and is called once. Until then they are measured in
    processes of their own, which give way to measurements of latencies; with one process they are measured in the call.

    The middle levels of all choices are tried first, then a stronger one of each; `curve` predicts the others. When the
    time is up, the remaining choices, those with the fewest multiply-accumulates, get a damage predicted from their
    gradients; see `stand_in`.

    Args:
        model: the network; it is not changed.
        supplies: see `Damages`.
        space: what may vary.
        notice: gets each line of progress.
        network: its parts; without them choices are tried in their own order, and no gradients are used.
        budget_s: seconds of its own work after which a process starts no choice; one of each axis is always tried.
        processes: how many choices are tried at a time; it changes no damage.

    """
    damages = Damages(model, supplies)
    by_axis = _by_axis(space, network)
    in_turn = [choice for row in itertools.zip_longest(*by_axis) for choice in row if choice is not None]
    rounds = [(choice, middle(choice)) for choice in in_turn]
    rounds += [(choice, stronger(choice)) for choice in in_turn if stronger(choice) > middle(choice)]
    probes = [(probe, number < len(by_axis)) for number, probe in enumerate(rounds)]
    with in_forks(_InTime(damages, budget_s), probes, processes) as changes:

        def finished() -> Sensitivities:
            found: defaultdict[str, dict[int, float]] = defaultdict(dict)
            count = 0
            for (choice, level), change in zip(rounds, changes, strict=True):
                if change is not None:
                    found[choice.name][level] = change
                    count += 1
                    notice(f"what each choice damages ({count} of {len(rounds)})")
            if count < len(rounds):
                notice(f"what each choice damages: {count} of {len(rounds)} were tried, the others are predicted")
            if len(found) < len(in_turn):
                salient = _salient(damages.model, damages.batches[:SALIENT], network)
                for choices in by_axis:
                    tried = [(salient(c), found[c.name][middle(c)]) for c in choices if middle(c) in found[c.name]]
                    for choice in choices:
                        found[choice.name].setdefault(middle(choice), stand_in(tried, salient(choice)))
            return {choice.name: curve(found[choice.name], len(choice.levels)) for row in by_axis for choice in row}

        yield finished


class _InTime:
    """Measures damages while a process has time; its waits for measurements do not count."""

    def __init__(self, damages: Damages, budget_s: float) -> None:
        self._damages = damages
        self._left_s = budget_s

    def __call__(self, probe: tuple[tuple[Choice, int], bool]) -> float | None:
        """Return the damage of a choice at a level; None if the time is up and it need not be tried."""
        what, always = probe
        if self._left_s <= 0 and not always:
            return None
        started = time.monotonic() - waited_s()
        found = self._damages(what)
        self._left_s -= time.monotonic() - waited_s() - started
        return found


def middle(choice: Choice) -> int:
    """Return the level at which a choice is tried first; at least 1."""
    return max(1, (len(choice.levels) - 1) // 2)


def stronger(choice: Choice) -> int:
    """Return the level at which a choice is tried second, unless it is the first one; no law tells that of a name."""
    if isinstance(choice.levels[-1], str):
        return len(choice.levels) - 1
    return max(1, (3 * len(choice.levels) - 3) // 4)


def curve(known: Mapping[int, float], levels: int) -> tuple[float, ...]:
    """Return the damage at every level, by a power law through the known ones; by the square if one alone is known.

    Level 0 changes nothing, and no level changes less than a milder one. The power is kept between 1 and 6.

    >>> curve({1: 0.5}, 3), curve({1: 0.5, 2: 4.0}, 4)
    ((0.0, 0.5, 2.0), (0.0, 0.5, 4.0, 13.5))
    """
    first, last = min(known), max(known)
    power = 2.0
    if first < last and 0 < known[first] <= known[last] < float("inf"):
        power = min(max(1.0, math.log(known[last] / known[first]) / math.log(last / first)), 6.0)
    anchors = [last if level >= last else first for level in range(1, levels)]
    law = (known[anchor] * (level / anchor) ** power for level, anchor in enumerate(anchors, start=1))
    return (0.0, *itertools.accumulate(law, max))


def _by_axis(space: Space, network: Network | None) -> list[list[Choice]]:
    """Return the compressing choices of each axis, by falling multiply-accumulates of their targets."""
    macs = {} if network is None else {layer.name: layer.macs for layer in network.layers}

    def work(choice: Choice) -> int:
        if network is None or choice.axis == PRUNING_RATIO:
            return macs.get(choice.target, 0)
        layers = network.reached(choice.axis, choice.target)
        return sum(macs.get(name, 0) for name in layers)

    axes: defaultdict[str, list[Choice]] = defaultdict(list)
    for choice in space.choices:
        if choice.neutral is not None:
            axes[choice.axis].append(choice)
    return [sorted(choices, key=work, reverse=True) for choices in axes.values()]


def _salient(
    model: nn.Module, batches: Sequence[tuple[Tensor, ...]], network: Network | None
) -> Callable[[Choice], float]:
    """Return a function that gives the saliency of a choice: 0 if unknown."""
    if network is None:
        return lambda choice: 0.0
    try:
        by_layer = saliencies(model, batches)
    except Exception:  # a user's forward may fail in any way, and need not have gradients
        by_layer = {}
    return lambda choice: saliency_of(choice, by_layer, network)
