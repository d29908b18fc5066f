"""Measures a network's profile: its layers' costs, its sensitivity to each choice, and the latency floor."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from ..compressors.pruning.prune import global_ratios
from ..compressors.technique import Supplies
from ..errors import InfeasibleError
from ..evaluators.meters.latency import PROBE, Calibration
from ..spaces.candidate import ACTIVATION, BITS, PRUNING_RATIO, Candidate, Value
from ..spaces.layers import Network
from ..spaces.space import Choice, Space
from ..spaces.uniform import INTEGER, uniform
from ..studies.task import Task
from .cost_model import LAYER_AXES, CostModel
from .latency_probes import MOST_LEVELS, PROBE_TIMEOUT_S, Prober, assigned, measured_costs, probe
from .level_filter import DroppedLevel, levels_without_speedup, reduced, remaining
from .profile import NARROW, Profile
from .sensitivity import SENSITIVITY_BUDGET_S, Sensitivities, sensitivities

SHARES = (0.3, 0.5, 0.7)
"""Shares of all channels that one threshold over the whole network removes."""

NOISE = 0.02
"""Share by which a network's latency may differ in a second measurement."""

FEW = 6
"""Most choices whose sensitivities are measured to estimate the time of all."""


def profile(
    prober: Prober,
    space: Space,
    artefact: bytes,
    calibration: Calibration,
    damages: Callable[[], Sensitivities],
    notice: Callable[[str], None],
    *,
    reduce: bool = True,
    size_counts: bool = False,
) -> Profile:
    """Divide the latency among layers, measure levels, drop those without speed-up, and find the floor.

    Args:
        prober: knows the network, and builds and times.
        space: what may vary.
        artefact: the runtime's file of the unchanged network.
        calibration: the baseline's latency.
        damages: waits for the sensitivities; see `sensitivities`.
        notice: gets each line of progress.
        reduce: whether levels that do not pay are dropped.
        size_counts: whether bits and zeros are kept for the bytes that they save.

    """
    task, network = prober.task, prober.network
    damage = damages()
    notice("what the layers cost")
    base_ms = calibration.median_ms
    if task.student is not None:
        base_ms = prober.meter.measure(artefact, PROBE, timeout_s=PROBE_TIMEOUT_S).median_ms
    costs = prober.base_costs(artefact, base_ms)
    usable = {name for name, by_level in damage.items() if float("inf") not in by_level}
    costs = measured_costs(prober, space, costs, usable, notice, size_counts=size_counts)
    notice("whether the network is faster without what does not pay")
    dropped = (
        confirmed_drops(prober, space, costs, levels_without_speedup(space, costs, network, size_counts=size_counts))
        if reduce
        else ()
    )
    left = reduced(space, dropped)
    notice("which channels matter in the whole network")
    global_pruning = threshold_ratios(task, prober.supplies, network, prober.runtime.capabilities.channel_multiple)
    notice("whether what pays in wide layers pays in narrow ones")
    narrow = [uniform(left, NARROW, quantized=quantized) for quantized in (False, True)]
    strongest = fastest_candidates(left, costs, usable, bits=True)[0]
    in_float, integer, _ = prober.latencies_ms([*narrow, strongest])
    pays = in_float is None or integer is None or integer < in_float
    notice("the fastest network that the space can express")
    uniform_ms = [ms for by_level in costs.uniform_ms.values() for ms in by_level.values()]
    fastest = fastest_candidates(left, costs, usable, bits=pays)
    built_ms = [ms for ms in prober.latencies_ms(fastest) if ms is not None]
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


def threshold_ratios(task: Task, supplies: Supplies, network: Network, multiple: int) -> dict[str, dict[str, float]]:
    """Return the groups' pruning ratios for one threshold over the whole network, by the share of channels it removes.

    A share is left out if its ratios are unknown.
    """
    found = {}
    for share in SHARES:
        try:
            found[str(share)] = global_ratios(task.base, network, supplies, share, multiple=multiple)
        except (InfeasibleError, RuntimeError):  # torch raises these for a network that cannot be scored
            continue
    return found


