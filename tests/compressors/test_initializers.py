"""Constants that only a branch of an ONNX graph reads stay in every file that is made of it."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import pytest
import torch
from torch import Tensor, nn

from autocompress.compressors.onnx_files.number_formats import float8, int4_weights
from autocompress.compressors.onnx_files.onnxruntime_layout import integer_outputs, unsigned_activations

from .quantized import CHAIN, Case, rounded, served, share


class Branches(nn.Module):
    """Multiplies with one matrix or another, as the numbers' sum is positive or not."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 16, 3), nn.Linear(16, 5)
        self.one, self.other = (nn.Parameter(torch.randn(16, 16)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Map images to five logits."""
        positive, x = x.sum() > 0, self.conv(x).relu().mean((2, 3))
        x = torch.cond(positive, lambda x: (x @ self.one).sin(), lambda x: x @ self.other, (x,))
        logits: Tensor = self.head(x)
        return logits


@pytest.fixture(scope="module", params=["conv", "head", "both", "none"])
def case(request: pytest.FixtureRequest) -> Case:
    """Return the network with layers in INT8."""
    torch.manual_seed(0)
    layers = {"both": ("conv", "head"), "none": ()}.get(request.param, (request.param,))
    return rounded(Branches(), dict.fromkeys(layers, 8))


@pytest.mark.parametrize("sign", [1, -1])
def test_either_branch_computes_what_pytorch_does(case: Case, sign: int) -> None:
    """In the canonical file, in that of ONNX Runtime, and with what its convolutions make in integers."""
    images = sign * case.images * torch.sign(case.images.sum())
    unsigned = unsigned_activations(case.canonical)
    files = (case.canonical, unsigned, integer_outputs(unsigned, [[images.numpy()]]))
    with torch.no_grad():
        expected = case.model(images).numpy()
    for file in files:
        assert share(served(file, images), expected) < 2 * CHAIN


@pytest.mark.parametrize("precision", [float8, int4_weights])
def test_other_precisions_keep_both_branches(case: Case, precision: Callable[[bytes], bytes]) -> None:
    """What nothing reads goes, what a branch reads stays."""
    names = {constant.name for constant in onnx.load_from_string(precision(case.canonical)).graph.initializer}
    assert {"one", "other"} <= names
