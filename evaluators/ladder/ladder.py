"""The ladder that a candidate climbs: build → latency (→ memory → energy) → one-shot accuracy → short training.

Latency comes first because it needs no training: a candidate that is too slow ends after seconds. Who is trained is
decided by what the one-shot accuracy lets hope.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from ...compressors.compact.acz import pack
from ...errors import InfeasibleError, blaming
from ...files import write_atomically
from ...spaces.candidate import BITS
from ..device_lock import pause, training, waited_s
from ..evaluator import Host, Request
from ..measurement import Deployment, Infeasible, Latency, Measurement, Measurements, Outcome, ranked, slowest
from ..meters.isolated_engine import engine
from ..parity import Parity
from ..runtime import Runtime
from ..scores import Accuracy, accuracy
from .deployments import time_deployments, within_limit
from .failure import UNTRAINED, why
from .precision import in_low_precision
from .resources import ResourceLimits, too_slow
from .trial_files import ANCESTOR, RUNG, SHAPES, WRITTEN, suffixed

if TYPE_CHECKING:
    from ...compressors.inherited_weights import Ancestor
    from ...compressors.pipeline import Compressed
    from ...compressors.technique import Supplies
    from ...studies.task import Task

AGREEMENT = 0.95
"""Share of examples that must have the same class in PyTorch and in the runtime, without a warning."""


class Ladder:
    """Evaluates a candidate for real: builds it, times it, trains it, scores it, and keeps its files.

    Args:
        task: the network and its data.
        supplies: example inputs and calibration data.
        runtimes: serve the exported models; the meter's baseline is of the first.
        compact: whether a model is kept as a compact file too, whose bytes are its size.

    """

    def __init__(
        self,
        task: Task,
        supplies: Supplies,
        runtimes: Sequence[Runtime],
        *,
        compact: bool = False,
    ) -> None:
        self.task = task
        self.supplies = supplies
        self.runtimes = runtimes
        self.compact = compact

    def evaluate(self, request: Request, host: Host) -> Outcome:
        """Climb the ladder; whatever stops the candidate becomes its reason, never an exception.

        What stops its training leaves it as it was built, timed and scored before that.

        Raises:
            LostError: its files cannot be written, for want of room; that is not the candidate's fault.
        """
        climb = _Evaluation(self, request, host)
        try:
            with training():
                return climb.run()
        except Exception as error:  # a user's loss, metric or forward may fail in any way
            return climb.ended(why(error, climb.rung, climb.folder))


@dataclass(frozen=True)
class _Served:
    """A compressed network in one runtime's own file, and how far that is from PyTorch."""

    runtime: Runtime
    artefact: bytes
    parity: Parity

    @cached_property
    def packed(self) -> bytes:
        """The compact file."""
        return pack(self.artefact)


@dataclass(frozen=True)
class _Scored:
    """A network that was built and scored: one of these for what was not trained, one for what was."""

    compressed: Compressed
    served: _Served
    accuracy: Accuracy
    epochs: float