def confirmed_drops(
    prober: Prober, space: Space, costs: CostModel, dropped: Sequence[DroppedLevel]
) -> tuple[DroppedLevel, ...]:
    """Return the levels that may be dropped without making the other layers slower.

    A layer in INT8 may itself be slower and yet save its neighbours a conversion of their inputs and outputs. So the
    network is measured once more, with the level in all layers but those that drop it. If it is slower than with the
    level in all layers, the level is kept everywhere. INT8 is kept, too, if it pays beside cheaper functions.
    """
    kept: list[DroppedLevel] = []
    for axis, level in dict.fromkeys((each.axis, each.level) for each in dropped):
        same = [each for each in dropped if (each.axis, each.level) == (axis, level)]
        gone, known = {each.target for each in same}, costs.factors.get(axis, {})
        probed = assigned([choice for choice in space.on(axis) if choice.target in known], level)
        rest = {name: value for name, value in probed.items() if name not in gone}
        before_ms = costs.uniform_ms.get(axis, {}).get(str(level))
        if rest and before_ms is not None:
            bits = [choice for choice in space.on(BITS) if choice.target in costs.factors.get(BITS, {})]
            (after_ms,) = prober.latencies_ms([probe(axis, rest, bits)])
            if after_ms is None or after_ms > (1 + NOISE) * before_ms:
                continue
        if (axis, level) == (BITS, INTEGER) and _slower_beside_functions(prober, space, costs, rest):
            continue
        kept += same
    return tuple(kept) if any(choice.neutral is not None for choice in reduced(space, kept).choices) else ()


def _slower_beside_functions(prober: Prober, space: Space, costs: CostModel, bits: Mapping[str, Value]) -> bool:
    """Return whether INT8 in these layers alone is slower than in all, once the activation functions are the cheapest.

    What INT8 loses between layers on other functions it need not lose on those.
    """
    by_level = costs.uniform_ms.get(ACTIVATION, {})
    if not by_level:
        return False
    level = min(by_level, key=lambda each: by_level[each])
    (after_ms,) = prober.latencies_ms([Candidate({ACTIVATION: assigned(space.on(ACTIVATION), level), BITS: bits})])
    return after_ms is None or after_ms > (1 + NOISE) * by_level[level]


def fastest_candidates(space: Space, costs: CostModel, usable: set[str], *, bits: bool) -> list[Candidate]:
    """Return the likely fastest candidates of a space: every choice at its strongest, and pruning with or without bits.

    Args:
        space: what may vary.
        costs: tell which level of a layer is the fastest.
        usable: names of the choices that can be applied.
        bits: whether narrow layers are faster in few bits, too.
    """

    def level(choice: Choice, axes: Sequence[str]) -> int:
        if choice.axis not in axes or choice.name not in usable:
            return 0
        if choice.axis not in LAYER_AXES:
            return len(choice.levels) - 1
        factors = [costs.factor(choice.axis, choice.target, level) or 1.0 for level in choice.levels]
        return factors.index(min(factors))

    present = [axis for axis in (PRUNING_RATIO, *LAYER_AXES) if any(True for _ in space.on(axis))]
    groups = [present, [PRUNING_RATIO, BITS] if bits else [PRUNING_RATIO]]
    points = [{choice.name: level(choice, axes) for choice in space.choices} for axes in groups]
    return list(dict.fromkeys(map(space.candidate, points)))


def estimate_profile_s(
    task: Task,
    supplies: Supplies,
    space: Space,
    *,
    build_s: float,
    probe_s: float,
    gaps_s: float,
    processes: int,
    notice: Callable[[str], None],
) -> float:
    """Estimate the seconds of `profile`, from the sensitivities of a few choices.

    Args:
        task: what is compressed.
        supplies: see `supplies_of`.
        space: what may vary.
        build_s: seconds to build one candidate.
        probe_s: seconds to time one candidate.
        gaps_s: seconds of the calibration in which nothing is timed.
        processes: how many choices are tried at a time.
        notice: gets each line of progress.
    """
    notice("how sensitive the network is")
    choices = [choice for choice in space.choices if choice.neutral is not None]
    few = Space(tuple(choices[:: max(1, len(choices) // FEW)][:FEW]))
    started = time.monotonic()
    with sensitivities(task.base, supplies, few, lambda text: None, processes=processes) as damages:
        damages()
    few_s = time.monotonic() - started
    sensitivities_s = min(SENSITIVITY_BUDGET_S, few_s * len(choices) / max(1, len(few.choices)))
    if processes > 1:  # they are measured beside the calibration
        sensitivities_s = max(0.0, sensitivities_s - gaps_s)
    levels = [{level for c in space.on(axis) for level in c.levels if level != c.neutral} for axis in LAYER_AXES]
    fastest_and_narrow = 4
    built = sum(min(MOST_LEVELS, len(each)) for each in levels) + fastest_and_narrow
    return sensitivities_s + built * max(build_s, probe_s)  # one is built while another is timed
