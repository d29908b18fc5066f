"""What each runtime makes of convolutions in one and in three dimensions, and of transposed ones."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autocompress.compressors.pipeline import Compressed, apply_candidate, supplies_of
from autocompress.compressors.pruning.inspect import inspect
from autocompress.compressors.quantization.quantize import Quantize
from autocompress.compressors.technique import Supplies
from autocompress.evaluators.ladder.served import source_of
from autocompress.evaluators.meters.isolated_engine import engine
from autocompress.evaluators.runtime import low_precision
from autocompress.evaluators.runtimes import load
from autocompress.spaces.candidate import BITS, Candidate
from autocompress.studies.task import Task


class Decoder(nn.Module):
    """Layers down and up again, with a transposed convolution that reads negative values, and a head."""

    def __init__(self, d: int) -> None:
        super().__init__()
        conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[d - 1]
        transposed = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[d - 1]
        norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[d - 1]
        self.down, self.norm = conv(3, 16, 3, stride=2, padding=1, bias=False), norm(16)
        self.inner = conv(16, 16, 3, padding=1)
        self.up, self.upnorm = transposed(16, 16, 2, stride=2), norm(16)
        self.last, self.head = conv(16, 16, 3, padding=1), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 3, …) to five logits."""
        x = self.inner(self.norm(self.down(x)).relu())
        x = self.last(self.upnorm(self.up(x)).relu()).relu()
        out: Tensor = self.head(x.flatten(2).mean(2))
        return out


class Signal(nn.Module):
    """A classifier in one dimension, with a depthwise convolution and a pool."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            *(nn.Conv1d(3, 16, 5, padding=2, bias=False), nn.BatchNorm1d(16), nn.ReLU(), nn.MaxPool1d(2)),
            *(nn.Conv1d(16, 16, 3, padding=2, dilation=2, groups=16), nn.ReLU(), nn.Conv1d(16, 16, 1), nn.ReLU()),
            *(nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(16, 5)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 3, L) to five logits."""
        out: Tensor = self.net(x)
        return out


class Points(nn.Module):
    """A classifier of sets of points, which keeps the largest of all."""

    def __init__(self) -> None:
        super().__init__()
        self.each = nn.Sequential(nn.Conv1d(3, 16, 1), nn.BatchNorm1d(16), nn.ReLU(), nn.Conv1d(16, 32, 1))
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 3, points) to five logits."""
        out: Tensor = self.head(self.each(x).max(2)[0])
        return out


NETWORKS = {
    "points": (Points, (64,)),
    "signal": (Signal, (64,)),
    "up1": (lambda: Decoder(1), (32,)),
    "up2": (lambda: Decoder(2), (16, 12)),
    "up3": (lambda: Decoder(3), (8, 6, 4)),
}

SERVED = [(r, n) for r in ("onnxruntime", "openvino", "pytorch:eager") for n in NETWORKS]
SERVED += [("pytorch", "up2"), ("mnn", "signal"), ("mnn", "up2")]


@cache
def task(name: str) -> Task:
    """Return a network with statistics as of a trained one, and data."""
    torch.manual_seed(0)
    build, size = NETWORKS[name]
    model = build().train()
    batches = [(torch.randn(8, 3, *size), torch.zeros(8, dtype=torch.long)) for _ in range(4)]
    with torch.no_grad():
        for inputs, _ in batches:
            model(inputs)
    return Task(model=model.eval(), example_inputs=batches[0][0][:1], train=batches, validation=batches)


@cache
def compressed(name: str, layers: frozenset[str]) -> tuple[Compressed, Supplies]:
    """Return a network with some layers in INT8, and what it is served with."""
    supplies = supplies_of(task(name))
    return apply_candidate(task(name), Candidate({BITS: dict.fromkeys(layers, 8)}), supplies, epochs=0), supplies


@pytest.mark.parametrize(("runtime", "name"), SERVED)
def test_it_computes_what_pytorch_does_in_the_precision_that_it_offers(runtime: str, name: str) -> None:
    """In float, and with all layers in INT8 that are on offer: those run in integers, and are counted as they are."""
    serving = load(runtime)
    it = task(name)
    offers = Quantize().choices(inspect(it.model, it.examples), serving.capabilities)
    inputs = it.validation[0][0]
    for layers in {frozenset(), frozenset(offer.target for offer in offers)}:
        built, supplies = compressed(name, layers)
        file = serving.convert(source_of(built, supplies))
        with engine(serving, file, threads=1) as served:
            (outputs,) = served.infer([inputs.numpy()])
        with torch.no_grad():
            expected = built.model(inputs).numpy()
        assert np.abs(outputs - expected).max() < (0.04 if layers else 0.001) * np.ptp(expected)
        kernels = serving.kernels(file, [inputs[:1].numpy()])
        if kernels:
            assert sum(kernel.macs for kernel in kernels) == pytest.approx(built.macs, rel=0.001)
            assert low_precision(kernels) == pytest.approx(built.low_precision, abs=0.01)


def test_what_has_no_integer_kernel_is_not_offered() -> None:
    """ONNX Runtime would restore the weights of transposed convolutions in each run; OpenVINO computes in integers.

    LiteRT's converter and quantizer leave them in float, and layers of three dimensions.
    """
    for name in ("up1", "up2", "up3"):
        network = inspect(task(name).model, task(name).examples)
        offered = {
            runtime: {choice.target for choice in Quantize().choices(network, load(runtime).capabilities)}
            for runtime in ("onnxruntime", "openvino", "litert", "mnn")
        }
        assert offered["openvino"] == {"down", "inner", "up", "last", "head"}
        assert offered["onnxruntime"] == {"down", "inner", "last", "head"}
        assert offered["litert"] == ({"head"} if name == "up3" else offered["onnxruntime"])
        assert offered["mnn"] == set()
