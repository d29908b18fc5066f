"""What a runtime's outputs are held against: PyTorch's, as closely as its rounding lets them be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autocompress.compressors.pipeline import supplies_of
from autocompress.errors import InfeasibleError
from autocompress.evaluators.ladder.served import Served, parity
from autocompress.evaluators.parity import tolerance
from autocompress.evaluators.runtimes import RUNTIMES, load, variants_of
from autocompress.profiles.baseline import cost_of_rounding, export_baseline
from autocompress.studies.task import Task

ROUND = {
    "openvino:bf16",
    "openvino:int4",
    "pytorch:bf16",
    "litert:dynamic",
    "mnn:w8",
    "mnn:fp16",
    "tensorrt:fp16",
    "tensorrt:fp8",
    "tensorrt:int4",
}


class Encoder(nn.Module):
    """A layer of a transformer over the rows of images."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Map images of 8 × 16 to five logits."""
        logits: Tensor = self.head(self.layer(x[:, 0]).mean(1))
        return logits


NETWORKS = {
    "mlp": nn.Sequential(nn.Flatten(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 5)),
    "encoder": Encoder(),
    "convolutions": nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)
    ),
}


class Echo:
    """An engine that gives its inputs back, and keeps their type."""

    def infer(self, inputs: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Return the inputs."""
        self.types = [str(x.dtype) for x in inputs]
        return list(inputs)


def test_a_served_model_takes_any_type_of_float() -> None:
    """A metric may hand on batches as the loader gives them; whole numbers stay what they are."""
    engine: Any = Echo()
    served = Served(engine)
    for dtype in (torch.float64, torch.bfloat16, torch.float16):
        served(torch.ones(2, 3, dtype=dtype), torch.ones(2, dtype=torch.long))
        assert engine.types == ["float32", "int64"]


def test_a_served_model_answers_what_metrics_ask_of_a_network() -> None:
    """It says where inputs have to be, is in evaluation mode, and may be told to be there and so."""
    engine: Any = Echo()
    served = Served(engine)
    assert not served.training
    assert next(served.parameters()).device == torch.device("cpu")
    assert sum(p.numel() for p in served.parameters()) == 0
    assert served.eval().to("cpu")(torch.ones(2, 3)).shape == (2, 3)


def task_of(name: str, *, trained: bool) -> Task:
    """Return images whose class is their brightest row of five, and a network that knows it, or not."""
    torch.manual_seed(0)
    images = torch.randn(4, 16, 1, 8, 16)
    batches = [(x, x[:, 0, :5].mean(-1).argmax(1)) for x in images]
    model = NETWORKS[name]
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for x, y in batches * 20 if trained else ():
        optimizer.zero_grad()
        nn.functional.cross_entropy(model.train()(x), y).backward()
        optimizer.step()
    return Task(model.eval(), images[0, :1], batches, batches)


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_in_four_bits_is_a_baseline(name: str, trained: bool) -> None:
    """A study begins though the runtime's own rounding shows; the metric tells what it costs."""
    task, runtime = task_of(name, trained=trained), load("openvino:int4")
    baseline, artefact = export_baseline(task, runtime, supplies_of(task))
    with runtime.build(artefact, threads=1) as engine:
        found = parity(baseline.model, Served(engine), [task.examples], tolerance=1.0)
        served = task.metric(Served(engine), task.validation)
    assert found.difference > 1e-4
    told = cost_of_rounding(task, runtime, baseline, artefact)
    assert told.startswith("openvino:int4 rounds by itself")
    assert f"{served:.4g} in it" in told
    assert f"{task.metric(task.model, task.validation):.4g} in PyTorch" in told


def test_other_outputs_are_refused_where_rounding_is_expected_too() -> None:
    """A runtime that serves another network is no matter of rounding."""
    task, runtime = task_of("mlp", trained=False), load("openvino:int4")
    other = Task(nn.Sequential(NETWORKS["mlp"], nn.Linear(5, 5)).eval(), task.examples, task.train, task.validation)
    _, artefact = export_baseline(other, runtime, supplies_of(other))
    far = tolerance(runtime.capabilities, quantized=False)
    with runtime.build(artefact, threads=1) as engine, pytest.raises(InfeasibleError, match="differ from PyTorch's"):
        parity(task.model, Served(engine), [batch[:1] for batch in task.train], tolerance=far)


def test_runtimes_that_round_say_so() -> None:
    """All others are held to one per cent in float, and to ten with layers in INT8."""
    for family in RUNTIMES:
        for variant in variants_of(family).values():
            able = variant.capabilities
            assert able.rounds == (variant.name in ROUND)
            expected = (0.5, 0.5) if able.rounds else (0.01, 0.1)
            assert tuple(tolerance(able, quantized=quantized) for quantized in (False, True)) == expected
