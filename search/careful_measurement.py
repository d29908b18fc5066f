"""The careful measurement: models take turns on their devices while nothing trains."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from ..errors import InfeasibleError
from ..evaluators.measurement import Deployment, Latency, Measurement, Measurements, ranked
from ..evaluators.meters.latency import CAREFUL, Meter, settled
from ..evaluators.meters.memory import crowds_cache
from ..evaluators.meters.parallel import at_once
from ..pareto.model import Model
from .dispatch import RunContext

logger = logging.getLogger(__name__)

ROUNDS = replace(CAREFUL, min_windows=6)
"""All turns of one model, each in a process of its own: what differs most is how fast it is from process to process."""

ROUND = replace(CAREFUL, min_windows=2, max_windows=2, gap_s=0.05)
"""One turn of one model."""


def measure_carefully(
    context: RunContext,
    meters: Mapping[str, Meter],
    models: Sequence[Model],
    on_measured: Callable[[Model, Measurements], object],
) -> None:
    """Measure trained models in all their deployments, each until its latency is settled.

    The models take turns, each time in a fresh process, so that the windows of one model are far apart in time.

    Args:
        context: the run, whose directory has the models' files.
        meters: measure the models, one for each device, by its name.
        models: models with the measurements of their final training.
        on_measured: called with each model that was measured on every device, and its measurements.

    Raises:
        Interrupted: the user wants to stop.
    """
    waiting = [_Subject(model, measured) for model in models for measured in model.measurements]
    done: dict[str, list[Measurement]] = {model.id: [] for model in models}
    while waiting:
        for number, subjects in enumerate(_side_by_side(waiting)):
            context.progress.notice(f"measuring carefully · {len(waiting)} left · {number + 1} of this round")
            with context.interrupts.safe():
                ended = at_once([partial(_take_turn, context, meters, subject) for subject in subjects])
            for subject, found in zip(subjects, ended, strict=True):
                if isinstance(found, Measurement):
                    done[subject.model.id].append(found)
                if isinstance(found, InfeasibleError):
                    why = f"failed on {subject.deployment} at the end: {found.reason}"
                    context.progress.warning(f"model {subject.model.id} {why}")
                if found is not None:
                    waiting.remove(subject)
            model = subjects[0].model
            if all(other.model is not model for other in waiting) and _complete(done[model.id], model):
                on_measured(model, ranked(done[model.id]))
                logger.info("model %s: final measurement finished", model.id)


class _Subject:
    """A model in one deployment, and the latency of its turns so far."""

    def __init__(self, model: Model, measured: Measurement) -> None:
        self.model = model
        self.measured = measured
        self.latency: Latency | None = None

    @property
    def deployment(self) -> Deployment:
        return self.measured.deployment

    @property
    def settled(self) -> bool:
        return self.latency is not None and settled(self.latency.ratios, ROUNDS)

    def add(self, meter: Meter, folder: Path) -> None:
        """Measure for one more round."""
        latency = meter.measure(self._file(folder), ROUND, runtime=self.deployment.runtime)
        self.latency = latency if self.latency is None else latency.joined(self.latency)

    def complete(self, meter: Meter, folder: Path, *, energy: bool) -> Measurement:
        """Return the measurement with its careful latency, its memory, and its energy if wanted."""
        assert self.latency is not None
        memory_bytes = meter.memory(self._file(folder), runtime=self.deployment.runtime)
        energy_mj = meter.energy(self._file(folder), runtime=self.deployment.runtime) if energy else None
        return replace(
            self.measured,
            latency=self.latency,
            rung="final",
            memory_bytes=memory_bytes,
            energy_mj=energy_mj,
            warnings=(*self.measured.warnings, *self._doubts(self.latency)),
        )

    def _doubts(self, latency: Latency) -> Iterator[str]:
        """Yield why the latency may differ elsewhere, or at another time."""
        yield from (f"{doubt} on {self.deployment}" for doubt in latency.doubts)
        cache = latency.environment.get("last_level_cache", "").partition(" | ")[0]  # of the machine that timed it
        if crowds_cache(self.measured.size_bytes, int(cache or 0) or None):
            yield "its weights fill much of the last-level cache: it may take twice as long if others use the cache too"

    def _file(self, folder: Path) -> bytes:
        return (folder / self.model.path / self.measured.file).read_bytes()


def _take_turn(
    context: RunContext, meters: Mapping[str, Meter], subject: _Subject
) -> Measurement | InfeasibleError | None:
    """Measure a model once more; return its final outcome if it has one."""
    meter, energy = meters[subject.deployment.device], context.options.max_energy_mj is not None
    try:
        subject.add(meter, context.rundir.path)
        return subject.complete(meter, context.rundir.path, energy=energy) if subject.settled else None
    except InfeasibleError as error:
        return error


def _complete(measured: Sequence[Measurement], model: Model) -> bool:
    """Return whether a model could be measured on every device on which its trial was."""
    return {m.deployment.device for m in measured} == {m.deployment.device for m in model.measurements}


def _side_by_side(waiting: Sequence[_Subject]) -> list[list[_Subject]]:
    """Return subjects in their order, grouped if they can run at the same time: of one model, on all devices."""
    turns: defaultdict[tuple[str, str], list[_Subject]] = defaultdict(list)
    for subject in waiting:
        turns[subject.model.id, subject.deployment.runtime].append(subject)
    return list(turns.values())