class _Evaluation:
    """One candidate on its way up."""

    def __init__(self, ladder: Ladder, request: Request, host: Host) -> None:
        self.ladder = ladder
        self.request = request
        self.host = host
        self.task = replace(ladder.task, student=None) if request.unchanged else ladder.task
        self.folder = host.folder / request.folder
        self._ends = time.monotonic() + request.timeout_s - waited_s()
        self.latencies = {latency.deployment: latency for latency in request.latencies}
        self.rung = "build"
        self.seconds: dict[str, float] = {}
        self.spending = ResourceLimits(request, host.meters, compact=ladder.compact)
        self.one_shot: dict[str, float] = {}
        self.doubted = ""
        self.failure: Infeasible | None = None
        self.ancestor: Ancestor | None = None

    @property
    def decides(self) -> Latency | None:
        """The latency so far that decides: on the slowest device that of the fastest runtime."""
        return slowest(list(self.latencies.values())) if self.latencies else None

    @property
    def deadline(self) -> float:
        """When the candidate's time is over, by `time.monotonic`; later for all that it waits for measurements."""
        return self._ends + waited_s()

    @property
    def _left(self) -> float:
        """Seconds that are left of the candidate's time, at least one."""
        return max(1.0, self.deadline - time.monotonic())

    def run(self) -> Outcome:
        """Return a measurement at each place that can serve the candidate in time, the deciding one first."""
        self._inherit()
        compressed, served = self._build(epochs=0)
        places = self._within_limits(served)
        if self.request.known:
            return self._completed(self.request.known, places)
        served = [it for it in served if any(place.runtime == it.runtime.name for place in places)]
        with self._on("one-shot"):
            best = {it.runtime.name: _Scored(compressed, it, self._score(it, "validation"), 0.0) for it in served}
        self.one_shot = {name: scored.accuracy.value for name, scored in best.items()}
        self._promote(best.values())
        if self.request.epochs:
            try:
                best |= self._trained(best)
            except Exception as error:
                self.failure = why(error, self.rung, self.folder)
        measurements = [m for scored in best.values() for m in self._measurements(scored, places)]
        self._keep(list(best.values()))
        return ranked(measurements)

    def _trained(self, best: Mapping[str, _Scored]) -> dict[str, _Scored]:
        """Return what training has made better, by the names of the runtimes."""
        compressed, trained = self._build(epochs=self.request.epochs)
        with self._on("accuracy"):
            scored = {
                it.runtime.name: _Scored(compressed, it, self._score(it, "validation"), self.request.epochs)
                for it in trained
                if it.runtime.name in best
            }
        return {name: after for name, after in scored.items() if after.accuracy.value >= best[name].accuracy.value}

    def _promote(self, scored: Iterable[_Scored]) -> None:
        """Continue to the training, if the candidate may reach the front.

        Raises:
            InfeasibleError: even an optimistic estimate leaves the candidate behind the front.
        """
        promotion = self.request.promotion
        if promotion is None or not self.request.epochs:
            return
        doubts = [
            promotion.doubt(each.accuracy.value, latency, self._size(each.served))
            for each in scored
            for place, latency in self.latencies.items()
            if place.runtime == each.served.runtime.name
        ]
        if all(doubts):
            self.doubted = doubts[0]
            if not promotion.spared:
                raise InfeasibleError(doubts[0], rung="one-shot")

    def _inherit(self) -> None:
        """Read the weights to start from, and keep them beside the trial's own: theirs may be tidied away."""
        from ...compressors.inherited_weights import Ancestor

        if not self.request.ancestor:
            return
        self.ancestor = Ancestor.read(self.host.folder / self.request.ancestor)
        if self.ancestor is not None and not self.request.test:
            write_atomically(self.folder / ANCESTOR, self.ancestor.to_bytes())

    def _build(self, *, epochs: float) -> tuple[Compressed, list[_Served]]:
        """Build the candidate for each runtime, and check that it computes what PyTorch does.

        Raises:
            InfeasibleError: no runtime can serve it; the first one's reason.
        """
        from ...compressors.pipeline import apply_candidate

        ladder = self.ladder
        with self._on("train" if epochs else "build"):
            compressed = apply_candidate(
                self.task,
                self.request.candidate,
                ladder.supplies,
                epochs=epochs,
                seed=self.request.seed,
                ancestor=self.ancestor,
                deadline=self.deadline,
                pause=pause,
            )
            served, reasons = [], []
            for runtime in ladder.runtimes:
                try:
                    served.append(self._serve(compressed, runtime))
                except InfeasibleError as error:
                    reasons.append(error)
        if not served:
            raise reasons[0]
        return compressed, served

    def _serve(self, compressed: Compressed, runtime: Runtime) -> _Served:
        from .served import checked

        pause()
        rounded = bool(self.request.candidate[BITS])
        made = checked(compressed, runtime, self.ladder.supplies, quantized=rounded, patience_s=self._left)
        return _Served(runtime, *made)

    def _within_limits(self, served: list[_Served]) -> tuple[Deployment, ...]:
        """Measure what a network costs at each place, and return those where that is not surely too much.

        Raises:
            InfeasibleError: it costs too much everywhere, or something cannot be measured anywhere.
        """
        by_place = {Deployment(it.runtime.name, name): it for it in served for name in self.host.meters}
        if self.request.max_size_bytes is not None or not self.ladder.compact:  # packing takes a while
            self.spending.weigh({place: self._size(it) for place, it in by_place.items()})
        places = self._in_time({place: it.artefact for place, it in by_place.items()})
        return self.spending.within({place: by_place[place].artefact for place in places}, self._on)

    def _size(self, it: _Served) -> int:
        return len(it.packed) if self.ladder.compact else len(it.artefact)

    def _completed(self, known: Measurements, places: Collection[Deployment]) -> Measurements:
        """Return what was known of the candidate with what was missing."""
        return ranked(self.spending.added(m) for m in known if m.deployment in places)

    def ended(self, stopped: Infeasible) -> Infeasible:
        """Return why the candidate came no further, with what is known of it."""
        accuracy = max(self.one_shot.values(), default=None)
        return self.spending.least(replace(stopped, latency=self.decides, one_shot_accuracy=accuracy))

    def _in_time(self, artefacts: Mapping[Deployment, bytes]) -> tuple[Deployment, ...]:
        """Time a network at each place where that is not known, and return those where it is not surely too slow.

        Raises:
            InfeasibleError: it is too slow everywhere, or cannot be timed on some device.
        """
        if artefacts.keys() - self.latencies.keys():
            with self._on("latency"):
                self.latencies |= time_deployments(self.host.meters, artefacts, self.latencies, self._left)
        latencies = {place: self.latencies[place] for place in artefacts if place in self.latencies}
        target_ms = self.request.target_ms
        if target_ms is None:
            return tuple(latencies)
        fast = within_limit({place: latency.least_ms for place, latency in latencies.items()}, target_ms)
        if not fast:
            raise InfeasibleError(too_slow(slowest(list(latencies.values())), target_ms), rung="latency")
        return fast

    def _measurements(self, scored: _Scored, places: Sequence[Deployment]) -> list[Measurement]:
        """Return what is known of a network with one runtime, once for each device."""
        it, compressed, task = scored.served, scored.compressed, self.ladder.task
        here = [place for place in places if place.runtime == it.runtime.name]
        test: Accuracy | None = None
        doubts = [] if self.failure is None else [UNTRAINED.format(self.failure.reason)]
        if self.request.test:
            if task.test is not None:
                with self._on("test"):
                    test = self._score(it, "test")
            if it.parity.agreement is not None and it.parity.agreement < AGREEMENT:
                doubts.append(
                    f"on {it.runtime.name} it has another class than in PyTorch for {1 - it.parity.agreement:.0%} "
                    "of the examples compared"
                )
        everywhere = Measurement(
            accuracy=scored.accuracy.value,
            latency=self.latencies[here[0]],
            size_bytes=self._size(it),
            params=compressed.params,
            macs=compressed.macs,
            test_accuracy=test and test.value,
            one_shot_accuracy=self.one_shot[it.runtime.name],
            doubted=self.doubted,
            failure=self.failure,
            rung="trained" if self.request.test else "short",
            epochs=scored.epochs,
            parity=it.parity.difference,
            agreement=it.parity.agreement,
            seconds=self.seconds,
            file=self._file(it.runtime),
            scores=scored.accuracy.scores,
            test_scores=test.scores if test else "",
        )
        meant = compressed.low_precision * compressed.macs * len(self.ladder.supplies.examples[0])
        found = []
        for place in here:
            warnings: list[str] = []
            executed = None
            if self.request.test:
                executed = in_low_precision(self.host.meters[place.device], it.artefact, place, meant, warnings)
            else:  # at the end it is timed anew
                warnings += self.latencies[place].doubts
            latency, warned = self.latencies[place], (*warnings, *doubts)
            measured = replace(everywhere, latency=latency, low_precision=executed, warnings=warned)
            found.append(self.spending.added(measured))
        return found

    def _score(self, it: _Served, split: str) -> Accuracy:
        from .served import Served

        task = self.ladder.task
        with engine(it.runtime, it.artefact, threads=1, patience_s=self._left) as built, blaming("metric"):
            found = accuracy(task.metric, task.each, Served(built, self.ladder.supplies.piece), getattr(task, split))
        if not np.isfinite(found.value):
            why = f"the metric must be a finite number; on the {split} data it is {found.value}"
            raise InfeasibleError(why, rung=self.rung)
        return found

    def _keep(self, models: Sequence[_Scored]) -> None:
        """Write the files of a candidate: those of the first runtime for all, and each other's own."""
        from safetensors.torch import save

        folder, supplies = self.folder, self.ladder.supplies
        inputs = [x[: supplies.piece].numpy() for x in supplies.calibration[0]]
        predictions = {f"input{i}": x for i, x in enumerate(inputs)}
        for scored in models:
            it = scored.served
            with engine(it.runtime, it.artefact, threads=1, patience_s=self._left) as built:
                predictions[suffixed("output", it.runtime, self.ladder.runtimes)] = np.asarray(built.infer(inputs)[0])
            file = folder / self._file(it.runtime)
            write_atomically(file, it.artefact)
            if self.ladder.compact:
                write_atomically(file.with_suffix(".acz"), it.packed)
        first = models[0].compressed
        if first.onnx:
            write_atomically(folder / "canonical.onnx", first.onnx)
        write_atomically(folder / "candidate.json", self.request.candidate.to_json().encode())
        write_atomically(folder / WRITTEN, json.dumps(first.written.to_dict()).encode())
        write_atomically(folder / "model.safetensors", save(first.state()))
        if first.ancestor is not None and not self.request.test:
            write_atomically(folder / SHAPES, first.ancestor.to_bytes())
        np.savez_compressed(archive := io.BytesIO(), **predictions)  # type: ignore[arg-type]
        write_atomically(folder / "predictions.npz", archive.getvalue())
        (folder / RUNG).unlink(missing_ok=True)

    def _file(self, runtime: Runtime) -> str:
        return suffixed("model", runtime, self.ladder.runtimes) + runtime.capabilities.reads[0]

    @contextmanager
    def _on(self, rung: str) -> Iterator[None]:
        self.rung = rung
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / RUNG).write_text(rung)
        started = time.monotonic()
        if started > self.deadline:
            raise InfeasibleError(
                f"its time of {self.request.timeout_s:g} s was over (--trial-timeout gives more)", rung=rung
            )
        yield
        self.seconds[rung] = round(self.seconds.get(rung, 0.0) + time.monotonic() - started, 3)
