"""How other tools compress the same network: each the way its own documentation recommends, with the same data.

A tool is a function that yields what it makes: a name, and a call that makes it. All begin with the same network, or
with its float ONNX file, whose batch norms are folded; all see the same calibration images; and whatever is fine-tuned
is so by the training loop of this library with its default settings, for the same number of passes.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib.util
import io
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch_pruning
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import nn

from autocompress.compressors.batch_norm import estimate_batch_norm, fold_batch_norm
from autocompress.compressors.distillation.distill import distil
from autocompress.compressors.onnx_files.export import to_onnx
from autocompress.compressors.technique import Supplies
from autocompress.evaluators.device_lock import pause
from autocompress.evaluators.ladder.served import Served
from autocompress.evaluators.runtime import Engine, Runtime
from autocompress.studies.task import Task

RATIOS = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875)
"""Shares of channels that torch-pruning takes away, of each layer or of all together."""

MOST = 0.875
"""What of a layer may go when one threshold decides about all of them."""

MAX_DROP = 0.005
"""Accuracy that NNCF's accuracy control may give away."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What every tool is given.

    Attributes:
        task: the trained network and its data.
        supplies: example inputs and the calibration images.
        runtime: ONNX Runtime, one thread.
        epochs: passes over the training data for whatever is fine-tuned.
        ratios: shares of channels that are pruned.
        quick: few points only.

    """

    task: Task
    supplies: Supplies
    runtime: Runtime
    epochs: float
    ratios: Sequence[float] = RATIOS
    quick: bool = False

    def exported(self, network: nn.Module) -> bytes:
        """Return a float network as an ONNX file with folded batch norms."""
        file: bytes = to_onnx(
            fold_batch_norm(network, self.supplies.examples), self.supplies.examples
        ).SerializeToString()
        return file

    @property
    def images(self) -> list[NDArray[np.float32]]:
        """The calibration images, one by one."""
        return [image.numpy()[None] for batch in self.supplies.calibration for image in batch[0]]

    def score(self, engine: Engine, split: str = "validation") -> float:
        """Return the task's metric of what an engine answers."""
        return float(self.task.metric(Served(engine), getattr(self.task, split)))


@dataclass(frozen=True)
class Made:
    """An ONNX file, and the float network of the same shapes."""

    artefact: bytes
    network: nn.Module


Points = Iterator[tuple[str, Callable[[], Made]]]


def onnxruntime(job: Job) -> Points:
    """Quantize with ONNX Runtime: pre-processed, Q/DQ, and the types that its documentation names for this CPU."""
    ways: list[tuple[str, dict[str, Any]]] = [
        ("INT8, min-max", {}),
        ("INT8, entropy", {"calibrate_method": CalibrationMethod.Entropy}),
        ("INT8, percentile", {"calibrate_method": CalibrationMethod.Percentile}),
        ("INT8, min-max, weights per channel", {"per_channel": True}),
        ("INT8, min-max, signed activations", {"activation_type": QuantType.QInt8}),
    ]
    base = functools.cache(lambda: job.exported(job.task.model))
    for name, settings in ways[: 1 if job.quick else None]:
        yield name, functools.partial(_static, job, base, settings)


def _static(job: Job, base: Callable[[], bytes], settings: Mapping[str, Any]) -> Made:
    return Made(statically(job, base(), **settings), job.task.model)


def statically(job: Job, artefact: bytes, **settings: Any) -> bytes:
    """Return an ONNX file quantized by ``quantize_static`` after its own pre-processing.

    Activations are unsigned and weights signed, with the reduced range where the CPU has no VNNI.
    """
    with tempfile.TemporaryDirectory(prefix="autocompress-") as name:
        folder = Path(name)
        (folder / "float.onnx").write_bytes(artefact)
        quant_pre_process(folder / "float.onnx", folder / "prepared.onnx")
        chosen = {
            "activation_type": QuantType.QUInt8,
            "weight_type": QuantType.QInt8,
            "reduce_range": not has_vnni(),
            "calibrate_method": CalibrationMethod.MinMax,
            **settings,
        }
        with contextlib.redirect_stdout(io.StringIO()):  # the histograms tell of their progress
            quantize_static(
                folder / "prepared.onnx", folder / "int8.onnx", _Reader(job), quant_format=QuantFormat.QDQ, **chosen
            )
        return (folder / "int8.onnx").read_bytes()


