"""Everything before the first trial: the parts of the network, the baseline, its calibrated latency, the profile."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial, reduce
from pathlib import Path

from safetensors.torch import load_file, save
from torch import nn

from ..compressors.pipeline import Compressed
from ..compressors.technique import Supplies
from ..errors import InfeasibleError, RunDirectoryError
from ..evaluators.cgroup import available_cores
from ..evaluators.ladder.ladder import Ladder
from ..evaluators.measurement import Latency
from ..evaluators.meters.bridge import Bridge, Offers
from ..evaluators.meters.latency import CAREFUL, PROBE, Calibration, Meter, meter_for
from ..evaluators.meters.parallel import at_once
from ..evaluators.runtime import Runtime
from ..files import write_atomically
from ..profiles.baseline import baseline_required, cost_of_rounding, export_baseline, export_student
from ..profiles.latency_probes import PROBE_TIMEOUT_S, Prober
from ..profiles.level_filter import summary
from ..profiles.profile import Profile
from ..profiles.profiler import profile
from ..profiles.sensitivity import Sensitivities, sensitivities
from ..profiles.setup import Setup, set_up
from ..spaces.earlier import as_started
from ..spaces.space import Space
from ..storage.fingerprint import NETWORKS
from ..storage.run_directory import RunDirectory, read_json
from ..studies.task import Task
from .options import Options
from .progress import Progress
from .workers.cluster import Cluster

PROFILE = "profile.json"
"""The profile's file in the run directory."""

CALIBRATION = "calibration.json"
"""The file of the baseline's calibration, with the ratio of the bridge."""

BRIDGED_MS = 25.0
"""Fewer milliseconds of the baseline do not prolong the shortest window, so no bridge is measured."""

BRIDGE_SHARE, LARGEST_SHARE = 1 / 16, 1 / 4
"""The best share of the baseline's time for a bridge, and the largest."""

BRIDGE_PROCESSES = 4
"""Processes that time a bridge against the baseline."""

CALIBRATE = replace(CAREFUL, min_windows=5, gap_s=0.5, shared=True)
"""How long the baseline is calibrated: until its windows agree. Sensitivities are measured in the gaps."""

