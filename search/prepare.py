"""Everything before the first trial: the parts of the network, the baseline, its calibrated latency, the profile."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from safetensors.torch import load_file, save
from torch import nn

from ..compressors.pipeline import Compressed
from ..compressors.technique import Supplies
from ..errors import RunDirectoryError
from ..evaluators.ladder.ladder import Ladder
from ..evaluators.meters.latency import Calibration, Meter, meter_for
from ..evaluators.meters.parallel import Meters, at_once, devices_of, meter_at
from ..evaluators.runtime import Runtime
from ..files import write_atomically
from ..profiles.baseline import baseline_required, cost_of_rounding, export_baseline, export_student
from ..profiles.latency_probes import PROBE_TIMEOUT_S, Prober
from ..profiles.level_filter import summary
from ..profiles.profile import Profile
from ..profiles.profiler import profile
from ..profiles.setup import Setup, set_up
from ..spaces.space import Space
from ..storage.fingerprint import NETWORKS
from ..storage.run_directory import RunDirectory
from ..studies.task import Task
from .options import Options
from .progress import Progress
from .workers.cluster import Cluster

Timed = tuple[float, float]
"""A baseline's calibrated milliseconds and their spread."""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """The start of a search.

    Attributes:
        space: the choices on offer, without levels that do not pay.
        profile: the profile of the network.
        ladder: evaluates candidates.
        meter: times them on each of the study's devices.

    """

    space: Space
    profile: Profile
    ladder: Ladder
    meter: Meter | Meters


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
    progress.notice("finding layers and groups")
    offer = set_up(task, runtimes, batch=options.batch, compact=options.compact)
    task = offer.task
    for note in offer.notes:
        progress.milestone(note)
    if task.fit is None and not offer.distance.softened:
        progress.milestone(f"the distance to the teacher's outputs is {offer.distance}")
    progress.notice("exporting the baseline")

    def meter_of(baselines: Mapping[str, Timed]) -> Meter | Meters:
        def local(device: str) -> Meter:
            return _meter(runtimes[0], artefact, offer.supplies, options, baselines.get(device))

        if cluster is None or not options.measure_on:
            return local("")
        return Meters({it.name: it.meter(local(it.name), progress.notice) for it in cluster.devices})

    with baseline_required(offer.decided):
        baseline, artefact = export_baseline(task, runtimes[0], offer.supplies)
        found = kept_profile(rundir.path / "profile.json", offer.space)
        if found is None:
            if runtimes[0].capabilities.rounds:
                progress.milestone(cost_of_rounding(task, runtimes[0], baseline, artefact, offer.supplies.piece))
            progress.notice("calibrating the baseline's latency")
            calibrations = _calibrations(meter_of({}))
            found = _profiled(
                task,
                offer,
                runtimes=runtimes,
                baseline=(baseline, artefact),
                meter=meter_of({device: (each.median_ms, each.spread) for device, each in calibrations.items()}),
                calibrations=calibrations,
                options=options,
                progress=progress,
            )
            found = replace(found, distance=str(offer.distance))
            _save(found, offer.space, calibrations, rundir)
    meter = meter_of(_known(found, next(iter(options.measure_on), "")))
    folder = rundir.path.absolute()  # workers may have working directories of their own
    ladder = Ladder(task, offer.supplies, runtimes, meter, folder, compact=options.compact)
    if found.elsewhere:
        progress.milestone(found.elsewhere)
    if found.dropped:
        progress.milestone(summary(found.dropped, runtimes[0].name))
    return Prepared(space=found.space(offer.space), profile=found, ladder=ladder, meter=meter)


def _profiled(
    task: Task,
    offer: Setup,
    *,
    runtimes: Sequence[Runtime],
    baseline: tuple[Compressed, bytes],
    meter: Meter | Meters,
    calibrations: Mapping[str, Calibration],
    options: Options,
    progress: Progress,
) -> Profile:
    """Return what trying its parts shows about a network, or about its student."""
    first, *others = devices_of(meter)
    base, served = baseline if task.student is None else export_student(task, runtimes[0], offer.supplies)
    prober = Prober(
        task=task,
        supplies=offer.supplies,
        network=offer.network,
        base=base,
        runtime=runtimes[0],
        meter=meter_at(meter, first),
        timeout_s=min(PROBE_TIMEOUT_S, options.trial_timeout_s),
    )
    found = profile(
        prober,
        offer.space,
        served,
        calibrations[first],
        progress.notice,
        reduce=options.places == 1,  # what does not pay at one place may at another
        size_counts=options.compact,
    )
    return replace(
        found,
        device=first,
        timed=found.timed if options.places == 1 else (),  # the trials' latencies are those of the slowest place
        others_ms={device: calibrations[device].median_ms for device in others},
        others_spread={device: calibrations[device].spread for device in others},
    )


def _known(found: Profile, first: str) -> dict[str, Timed]:
    """Return an earlier run's calibrations, by device."""
    others = {device: (ms, found.others_spread.get(device, 0.0)) for device, ms in found.others_ms.items()}
    return {first: (found.baseline_ms, found.spread), **others}


def _calibrations(meter: Meter | Meters) -> dict[str, Calibration]:
    """Time the unchanged network on each device."""
    devices = devices_of(meter)
    return dict(zip(devices, at_once([meter_at(meter, device).calibrate for device in devices]), strict=True))


def _restore_weights(task: Task, rundir: RunDirectory) -> None:
    """Save the networks' weights, or restore exactly those that the run was started with."""
    for name, file in NETWORKS.items():
        network: nn.Module | None = getattr(task, name)
        path = rundir.path / "baseline" / f"{file}.safetensors"
        if network is not None and path.exists():
            network.load_state_dict(load_file(path))
        elif network is not None:
            write_atomically(path, save({n: tensor.contiguous().clone() for n, tensor in network.state_dict().items()}))


def _meter(runtime: Runtime, artefact: bytes, supplies: Supplies, options: Options, baseline: Timed | None) -> Meter:
    baseline_ms, baseline_spread = baseline or (None, 0.0)
    return meter_for(
        runtime.name,
        baseline=artefact,
        inputs=[x.numpy() for x in supplies.examples],
        threads=options.threads,
        baseline_ms=baseline_ms,
        baseline_spread=baseline_spread,
        percentile=options.percentile,
    )


def _save(found: Profile, space: Space, calibrations: Mapping[str, Calibration], rundir: RunDirectory) -> None:
    by_device = {device: asdict(calibration) for device, calibration in calibrations.items()}
    first = by_device.pop(found.device)
    rundir.write_json("calibration.json", {**first, **({"elsewhere": by_device} if by_device else {})})
    rundir.write_json("profile.json", {"space": space.fingerprint, "profile": found.to_dict()})


def kept_profile(path: Path, space: Space) -> Profile | None:
    """Return an earlier run's profile of a network; None if there is none.

    Raises:
        RunDirectoryError: it belongs to another network.
    """
    if not path.exists():
        return None
    content = json.loads(path.read_text())
    if content["space"] != space.fingerprint:
        raise RunDirectoryError(
            f"a run directory is resumed with the space it was started with; {str(path)!r} belongs to "
            "another network, `keep` or runtime. Give another directory with --out DIR."
        )
    return Profile.from_dict(content["profile"])