def has_vnni() -> bool:
    """Return whether the CPU has the instructions for which ONNX Runtime advises against the reduced range."""
    try:
        return "vnni" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Hands out the calibration images."""

    def __init__(self, job: Job) -> None:
        self.feeds = iter([{"input": image} for image in job.images])

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """Return the next image, None after the last."""
        pause()
        return next(self.feeds, None)


def has_nncf() -> bool:
    """Return whether NNCF is installed."""
    return importlib.util.find_spec("nncf") is not None


def nncf(job: Job) -> Points:
    """Quantize with NNCF after training, in both presets, and under its control of accuracy."""
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # without it NNCF sends nothing
    import logging

    import nncf

    nncf.set_log_level(logging.ERROR)
    base = functools.cache(lambda: job.exported(job.task.model))
    images = nncf.Dataset(job.images, lambda image: {"input": image})

    def plain(preset: Any) -> Made:
        with contextlib.redirect_stdout(io.StringIO()):  # progress bars
            found = nncf.quantize(onnx.load_from_string(base()), images, preset=preset, subset_size=len(job.images))
        return Made(found.SerializeToString(), job.task.model)

    def validate(model: onnx.ModelProto, batches: Any) -> tuple[float, None]:
        with job.runtime.build(model.SerializeToString(), threads=1) as engine:
            return float(job.task.metric(Served(engine), list(batches))), None

    def controlled() -> Made:
        with contextlib.redirect_stdout(io.StringIO()):
            found = nncf.quantize_with_accuracy_control(
                onnx.load_from_string(base()),
                calibration_dataset=images,
                validation_dataset=nncf.Dataset(list(job.task.validation)),
                validation_fn=validate,
                max_drop=MAX_DROP,
                subset_size=len(job.images),
            )
        return Made(found.SerializeToString(), job.task.model)

    yield "INT8, preset performance", lambda: plain(nncf.QuantizationPreset.PERFORMANCE)
    if not job.quick:
        yield "INT8, preset mixed", lambda: plain(nncf.QuantizationPreset.MIXED)
        yield f"INT8, at most {MAX_DROP:.1%} lost", controlled


def pruning(job: Job) -> Points:
    """Prune with torch-pruning, fine-tune, and give it as it is and quantized by ONNX Runtime."""
    ways: dict[str, tuple[bool, Callable[[], Any]]] = {
        "uniform magnitude": (False, torch_pruning.importance.GroupMagnitudeImportance),
        "global magnitude": (True, torch_pruning.importance.GroupMagnitudeImportance),
        "global Taylor": (True, torch_pruning.importance.GroupTaylorImportance),
    }
    for ratio in (0.5,) if job.quick else job.ratios:
        for name, (everywhere, importance) in list(ways.items())[: 1 if job.quick else None]:
            network = functools.cache(functools.partial(pruned, job, ratio, everywhere, importance))

            def as_it_is(network: Callable[[], nn.Module] = network) -> Made:
                return Made(job.exported(network()), network())

            def quantized(network: Callable[[], nn.Module] = network) -> Made:
                return Made(statically(job, job.exported(network())), network())

            yield f"{name} {ratio:.1%}", as_it_is
            yield f"{name} {ratio:.1%}, INT8", quantized


def pruned(job: Job, ratio: float, everywhere: bool, importance: Callable[[], Any]) -> nn.Module:
    """Return the network without a share of its channels, fine-tuned; the classifier's outputs stay."""
    model = copy.deepcopy(job.task.model).eval()
    classifier = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    pruner = torch_pruning.pruner.BasePruner(
        model,
        job.supplies.examples,
        importance=importance(),
        global_pruning=everywhere,
        pruning_ratio=ratio,
        max_pruning_ratio=MOST,
        ignored_layers=[classifier],
        round_to=8,
    )
    if isinstance(pruner.importance, torch_pruning.importance.GroupTaylorImportance):
        for batch in job.supplies.batches:
            job.task.loss(model, batch).backward()  # type: ignore[no-untyped-call]
    pruner.step()
    model.zero_grad()
    estimate_batch_norm(model, job.supplies.calibration)
    distil(model, job.task.model, job.task, settings={}, epochs=job.epochs, seed=0, pause=pause)
    estimate_batch_norm(model, job.supplies.calibration)
    return model


TOOLS: dict[str, Callable[[Job], Points]] = {"onnxruntime": onnxruntime, "nncf": nncf, "torch-pruning": pruning}
