"""The ladder that a candidate climbs: build → latency → one-shot accuracy → short training.

Latency comes first because it needs no training: a candidate that is too slow ends after seconds.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InfeasibleError
from ..evaluators.evaluator import Request
from ..evaluators.latency import SEARCH, Meter
from ..evaluators.measurement import Infeasible, Latency, Measurement, Outcome
from ..evaluators.runtimes import Runtime
from ..spaces.candidate import BITS
from .rundir import write_atomically

if TYPE_CHECKING:
    from ..compressors.pipeline import Compressed
    from ..compressors.technique import Supplies
    from ..studies.task import Loader, Task

PARITY_BATCHES = 2

RUNG = "rung"
"""File in a request's folder that names the rung it is on."""


class Ladder:
    """Evaluates a candidate for real: builds it, times it, trains it, scores it, and keeps its files.

    Args:
        task: the network and its data.
        supplies: example inputs and calibration data.
        runtime: serves the exported models.
        meter: times them.
        folder: the run directory; each request names its own folder below it.

    """

    def __init__(self, task: Task, supplies: Supplies, runtime: Runtime, meter: Meter, folder: Path) -> None:
        self.task = task
        self.supplies = supplies
        self.runtime = runtime
        self.meter = meter
        self.folder = folder

    def evaluate(self, request: Request) -> Outcome:
        """Climb the ladder; whatever stops the candidate becomes its reason, never an exception."""
        climb = _Climb(self, request)
        try:
            return climb.run()
        except InfeasibleError as stop:
            return Infeasible(reason=stop.reason, rung=stop.rung, latency=climb.latency)
        except MemoryError:
            return Infeasible(reason="it does not fit into memory", rung=climb.rung, latency=climb.latency)
        except Exception as error:  # a user's loss, metric or forward may fail in any way
            reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            climb.folder.mkdir(parents=True, exist_ok=True)
            (climb.folder / "error.txt").write_text(traceback.format_exc())
            return Infeasible(reason=reason, rung=climb.rung, latency=climb.latency)


@dataclass(frozen=True)
class _Built:
    """A candidate that was built: the network, the file that its runtime serves, how far the two differ."""

    compressed: Compressed
    artefact: bytes
    parity: float


class _Climb:
    """One candidate on its way up."""

    def __init__(self, ladder: Ladder, request: Request) -> None:
        self.ladder = ladder
        self.request = request
        self.folder = ladder.folder / request.folder
        self.deadline = time.monotonic() + request.timeout_s
        self.latency = request.latency
        self.rung = "build"
        self.seconds: dict[str, float] = {}

    def run(self) -> Outcome:
        request, task = self.request, self.ladder.task
        model = self._build(epochs=0)
        if self.latency is None:
            with self._on("latency"):
                left = max(1.0, self.deadline - time.monotonic())
                self.latency = self.ladder.meter.measure(model.artefact, SEARCH, timeout_s=left)
            if request.target_ms is not None and self.latency.low_ms > request.target_ms:
                raise InfeasibleError(_too_slow(self.latency, request.target_ms), rung="latency")
        with self._on("one-shot"):
            accuracy = one_shot_accuracy = self._score(model.artefact, task.validation)
        epochs = 0.0
        if request.epochs:
            trained = self._build(epochs=request.epochs)
            with self._on("accuracy"):
                trained_accuracy = self._score(trained.artefact, task.validation)
            if trained_accuracy >= accuracy:
                model, accuracy, epochs = trained, trained_accuracy, request.epochs
        test_accuracy = None
        if request.test and task.test is not None:
            with self._on("test"):
                test_accuracy = self._score(model.artefact, task.test)
        self._keep(model)
        return Measurement(
            accuracy=accuracy,
            latency=self.latency,
            size_bytes=len(model.artefact),
            params=model.compressed.params,
            macs=model.compressed.macs,
            test_accuracy=test_accuracy,
            one_shot_accuracy=one_shot_accuracy,
            rung="trained" if request.test else "short",
            epochs=epochs,
            parity=model.parity,
            seconds=self.seconds,
        )

    def _build(self, *, epochs: float) -> _Built:
        """Build the candidate, and check that the runtime computes what PyTorch does."""
        from ..compressors.pipeline import compress
        from ..evaluators.served import Served, parity, source_of

        ladder, candidate = self.ladder, self.request.candidate
        with self._on("train" if epochs else "build"):
            compressed = compress(
                ladder.task,
                candidate,
                ladder.supplies,
                epochs=epochs,
                seed=self.request.seed,
                deadline=self.deadline,
            )
            artefact = ladder.runtime.convert(source_of(compressed, ladder.supplies))
            with ladder.runtime.build(artefact, threads=1) as engine:
                batches = ladder.supplies.calibration[:PARITY_BATCHES]
                difference = parity(compressed.model, Served(engine), batches, quantized=bool(candidate[BITS]))
        return _Built(compressed, artefact, difference)

    def _score(self, artefact: bytes, loader: Loader) -> float:
        from ..evaluators.served import Served

        with self.ladder.runtime.build(artefact, threads=1) as engine:
            value = float(self.ladder.task.metric(Served(engine), loader))
        if not np.isfinite(value):
            raise InfeasibleError(f"the metric is {value}", rung=self.rung)
        return value

    def _keep(self, model: _Built) -> None:
        from safetensors.torch import save

        folder = self.folder
        inputs = self.ladder.supplies.calibration[0]
        with self.ladder.runtime.build(model.artefact, threads=1) as engine:
            outputs = engine.infer([x.numpy() for x in inputs])[0]
        write_atomically(folder / "model.onnx", model.artefact)
        write_atomically(folder / "canonical.onnx", model.compressed.onnx)
        write_atomically(folder / "candidate.json", self.request.candidate.to_json().encode())
        write_atomically(folder / "model.safetensors", save(model.compressed.state()))
        arrays = {f"input{i}": x.numpy() for i, x in enumerate(inputs)}
        np.savez_compressed(folder / "predictions.npz", output=outputs, **arrays)  # type: ignore[arg-type]
        (folder / RUNG).unlink(missing_ok=True)

    @contextmanager
    def _on(self, rung: str) -> Iterator[None]:
        self.rung = rung
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / RUNG).write_text(rung)
        started = time.monotonic()
        if started > self.deadline:
            raise InfeasibleError(f"its time of {self.request.timeout_s:g} s was over", rung=rung)
        yield
        self.seconds[rung] = round(self.seconds.get(rung, 0.0) + time.monotonic() - started, 3)


def _too_slow(latency: Latency, target_ms: float) -> str:
    interval = f"{latency.median_ms:.2f} ms [{latency.low_ms:.2f}, {latency.high_ms:.2f}]"
    return f"{interval} is over the target of {target_ms:g} ms"
