"""Finds out, before the first trial, what a network's layers cost, what each choice damages, and the floor."""

from __future__ import annotations

import time
from collections.abc import Sequence

from ..compressors.pruning.prune import global_ratios
from ..compressors.technique import Supplies
from ..errors import InfeasibleError
from ..evaluators.meters.latency import PROBE, Calibration
from ..spaces.candidate import PRUNING_RATIO, Candidate
from ..spaces.layers import Network
from ..spaces.space import Choice, Space
from ..spaces.uniform import uniform
from ..studies.task import Task
from .cost_model import LAYER_AXES, CostModel
from .latency_probes import MOST_LEVELS, PROBE_TIMEOUT_S, Notice, Prober, measured_costs
from .level_filter import DroppedLevel, levels_without_speedup, reduced, remaining
from .profile import NARROW, Profile
from .sensitivity import DAMAGES_BUDGET_S, measure_sensitivities

SHARES = (0.3, 0.5, 0.7)
"""Shares of all channels that go where one threshold decides for the whole network."""

NOISE = 0.02
"""Share by which the same network's latency may differ when it is measured again."""

FEW = 6
"""Most choices whose sensitivities are measured to estimate the time of all."""


def profile(
    prober: Prober,
    space: Space,
    artefact: bytes,
    calibration: Calibration,
    notice: Notice,
    *,
    reduce: bool = True,
    size_counts: bool = False,
) -> Profile:
    """Share the latency among layers, probe every choice and level once, drop what does not pay, measure the floor.

    Args:
        prober: knows the network, and builds and times.
        space: what may vary.
        artefact: the network with nothing done to it, in the runtime's own file.
        calibration: the baseline's own time.
        notice: gets each line of progress.
        reduce: whether levels that do not pay are dropped.
        size_counts: whether bits and zeros are kept for the bytes that they save.

    """
    task, network = prober.task, prober.network
    notice("what the layers cost")
    base_ms = calibration.median_ms
    if task.student is not None:
        base_ms = prober.meter.measure(artefact, PROBE, timeout_s=PROBE_TIMEOUT_S).median_ms
    costs = prober.base_costs(artefact, base_ms)
    damage = measure_sensitivities(task.base, prober.supplies, space, notice, network=network)
    usable = {name for name, by_level in damage.items() if float("inf") not in by_level}
    costs = measured_costs(prober, space, costs, usable, notice, size_counts=size_counts)
    dropped = (
        confirmed(prober, space, costs, levels_without_speedup(space, costs, size_counts=size_counts)) if reduce else ()
    )
    left = reduced(space, dropped)
    notice("which channels matter in the whole network")
    global_pruning = thresholds(task, prober.supplies, network, prober.runtime.capabilities.channel_multiple)
    notice("the fastest network that the space can express")
    uniform_ms = [ms for by_level in costs.uniform_ms.values() for ms in by_level.values()]
    built_ms = [ms for ms in map(prober.latency_ms, fastest(left, costs, usable)) if ms is not None]
    notice("whether what pays in wide layers pays in narrow ones")
    for quantized in (False, True):
        prober.latency_ms(uniform(left, NARROW, quantized=quantized))
    return Profile(
        network=network,
        baseline_ms=calibration.median_ms,
        baseline_low_ms=calibration.low_ms,
        baseline_high_ms=calibration.high_ms,
        costs=costs,
        damage=remaining(damage, space, left),
        floor_ms=min(built_ms or uniform_ms, default=None),
        dropped=dropped,
        global_pruning=global_pruning,
        timed=tuple((candidate.to_dict(), ms) for candidate, ms in prober.timed.items()),
    )


def thresholds(task: Task, supplies: Supplies, network: Network, multiple: int) -> dict[str, dict[str, float]]:
    """Return for some shares of all channels the pruning ratios for which one threshold decides in the whole network.

    A share is left out if these are not known.
    """
    found = {}
    for share in SHARES:
        try:
            found[str(share)] = global_ratios(task.base, network, supplies, share, multiple=multiple)
        except (InfeasibleError, RuntimeError):  # what torch raises of a network that cannot be scored
            continue
    return found


def confirmed(
    prober: Prober, space: Space, costs: CostModel, dropped: Sequence[DroppedLevel]
) -> tuple[DroppedLevel, ...]:
    """Return what may be dropped without making the rest slower.

    A layer in INT8 between others may cost more than it did and yet save its neighbours the conversion of what they
    read and write. So the network is measured once more, with the level in all layers but those where it is dropped;
    where that is slower than with it in all, nothing of that level is dropped.
    """
    kept: list[DroppedLevel] = []
    for axis, level in dict.fromkeys((each.axis, each.level) for each in dropped):
        same = [each for each in dropped if (each.axis, each.level) == (axis, level)]
        gone = {each.target for each in same}
        known = costs.factors.get(axis, {})
        rest = [name for name, factors in known.items() if str(level) in factors and name not in gone]
        before_ms = costs.uniform_ms.get(axis, {}).get(str(level))
        if rest and before_ms is not None:
            after_ms, _ = prober.uniform(axis, level, rest)
            if after_ms is None or after_ms > (1 + NOISE) * before_ms:
                continue
        kept += same
    return tuple(kept) if any(choice.neutral is not None for choice in reduced(space, kept).choices) else ()


def fastest(space: Space, costs: CostModel, usable: set[str]) -> list[Candidate]:
    """Return candidates among which the fastest of a space should be: everything at once, and the axes in turn."""

    def level(choice: Choice, axes: Sequence[str]) -> int:
        if choice.axis not in axes or choice.name not in usable:
            return 0
        if choice.axis not in LAYER_AXES:
            return len(choice.levels) - 1
        factors = [costs.factor(choice.axis, choice.target, level) or 1.0 for level in choice.levels]
        return factors.index(min(factors))

    present = [axis for axis in (PRUNING_RATIO, *LAYER_AXES) if any(True for _ in space.on(axis))]
    groups = [present, *([PRUNING_RATIO, axis] for axis in present)]
    points = [{choice.name: level(choice, axes) for choice in space.choices} for axes in groups]
    return list(dict.fromkeys(map(space.candidate, points)))


def estimate_profile_s(
    task: Task, supplies: Supplies, space: Space, *, build_s: float, probe_s: float, notice: Notice
) -> float:
    """Estimate the seconds of `profile`, from the sensitivities of a few choices.

    Args:
        task: what is compressed.
        supplies: see `supplies_of`.
        space: what may vary.
        build_s: seconds to build one candidate.
        probe_s: seconds to time one candidate.
        notice: gets each line of progress.
    """
    notice("how sensitive the network is")
    choices = [choice for choice in space.choices if choice.neutral is not None]
    few = Space(tuple(choices[:: max(1, len(choices) // FEW)][:FEW]))
    started = time.monotonic()
    measure_sensitivities(task.base, supplies, few, lambda text: None)
    few_s = time.monotonic() - started
    sensitivities_s = min(DAMAGES_BUDGET_S, few_s * len(choices) / max(1, len(few.choices)))
    levels = [{level for c in space.on(axis) for level in c.levels if level != c.neutral} for axis in LAYER_AXES]
    fastest_and_narrow = len(LAYER_AXES) + 3
    built = sum(min(MOST_LEVELS, len(each)) for each in levels) + fastest_and_narrow
    return sensitivities_s + built * (build_s + probe_s)
