"""Everything before the first trial: the parts of the network, the baseline, its calibrated latency, the profile."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from safetensors.torch import load_file, save
from torch import nn

from ..compressors.batch_norm import fold_batch_norm
from ..compressors.onnx_files.export import Exported, exported
from ..compressors.onnx_files.qdq import owners
from ..compressors.pipeline import Compressed, apply_candidate, space_of, supplies_of
from ..compressors.pruning.inspect import inspect, unstored
from ..compressors.quantization.quantize import without_kernels
from ..compressors.technique import Supplies, Way
from ..errors import InfeasibleError, RunDirectoryError, StudyError
from ..evaluators.ladder.ladder import Ladder
from ..evaluators.ladder.served import Served, checked, source_of
from ..evaluators.meters.isolated_engine import engine
from ..evaluators.meters.latency import Calibration, Meter, meter_for
from ..evaluators.meters.parallel import Meters, at_once, devices_of, meter_at
from ..evaluators.runtime import Runtime
from ..files import write_atomically
from ..profiles.latency_probes import PROBE_TIMEOUT_S, Prober
from ..profiles.level_filter import summary
from ..profiles.profile import Profile
from ..profiles.profiler import profile
from ..spaces.candidate import Candidate
from ..spaces.capabilities import Capabilities
from ..spaces.layers import Network
from ..spaces.space import Space
from ..storage.fingerprint import NETWORKS
from ..storage.run_directory import RunDirectory
from ..studies.distance import OFF
from ..studies.loss_probe import Chosen, choose_distance
from ..studies.task import Task
from .options import Options
from .progress import Progress
from .workers.cluster import Cluster

ZEROS = (0.5, 0.75, 0.9)
"""Shares of a layer's weights that may be zero if compact files count, where zeros cost next to nothing."""

NEEDED = "the unchanged network must be exported, served and timed before anything is compared to it"

Timed = tuple[float, float]
"""A baseline's calibrated milliseconds and their spread."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a network and its runtimes offer to a search.

    Attributes:
        task: the task, with the distance that its students learn by.
        distance: that distance, and why it was chosen.
        supplies: example inputs and calibration data.
        network: its layers and groups.
        space: everything that may be tried, whether it pays or not.
        notes: notes for the network's owner, one sentence each.
        decided: lines of its code that the exporter fixed although they depend on the inputs.

    """

    task: Task
    distance: Chosen
    supplies: Supplies
    network: Network
    space: Space
    notes: tuple[str, ...] = ()
    decided: tuple[str, ...] = ()


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
    offer = offered(task, runtimes, options)
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

    try:
        baseline, artefact = baseline_of(task, runtimes[0], offer.supplies)
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
    except InfeasibleError as error:
        lines = f" (the exporter fixed values that depend on the inputs in {', '.join(offer.decided)})"
        raise StudyError(f"{NEEDED}; it cannot: {error.reason}{lines if offer.decided else ''}") from error
    meter = meter_of(_known(found, next(iter(options.measure_on), "")))
    folder = rundir.path.absolute()  # workers may have working directories of their own
    ladder = Ladder(task, offer.supplies, runtimes, meter, folder, compact=options.compact)
    if found.elsewhere:
        progress.milestone(found.elsewhere)
    if found.dropped:
        progress.milestone(summary(found.dropped, runtimes[0].name))
    return Prepared(space=found.space(offer.space), profile=found, ladder=ladder, meter=meter)


