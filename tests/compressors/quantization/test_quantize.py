"""Quantization in PyTorch: rounded numbers forwards, straight-through gradients backwards."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterable, Mapping
from dataclasses import replace

import cloudpickle
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from autocompress.compressors.quantization.calibration import METHODS, TOP, Grid, Histogram, pair_sums, threshold
from autocompress.compressors.quantization.quantize import Quantize, Quantized, Scales, strip
from autocompress.compressors.quantization.quantizers import ActivationQuantizer, WeightQuantizer, weight_scale
from autocompress.compressors.technique import Supplies
from autocompress.errors import InfeasibleError
from autocompress.spaces.candidate import Candidate
from autocompress.spaces.capabilities import Capabilities, Integers
from autocompress.spaces.layers import Layer, Network

IMAGES = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(1))
SUPPLIES = Supplies(examples=(IMAGES[:1],), calibration=[(IMAGES[:4],), (IMAGES[4:],)])
BOTH = {"0": 8, "4": 8}


def network() -> nn.Sequential:
    """Return a convolution with batch norm, and a head."""
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)).eval()


def quantized(**chosen: str) -> nn.Module:
    """Return the network with both layers in INT8, by the settings given."""
    torch.manual_seed(0)
    return Quantize().apply(network(), Candidate({"bits": BOTH, "quantization": chosen}), SUPPLIES)


def plain(scales: Mapping[str, Scales]) -> dict[str, tuple[Grid | None, object, int]]:
    """Return scales as values that can be compared."""
    return {n: (s.input, None if s.weight is None else s.weight.tolist(), s.bits) for n, s in scales.items()}


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("shape", [(6, 40), (6, 3, 5, 5)])
def test_weights_land_on_the_levels_of_their_channel(bits: int, shape: tuple[int, ...]) -> None:
    """Each channel takes at most 2^bits − 1 values, whole multiples of its own step, and keeps its largest."""
    weight = torch.randn(shape) * torch.logspace(-3, 2, 6).reshape(-1, *[1] * (len(shape) - 1))
    top = 2 ** (bits - 1) - 1
    rounded = WeightQuantizer(bits)(weight)
    scale = weight_scale(weight, top)
    assert scale.shape == (6,)
    for channel, before, step in zip(rounded, weight, scale, strict=True):
        levels = channel / step
        torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-3)
        assert len(channel.unique()) <= 2 * top + 1
        torch.testing.assert_close(channel.abs().max(), before.abs().max())
        assert (channel - before).abs().max() <= step / 2 * 1.001


def test_weight_of_zeros_stays_zero() -> None:
    """A channel that is all zeros has no range, and no NaN."""
    assert torch.equal(WeightQuantizer(8)(torch.zeros(2, 3)), torch.zeros(2, 3))


def test_gradient_passes_straight_through_the_weights() -> None:
    """Rounding counts as the identity when gradients are taken."""
    weight = torch.randn(4, 9, requires_grad=True)
    direction = torch.randn(4, 9)
    (WeightQuantizer(8)(weight) * direction).sum().backward()
    torch.testing.assert_close(weight.grad, direction)


def test_gradient_passes_through_activations_within_the_range() -> None:
    """Numbers inside the calibrated range get their gradient, numbers beyond it none."""
    quantizer = ActivationQuantizer()
    quantizer(torch.tensor([-1.0, 0.5]))
    quantizer.calibrating = False
    x = torch.tensor([0.3, -0.9, 2.0, -3.0], requires_grad=True)
    y = quantizer(x)
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [1.0, 1.0, 0.0, 0.0]
    torch.testing.assert_close(y[2:], torch.tensor([1.0, -1.0]))
    assert quantizer.grid.step == pytest.approx(1 / 127)


def test_calibration_sees_the_largest_magnitude_of_all_batches() -> None:
    """By ``max`` the scale of a layer's input maps the largest number seen to 127; after calibration it stays."""
    model = quantized(calibration="max")
    _, scales = strip(model)
    assert scales["0"].input.step == pytest.approx(float(IMAGES.abs().max()) / 127)
    model(100 * IMAGES)
    assert plain(strip(model)[1]) == plain(scales)


def test_training_moves_the_weights_under_the_quantizers() -> None:
    """Every weight and bias of a quantized network gets a gradient."""
    model = quantized().train()
    model(IMAGES).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_strip_restores_float_layers_under_their_names() -> None:
    """Without quantizers the network is the folded float network, and every quantized layer has its scale."""
    folded = Quantize().apply(network(), Candidate({"bits": {}}), SUPPLIES)
    torch.manual_seed(0)
    model = Quantize().apply(network(), Candidate({"bits": BOTH}), SUPPLIES)
    stripped, scales = strip(model)
    assert scales.keys() == BOTH.keys()
    assert stripped.state_dict().keys() == folded.state_dict().keys()
    assert not any(isinstance(module, (Quantized, nn.BatchNorm2d)) for module in stripped.modules())
    assert sum(isinstance(module, Quantized) for module in model.modules()) == 2