Timed = tuple[float, float]
"""A baseline's calibrated milliseconds and their spread."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """The start of a search.

    Attributes:
        space: the choices on offer, without levels that do not pay.
        profile: the profile of the network.
        ladder: evaluates candidates.
        meters: one for each of the study's devices, by the device's name; this machine's name is empty.

    """

    space: Space
    profile: Profile
    ladder: Ladder
    meters: Mapping[str, Meter]


def prepare(
    task: Task,
    runtimes: Sequence[Runtime],
    rundir: RunDirectory,
    options: Options,
    progress: Progress,
    cluster: Cluster | None = None,
) -> Prepared:
    """Export and measure the baseline, and profile the network; results of an earlier run are used again.

    With devices of a cluster everything is measured there: the baseline on each device, the costs of layers and levels
    on the first.

    Raises:
        StudyError: the unchanged network cannot be exported, served or timed.
        RunDirectoryError: the run directory was started with another network.
    """
    _restore_weights(task, rundir)
    setup = find_setup(task, runtimes, options, progress)
    if task.fit is None and not setup.distance.softened:
        progress.milestone(f"the distance to the teacher's outputs is {setup.distance}")
    with baseline_required(setup.decided):
        progress.notice("exporting the baseline")
        baseline = export_baseline(setup.task, runtimes[0], setup.supplies)

        first = next(iter(options.measure_on), "")

        def meters_of(baselines: Mapping[str, Timed], bridge: Bridge | None = None) -> dict[str, Meter]:
            def local(device: str) -> Meter:
                small = bridge if device == first else None
                return baseline_meter(runtimes[0], baseline[1], setup.supplies, options, baselines.get(device), small)

            if cluster is None or not options.measure_on:
                return {"": local("")}
            return {it.name: it.meter(local(it.name), progress.notice) for it in cluster.devices}

        found = read_profile(rundir.path / PROFILE)
        if found is None:
            found, calibrations, bridge = _measured(setup, runtimes, baseline, meters_of, options, progress)
            _save(found, setup.space, calibrations, bridge, rundir)
    meters = meters_of(_known(found, first), _bridge(rundir))
    for text in (found.overhead_note, summary(found.dropped, runtimes[0].name)):
        if text:
            progress.milestone(text)
    ladder = Ladder(setup.task, setup.supplies, runtimes, compact=options.compact)
    return Prepared(space=found.space(setup.space), profile=found, ladder=ladder, meters=meters)


def find_setup(task: Task, runtimes: Sequence[Runtime], options: Options, progress: Progress) -> Setup:
    """Find what a network and its runtimes offer, and report its notes.

    A run of an earlier version is resumed with the choices that it was started with.

    Raises:
        StudyError: see `set_up`.
        RunDirectoryError: the run directory was started with another network.
    """
    progress.notice("finding layers and groups")
    setup = set_up(task, runtimes, batch=options.batch, compact=options.compact)
    for note in setup.notes:
        progress.milestone(note)
    space = _space_of(options.out / PROFILE, setup.space)
    later = [choice for choice in setup.space.choices if choice not in space.choices]
    if later:
        axes = ", ".join(dict.fromkeys(choice.axis for choice in later))
        progress.milestone(
            f"an earlier version began this run: it is resumed with its choices, without new ones ({axes})"
        )
    return replace(setup, space=space)


def baseline_meter(
    runtime: Runtime,
    artefact: bytes,
    supplies: Supplies,
    options: Options,
    calibrated: Timed | None = None,
    bridge: Bridge | None = None,
) -> Meter:
    """Return a meter of this machine that compares candidates to the baseline.

    Args:
        runtime: serves the baseline.
        artefact: the runtime's file of it.
        supplies: gives the inputs.
        options: how to measure.
        calibrated: the baseline's milliseconds and their spread; None before they are known.
        bridge: a small reference for fast candidates.
    """
    baseline_ms, spread = calibrated or (None, 0.0)
    return meter_for(
        runtime.name,
        baseline=artefact,
        inputs=[x.numpy() for x in supplies.examples],
        threads=options.threads,
        baseline_ms=baseline_ms,
        baseline_spread=spread,
        percentile=options.percentile,
        bridges=() if bridge is None else (bridge,),
    )


def processes_for(workers: int | None) -> int:
    """Return how many processes of this machine share the work before the first trial; with 0 workers there is one."""
    return max(1, min(available_cores(), workers or 1))


def _measured(
    setup: Setup,
    runtimes: Sequence[Runtime],
    baseline: tuple[Compressed, bytes],
    meters_of: Callable[[Mapping[str, Timed]], Mapping[str, Meter]],
    options: Options,
    progress: Progress,
) -> tuple[Profile, Mapping[str, Calibration], Bridge | None]:
    """Calibrate the baseline on each device, profile the network on the first, and measure a bridge there."""
    if runtimes[0].capabilities.rounds:
        progress.milestone(cost_of_rounding(setup.task, runtimes[0], *baseline, setup.supplies.piece))
    progress.notice("calibrating the baseline's latency")
    with sensitivities(
        setup.task.base,
        setup.supplies,
        setup.space,
        progress.notice,
        network=setup.network,
        processes=processes_for(options.workers),
    ) as damages:
        meters = meters_of({})
        found = at_once([partial(meter.calibrate, CALIBRATE) for meter in meters.values()])
        calibrations = dict(zip(meters, found, strict=True))
        meters = meters_of({device: (each.median_ms, each.spread) for device, each in calibrations.items()})
        baseline_ms = next(iter(calibrations.values())).median_ms
        offers = Offers(wanted_ms=BRIDGE_SHARE * baseline_ms) if baseline_ms >= BRIDGED_MS else None
        profiled = _profiled(setup, runtimes[0], baseline, meters, calibrations, damages, options, progress, offers)
    if offers is None or offers.found_ms > LARGEST_SHARE * baseline_ms:
        return profiled, calibrations, None
    progress.notice("measuring a bridge between the baseline and fast candidates")
    try:
        bridge = _measured_bridge(next(iter(meters.values())), offers.artefact)
    except InfeasibleError as error:
        progress.milestone(f"fast candidates are timed against the unchanged network, as no bridge was: {error.reason}")
        bridge = None
    return profiled, calibrations, bridge


def _profiled(
    setup: Setup,
    runtime: Runtime,
    baseline: tuple[Compressed, bytes],
    meters: Mapping[str, Meter],
    calibrations: Mapping[str, Calibration],
    damages: Callable[[], Sensitivities],
    options: Options,
    progress: Progress,
    offers: Offers | None,
) -> Profile:
    """Profile the network, or its student."""
    first, *others = meters
    task = setup.task
    base, artefact = baseline if task.student is None else export_student(task, runtime, setup.supplies)
    prober = Prober(
        task=task,
        supplies=setup.supplies,
        network=setup.network,
        base=base,
        runtime=runtime,
        meter=meters[first],
        timeout_s=min(PROBE_TIMEOUT_S, options.trial_timeout_s),
        offers=offers,
    )
    single = options.deployments == 1
    found = profile(
        prober,
        setup.space,
        artefact,
        calibrations[first],
        damages,
        progress.notice,
        reduce=single,  # a level that does not pay on one deployment may pay on another
        size_counts=options.compact,
    )
    return replace(
        found,
        distance=str(setup.distance),
        device=first,
        timed=found.timed if single else (),  # the trials' latencies are those of the slowest deployment
        others_ms={device: calibrations[device].median_ms for device in others},
        others_spread={device: calibrations[device].spread for device in others},
    )


def _measured_bridge(meter: Meter, artefact: bytes) -> Bridge:
    """Measure a small model against the baseline in several processes."""
    latencies = [meter.measure(artefact, PROBE, timeout_s=PROBE_TIMEOUT_S) for _ in range(BRIDGE_PROCESSES)]
    return Bridge.of(artefact, reduce(Latency.joined, latencies))


def _bridge(rundir: RunDirectory) -> Bridge | None:
    """Return the bridge of a run; older ones have none, nor has a run that began with another's measurements."""
    return Bridge.read(rundir.path / "baseline", (read_json(rundir.path / CALIBRATION) or {}).get("bridge"))


