"""The ladder that a candidate climbs: build → latency → one-shot accuracy → short training.

Latency comes first because it needs no training: a candidate that is too slow ends after seconds.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from safetensors.torch import save_file

from ..compressors.pipeline import Compressed, compress
from ..compressors.technique import Supplies
from ..errors import InfeasibleError
from ..evaluators.evaluator import Request
from ..evaluators.latency import SEARCH, Meter
from ..evaluators.measurement import Infeasible, Latency, Measurement, Outcome
from ..evaluators.runtimes import Runtime
from ..evaluators.served import Served, parity
from ..spaces.candidate import BITS
from ..studies.task import Loader, Task
from .rundir import write_atomically

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
        request = self.request
        one_shot_accuracy = None
        compressed, artefact, difference = self._build(epochs=0)
        if self.latency is None:
            with self._on("latency"):
                left = max(1.0, self.deadline - time.monotonic())
                self.latency = self.ladder.meter.measure(artefact, SEARCH, timeout_s=left)
            if request.target_ms is not None and self.latency.low_ms > request.target_ms:
                raise InfeasibleError(_too_slow(self.latency, request.target_ms), rung="latency")
            with self._on("one-shot"):
                one_shot_accuracy = self._score(artefact, self.ladder.task.validation)
        if request.epochs:
            compressed, artefact, difference = self._build(epochs=request.epochs)
        with self._on("accuracy"):
            accuracy = self._score(artefact, self.ladder.task.validation)
            test = self.ladder.task.test if request.test else None
            test_accuracy = None if test is None else self._score(artefact, test)
        measurement = Measurement(
            accuracy=accuracy,
            latency=self.latency,
            size_bytes=len(artefact),
            params=compressed.params,
            macs=compressed.macs,
            test_accuracy=test_accuracy,
            one_shot_accuracy=one_shot_accuracy,
            rung="final" if request.test else "short",
            parity=difference,
            seconds=self.seconds,
        )
        self._keep(compressed, artefact)
        return measurement

    def _build(self, *, epochs: float) -> tuple[Compressed, bytes, float]:
        ladder, request = self.ladder, self.request
        with self._on("train" if epochs else "build"):
            compressed = compress(
                ladder.task,
                request.candidate,
                ladder.supplies,
                epochs=epochs,
                seed=request.seed,
                deadline=self.deadline,
            )
            artefact = ladder.runtime.flavour(compressed.onnx)
            with ladder.runtime.build(artefact, threads=1) as engine:
                batches = ladder.supplies.calibration[:PARITY_BATCHES]
                quantized = bool(request.candidate[BITS])
                difference = parity(compressed.model, Served(engine), batches, quantized=quantized)
        return compressed, artefact, difference

    def _score(self, artefact: bytes, loader: Loader) -> float:
        with self.ladder.runtime.build(artefact, threads=1) as engine:
            value = float(self.ladder.task.metric(Served(engine), loader))
        if not np.isfinite(value):
            raise InfeasibleError(f"the metric is {value}", rung=self.rung)
        return value

    def _keep(self, compressed: Compressed, artefact: bytes) -> None:
        folder = self.folder
        inputs = self.ladder.supplies.calibration[0]
        with self.ladder.runtime.build(artefact, threads=1) as engine:
            outputs = engine.infer([x.numpy() for x in inputs])[0]
        write_atomically(folder / "model.onnx", artefact)
        write_atomically(folder / "canonical.onnx", compressed.onnx)
        write_atomically(folder / "candidate.json", self.request.candidate.to_json().encode())
        save_file(compressed.state(), folder / "model.safetensors")
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