def offered(task: Task, runtimes: Sequence[Runtime], options: Options) -> Setup:
    """Return what a network and its runtimes offer to a search, before anything is tried.

    Raises:
        StudyError: nothing of the network can be compressed.
    """
    needs_onnx = any(served.capabilities.opset is not None for served in runtimes)
    supplies = replace(supplies_of(task, options.batch), onnx=needs_onnx)
    network = inspect(task.base, task.examples, keep=task.keep)
    made: Exported | None = None
    if needs_onnx:
        network, made = written(network, task, supplies)
        supplies = replace(supplies, way=made.way)
    distance = choose_distance(task)
    task = replace(task, distance=OFF if distance.distance is None else distance.distance)
    able = _together([runtime.capabilities for runtime in runtimes], compact=options.compact)
    network = replace(network, left_alone=(*network.left_alone, *without_kernels(network, able)))
    space = space_of(network, able, task)
    if not any(choice.neutral is not None for choice in space.choices):
        raise StudyError(
            "a network must have a convolution or a linear layer that may be compressed; this one has none. "
            "Take names out of the task's `keep`, or give another network."
        )
    return Setup(
        task=task,
        distance=distance,
        supplies=supplies,
        network=network,
        space=space,
        notes=tuple(filter(None, (made.note if made else "", network.beyond))),
        decided=made.decided if made else (),
    )


def written(network: Network, task: Task, supplies: Supplies) -> tuple[Network, Exported]:
    """Return a network that knows which layers' weights its file has, and how such files are exported.

    Raises:
        StudyError: it cannot be exported.
    """
    plain = fold_batch_norm(task.base, task.examples)
    try:
        made = exported(plain, supplies.examples)
        if task.student is not None and not made.way.fixed:  # the network that it replaces is exported as it is
            other = exported(fold_batch_norm(task.model, task.examples), supplies.examples)
            made = made if other.way == Way() else replace(other, graph=made.graph)
    except InfeasibleError as error:
        raise StudyError(f"{NEEDED}; it cannot: {error.reason}") from error
    return unstored(network, set(owners(made.graph, plain).values())), made


def baseline_of(task: Task, runtime: Runtime, supplies: Supplies) -> tuple[Compressed, bytes]:
    """Return the unchanged network, and the file that serves it with the same outputs as PyTorch.

    Raises:
        InfeasibleError: it cannot be exported or served.
    """
    baseline = apply_candidate(replace(task, student=None), Candidate(), supplies, epochs=0)
    artefact, _ = checked(baseline, runtime, supplies, quantized=False)
    return baseline, artefact


def cost_of_rounding(
    task: Task, runtime: Runtime, baseline: Compressed, artefact: bytes, piece: int | None = None
) -> str:
    """Return the unchanged network's metric in a runtime that rounds by itself."""
    with engine(runtime, artefact, threads=1) as built:
        served = float(task.metric(Served(built, piece), task.validation))
    genuine = float(task.metric(baseline.model, task.validation))
    told = f"the unchanged network's metric is {served:.4g} in it and {genuine:.4g} in PyTorch"
    return f"{runtime.name} rounds by itself: {told}"


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
    base, served = baseline if task.student is None else _student(task, offer.supplies, runtimes[0])
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


def _student(task: Task, supplies: Supplies, runtime: Runtime) -> tuple[Compressed, bytes]:
    """Return the unchanged student, and the file that serves it."""
    student = apply_candidate(task, Candidate(), supplies, epochs=0)
    return student, runtime.convert(source_of(student, supplies))


def _together(tables: Sequence[Capabilities], *, compact: bool) -> Capabilities:
    """Return the joint capabilities of the runtimes and of compact files, with channel counts that suit all of them.

    Low-bit weights are for all runtimes or none: a runtime that cannot store them would get another network.
    """
    kinds = [table.float_kinds for table in tables if len(table.bits) > 1]
    return replace(
        tables[0],
        bits=tuple(sorted({bits for table in tables for bits in table.bits}, reverse=True)),
        float_kinds=frozenset.intersection(*kinds) if kinds else frozenset(),
        weight_bits=tuple(b for b in tables[0].weight_bits if all(b in table.weight_bits for table in tables)),
        sparsity=tuple(dict.fromkeys((*(s for table in tables for s in table.sparsity), *(ZEROS if compact else ())))),
        palettes=compact,
        channel_multiple=math.lcm(*(table.channel_multiple for table in tables)),
    )


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
