"""Weights of a quantized network are rounded with their inputs in mind."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from autocompress.compressors.patches import patches
from autocompress.compressors.quantization.quantize import Quantize, Quantized, strip
from autocompress.compressors.technique import Supplies
from autocompress.spaces.candidate import BITS, Candidate
from autocompress.spaces.capabilities import Integers

IMAGES = torch.rand(64, 6, 9, 9, generator=torch.Generator().manual_seed(1)).cumsum(1)
TOKENS = torch.randn(512, 8, generator=torch.Generator().manual_seed(2)) @ torch.ones(8, 64).cumsum(1).sin()


def convolutions() -> nn.Sequential:
    """Return convolutions of all kinds, with a head."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(6, 16, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU6(),
        nn.Conv2d(16, 16, 3, padding="same", groups=16),
        nn.ReLU(),
        nn.Conv2d(16, 12, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 5),
    ).eval()


def linear() -> nn.Sequential:
    """Return linear layers, one without a bias."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 48, bias=False), nn.ReLU(), nn.Linear(48, 6)).eval()


CASES = {
    "int8": (convolutions, IMAGES, 8, Integers(asymmetric=True)),
    "narrow": (convolutions, IMAGES, 8, Integers(asymmetric=True, narrow=True)),
    "linear": (linear, TOKENS, 8, Integers()),
    "int4": (linear, TOKENS, 4, Integers()),
}


def rounded(case: str, *, rough: bool = False) -> tuple[nn.Module, nn.Module, Tensor]:
    """Return a float network, the same with all layers quantized, and inputs that were not calibrated with."""
    make, data, bits, integers = CASES[case]
    model, half = make(), len(data) // 2
    names = [n for n, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    supplies = Supplies(examples=(data[:1],), calibration=list(zip(data[:half].split(8))), integers=integers)
    candidate = Candidate({BITS: dict.fromkeys(names, bits)})
    return model, Quantize().apply(model, candidate, replace(supplies, rough=rough)), data[half:]


@pytest.mark.parametrize("case", CASES)
def test_error_is_smaller_than_with_the_nearest_weights(case: str) -> None:
    """On inputs that were not seen the outputs are closer to those in float; a network that is only timed is rough."""
    errors = []
    for rough in (True, False):
        model, quantized, x = rounded(case, rough=rough)
        with torch.no_grad():
            errors.append(float((quantized(x) - model(x)).square().mean()))
    assert errors[1] < 0.85 * errors[0]


@pytest.mark.parametrize("case", CASES)
def test_weights_are_numbers_that_their_quantizers_leave(case: str) -> None:
    """A file that rounds the stripped network's weights again has the same ones."""
    _, quantized, _ = rounded(case)
    plain, scales = strip(quantized)
    for name in scales:
        module = quantized.get_submodule(name)
        assert isinstance(module, Quantized)
        torch.testing.assert_close(module.rounded_weight(), plain.get_submodule(name).weight, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(6, 4, (3, 2), stride=(1, 2), dilation=(2, 1), padding=(1, 0)),
        nn.Conv2d(6, 9, 3, padding=1, groups=3, padding_mode="reflect"),
        nn.Conv1d(6, 4, 3, padding="same"),
        nn.Linear(9, 4),
    ],
)
def test_patches_are_what_weights_are_multiplied_by(layer: nn.Module) -> None:
    """The products with a layer's weight are its outputs."""
    x = IMAGES[:2] if isinstance(layer, (nn.Conv2d, nn.Linear)) else IMAGES[:2, :, 0]
    rows = patches(layer, x)
    assert rows is not None
    weight, bias = layer.weight, layer.bias
    products = rows @ weight.reshape(len(rows), -1, rows.shape[2]).transpose(1, 2)  # type: ignore[operator, union-attr]
    products = products.transpose(0, 1).flatten(1) + bias
    outputs = layer(x) if isinstance(layer, nn.Linear) else layer(x).movedim(1, -1)
    torch.testing.assert_close(products, outputs.flatten(0, -2))


def test_layers_that_share_a_weight_keep_it() -> None:
    """No layer's rounding is imposed on another one's inputs."""
    model = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64)).eval()
    model[2].weight = model[0].weight
    supplies = Supplies(examples=(TOKENS[:1],), calibration=[(TOKENS[:64],)])
    before = model[0].weight.clone()
    quantized = Quantize().apply(model, Candidate({BITS: {"0": 8, "2": 8}}), supplies)
    torch.testing.assert_close(quantized[0].weight, before, rtol=0, atol=0)  # type: ignore[index, union-attr]