def _known(found: Profile, first: str) -> dict[str, Timed]:
    """Return an earlier run's calibrations, by device."""
    others = {device: (ms, found.others_spread.get(device, 0.0)) for device, ms in found.others_ms.items()}
    return {first: (found.baseline_ms, found.spread), **others}


def _restore_weights(task: Task, rundir: RunDirectory) -> None:
    """Save the networks' weights, or restore exactly those that the run was started with."""
    for name, file in NETWORKS.items():
        network: nn.Module | None = getattr(task, name)
        path = rundir.path / "baseline" / f"{file}.safetensors"
        if network is not None and path.exists():
            network.load_state_dict(load_file(path))
        elif network is not None:
            write_atomically(path, save({n: tensor.contiguous().clone() for n, tensor in network.state_dict().items()}))


def _save(
    found: Profile,
    space: Space,
    calibrations: Mapping[str, Calibration],
    bridge: Bridge | None,
    rundir: RunDirectory,
) -> None:
    by_device = {device: asdict(calibration) for device, calibration in calibrations.items()}
    first = by_device.pop(found.device)
    known = {"elsewhere": by_device, "bridge": bridge and bridge.write(rundir.path / "baseline")}
    rundir.write_json(CALIBRATION, {**first, **{name: value for name, value in known.items() if value}})
    rundir.write_json(PROFILE, {"space": space.fingerprint, "profile": found.to_dict()})


def read_profile(path: Path) -> Profile | None:
    """Return an earlier run's profile of a network; None if there is none."""
    return Profile.from_dict(json.loads(path.read_text())["profile"]) if path.exists() else None


def _space_of(path: Path, space: Space) -> Space:
    """Return the space of the run whose profile is in a file; the given one if there is none.

    Raises:
        RunDirectoryError: it belongs to another network.
    """
    if not path.exists():
        return space
    found = as_started(space, json.loads(path.read_text())["space"])
    if found is None:
        raise RunDirectoryError(
            f"a run directory is resumed with the space it was started with; {str(path)!r} belongs to "
            "another network, `keep` or runtime. Give another directory with --out DIR."
        )
    return found