def test_strip_of_a_float_network_finds_no_scales() -> None:
    """A network that was never quantized comes back as it is."""
    model = network()
    stripped, scales = strip(model)
    assert scales == {}
    torch.testing.assert_close(stripped(IMAGES), model(IMAGES), rtol=0, atol=0)


@pytest.mark.parametrize(("bits", "layers"), [(4, {"4"}), (8, BOTH)])
def test_output_stays_near_that_of_the_float_network(bits: int, layers: Iterable[str]) -> None:
    """More bits leave a smaller error, and eight bits a small one."""
    model = network()
    with torch.no_grad():
        expected = model(IMAGES)
        error = (
            (Quantize().apply(model, Candidate({"bits": dict.fromkeys(layers, bits)}), SUPPLIES)(IMAGES) - expected)
            .abs()
            .max()
        )
    share = float(error / (expected.max() - expected.min()))
    assert 0 < share < (0.02 if bits == 8 else 0.5)


def test_unchosen_layers_stay_float() -> None:
    """Only the named layers get quantizers, and 32 bits mean none."""
    model = Quantize().apply(network(), Candidate({"bits": {"0": 32, "4": 8}}), SUPPLIES)
    assert isinstance(model[0], nn.Conv2d)
    assert isinstance(model[4], Quantized)


def test_unknown_layer_is_infeasible() -> None:
    """A candidate for another network ends at the rung of building."""
    with pytest.raises(InfeasibleError, match="no layer 'conv9'") as caught:
        Quantize().apply(network(), Candidate({"bits": {"conv9": 8}}), SUPPLIES)
    assert caught.value.rung == "build"


def copied(model: nn.Module) -> nn.Module:
    """Return a copy by `copy.deepcopy`."""
    return copy.deepcopy(model)


def pickled(model: nn.Module) -> nn.Module:
    """Return a copy by pickle."""
    return pickle.loads(pickle.dumps(model))


def cloudpickled(model: nn.Module) -> nn.Module:
    """Return a copy by cloudpickle."""
    return pickle.loads(cloudpickle.dumps(model))


def reloaded(model: nn.Module) -> nn.Module:
    """Return another network with the same state."""
    other = Quantize().apply(network(), Candidate({"bits": BOTH}), SUPPLIES)
    other.load_state_dict(model.state_dict())
    return other


@pytest.mark.parametrize("again", [copied, pickled, cloudpickled, reloaded])
def test_quantized_network_can_be_copied(again: object) -> None:
    """A copy computes the same, with the same scales, and shares no weights."""
    assert callable(again)
    model = quantized()
    other = again(model)
    torch.testing.assert_close(other(IMAGES), model(IMAGES), rtol=0, atol=0)
    assert plain(strip(other)[1]) == plain(strip(model)[1])
    for parameter in other.parameters():
        parameter.data.zero_()
    assert model(IMAGES).abs().max() > 0


def test_a_choice_for_each_layer() -> None:
    """Every layer is offered the bits that the runtime has kernels for, and none where there is only float."""
    layers = (
        Layer(name="conv", kind="conv2d", params=1, macs=1, shape=(1, 1, 1, 1)),
        Layer(name="head", kind="linear", params=1, macs=1, shape=(1, 1)),
    )
    found = Network(layers=layers, groups=())
    offers = Quantize().choices(found, Capabilities(runtime="fake", bits=(32, 8)))
    assert [(choice.target, choice.levels, choice.neutral) for choice in offers] == [
        ("conv", (32, 8), 32),
        ("head", (32, 8), 32),
    ]
    assert Quantize().choices(found, Capabilities(runtime="fake", bits=(32,))) == ()


@pytest.mark.parametrize("bits", [(32, 8), (32,)])
def test_linear_layers_may_have_weights_alone_in_four_bits(bits: tuple[int, ...]) -> None:
    """Where a runtime has kernels for that, it is the strongest level of linear layers that fit blocks."""
    shapes = {"conv2d": (8, 16), "linear": (8, 16), "narrow": (8, 24)}
    layers = tuple(
        Layer(name=name, kind=name.replace("narrow", "linear"), params=1, macs=1, shape=shape)
        for name, shape in shapes.items()
    )
    able = Capabilities(runtime="fake", bits=bits, weight_bits=(4,))
    offers = Quantize().choices(Network(layers=layers, groups=()), able)
    found = {choice.target: choice.levels for choice in offers}
    assert found == (dict.fromkeys(shapes, bits) if len(bits) > 1 else {}) | {"linear": (*bits, 4)}


def test_settings_begin_with_what_changes_nothing() -> None:
    """By default ranges have the least squared error, and are fixed; a candidate in float has no such settings."""
    settings = Quantize().settings()
    assert [(choice.axis, choice.target, choice.levels[0]) for choice in settings] == [
        ("quantization", "calibration", "mse"),
        ("quantization", "scales", "fixed"),
    ]
    assert {choice.needs for choice in settings} == {"bits"}
    stated = quantized(calibration="mse", scales="fixed")
    assert torch.equal(stated(IMAGES), quantized()(IMAGES))


@pytest.mark.parametrize("method", sorted(METHODS))
def test_ranges_of_inputs_are_found_by_the_method_chosen(method: str) -> None:
    """The scale of a layer's input is the threshold of all that came, over 127."""
    seen = Histogram()
    for batch in SUPPLIES.calibration:
        seen.add(batch[0].numpy())
    _, scales = strip(quantized(calibration=method))
    assert scales["0"].input == Grid(pytest.approx(threshold(seen, method) / 127, rel=1e-6))


@pytest.mark.parametrize(("inputs", "block"), [(384, 128), (192, 64), (96, 32), (48, 16)])
def test_weights_in_four_bits_have_a_scale_for_each_block(inputs: int, block: int) -> None:
    """A block takes at most 15 values, whole multiples of its step, and its input stays in float."""
    layer = nn.Linear(inputs, 6)
    it = Quantized(layer, 4)
    scale = it.scales.weight
    assert it.scales.input is None
    assert scale is not None
    assert scale.shape == (6, inputs // block)
    levels = it.round_weight(layer.weight).reshape(6, -1, block) / torch.tensor(scale)[..., None]
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-4)
    assert torch.equal(levels.abs().amax(2).round(), torch.full((6, inputs // block), 7.0))
    x = torch.randn(3, inputs)
    torch.testing.assert_close(it(x), x @ it.round_weight(layer.weight).T + layer.bias)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [(nn.Conv2d(16, 16, 1), "4 bits are for linear layers"), (nn.Linear(24, 8), "multiple of 16 inputs")],
)
def test_other_layers_in_four_bits_are_infeasible(layer: nn.Module, reason: str) -> None:
    """A layer that no kernel takes ends at the rung of building."""
    with pytest.raises(InfeasibleError, match=reason) as caught:
        Quantized(layer, 4)
    assert caught.value.rung == "build"


@pytest.mark.parametrize("again", [copied, pickled, cloudpickled])
def test_network_with_learned_scales_can_be_copied(again: object) -> None:
    """A copy has scales of its own."""
    assert callable(again)
    model = quantized(scales="learned")
    before = plain(strip(model)[1])
    other = again(model)
    assert plain(strip(other)[1]) == before
    for parameter in other.parameters():
        parameter.data.mul_(2)
    assert plain(strip(other)[1]) != before
    assert plain(strip(model)[1]) == before


def trained(**chosen: str) -> nn.Module:
    """Return the network after a few steps of training."""
    model = quantized(**chosen).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        (model(IMAGES) - 1).square().mean().backward()
        optimizer.step()
    return model.eval()


def test_learned_scales_move_and_fixed_ones_follow_the_weights() -> None:
    """Training moves the scales of inputs and weights where they are learned, deterministically."""
    start, fixed, learned = (strip(m)[1]["0"] for m in (quantized(), trained(), trained(scales="learned")))
    assert start.weight is not None
    assert learned.weight is not None
    assert fixed.input == start.input
    assert learned.input != start.input
    assert (learned.weight != start.weight).all()
    assert plain(strip(trained(scales="learned"))[1]) == plain(strip(trained(scales="learned"))[1])


def test_learned_scales_begin_as_the_fixed_ones() -> None:
    """Before any training both compute the same, except for the rounding of a quotient."""
    fixed, learned = quantized(), quantized(scales="learned")
    torch.testing.assert_close(learned(IMAGES), fixed(IMAGES), rtol=0, atol=0.02)
    for ours, theirs in zip(strip(learned)[1].values(), strip(fixed)[1].values(), strict=True):
        assert ours.input.step == pytest.approx(theirs.input.step)
        assert np.array_equal(ours.weight, theirs.weight)  # type: ignore[arg-type]  # both have one


def test_layers_that_read_one_tensor_learn_one_scale() -> None:
    """In the exported file the tensor is rounded once, so that its readers cannot differ."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right, self.after = (nn.Linear(4, 4) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.after(self.left(x) * self.right(x))
            return y

    x = torch.randn(16, 4)
    supplies = Supplies(examples=(x[:1],), calibration=[(x,)])
    bits = dict.fromkeys(("left", "right", "after"), 8)
    model = Quantize().apply(Two(), Candidate({"bits": bits, "quantization": {"scales": "learned"}}), supplies)
    ranges = [model.get_submodule(name).round_input for name in bits]
    assert ranges[0] is ranges[1]
    assert ranges[0] is not ranges[2]
    assert sum("round_input" in name for name, _ in model.named_parameters()) == 2


def test_layer_that_runs_twice_has_one_range() -> None:
    """A layer used in two places is quantized in both, over the range of both."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.layer(10 * self.layer(x).relu())
            return y

    model, x = Twice(), torch.randn(16, 4)
    inner = float((10 * model.layer(x).relu()).max().detach())
    assert inner > float(x.abs().max())
    supplies = Supplies(examples=(x[:1],), calibration=[(x,)])
    _, scales = strip(Quantize().apply(model, Candidate({"bits": {"layer": 8}}), supplies))
    assert scales["layer"].input.step == pytest.approx(inner / 127, rel=0.02)


def test_layers_inside_of_pytorchs_encoder_layers_are_quantized() -> None:
    """In evaluation such a layer would compute without calling its linear layers, were it not kept from it."""
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True).eval()
    tokens = torch.randn(4, 6, 16, generator=torch.Generator().manual_seed(1))
    supplies = Supplies(examples=(tokens[:1],), calibration=[(tokens,)])
    rounded = Quantize().apply(layer, Candidate({"bits": {"linear1": 8, "linear2": 8}}), supplies)
    with torch.no_grad():
        difference = (rounded(tokens) - layer(tokens)).abs().max()
    assert 0 < difference < 0.1
    _, scales = strip(rounded)
    assert all(scale.input is not None and 1e-3 < scale.input.step < 0.1 for scale in scales.values())


@pytest.mark.parametrize("method", sorted(METHODS))
def test_ranges_may_have_two_ends(method: str) -> None:
    """Where runtimes take any zero point, 256 numbers lie from the least to the largest kept; a ReLU's begin at 0."""
    supplies = replace(SUPPLIES, integers=Integers(asymmetric=True), calibration=[(IMAGES.clamp_min(-0.3),)])
    _, scales = strip(
        Quantize().apply(network(), Candidate({"bits": BOTH, "quantization": {"calibration": method}}), supplies)
    )
    first, second = scales["0"].input, scales["4"].input
    assert (second.least, second.most) == (0, 255)
    assert first.most - first.least == 255
    assert first.least * first.step == pytest.approx(-0.3, abs=0.05)
    assert 2 < first.most * first.step <= float(IMAGES.max()) + first.step


def test_steps_after_a_relu_are_half_as_wide() -> None:
    """Numbers that are never negative have all levels to one side."""
    x = torch.rand(64, 8)
    errors = []
    for asymmetric in (False, True):
        quantizer = ActivationQuantizer(asymmetric=asymmetric)
        quantizer(x)
        quantizer.calibrated()
        errors.append(float((quantizer(x) - x).square().mean()))
    assert errors[1] < 0.3 * errors[0]


def test_learned_steps_keep_their_zero_point() -> None:
    """Training moves the step, and 0 stays on the grid at the same integer."""
    supplies = replace(SUPPLIES, integers=Integers(asymmetric=True))
    bits = Candidate({"bits": BOTH, "quantization": {"scales": "learned"}})
    model = Quantize().apply(network(), bits, supplies).train()
    before = strip(model)[1]["0"].input
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    (model(IMAGES) - 1).square().mean().backward()
    optimizer.step()
    after = strip(model)[1]["0"].input
    assert (after.least, after.most) == (before.least, before.most)
    assert after.step != before.step


@pytest.mark.parametrize("learned", [False, True])
def test_pairs_of_weights_stay_small_where_kernels_add_them_in_sixteen_bits(learned: bool) -> None:
    """Training rounds weights as they are served: 255 times a pair is below 2¹⁵. A depthwise layer needs no care."""
    layers = (nn.Conv2d(6, 4, 3), nn.Linear(7, 5), nn.Conv2d(6, 6, 3, groups=6))
    for layer in layers:
        it = Quantized(layer, 8, integers=Integers(narrow=True))
        nn.init.uniform_(layer.weight, 0.9, 1.0)
        if learned:
            it.round_weight.learn(layer.weight)
            it.round_weight.learned.factor.data.mul_(0.5)
        step = it.round_weight.scale(layer.weight)
        integers = (it.round_weight(layer.weight) / step.reshape(-1, *[1] * (layer.weight.dim() - 1))).movedim(1, -1)
        most = pair_sums(integers.detach().round()).abs().max()
        assert most > 200 if layer is layers[2] else most <= 128
        assert integers.abs().max() <= TOP + 0.01
