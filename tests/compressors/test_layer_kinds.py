"""Convolutions of one, two and three dimensions, transposed or not: counted, pruned, folded, rounded, factorised."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from autocompress.compressors.batch_norm import Folded, fold_batch_norm
from autocompress.compressors.distillation.intermediate import Hints
from autocompress.compressors.lowrank.factored_layers import Factorized
from autocompress.compressors.lowrank.factorize import Factorize, factorized
from autocompress.compressors.modules import CONVOLUTIONS, LAYERS, count, grouped, multiplies, out_channels
from autocompress.compressors.onnx_files import qdq
from autocompress.compressors.onnx_files.export import to_onnx
from autocompress.compressors.onnx_files.onnxruntime_layout import unsigned_activations
from autocompress.compressors.pipeline import space_of
from autocompress.compressors.pruning.inspect import inspect
from autocompress.compressors.pruning.prune import remove_channels
from autocompress.compressors.pruning.sparsify import Sparsify
from autocompress.compressors.quantization.palettize import Palettize
from autocompress.compressors.quantization.quantize import Quantize, strip, without_kernels
from autocompress.compressors.technique import Supplies
from autocompress.errors import InfeasibleError
from autocompress.spaces.candidate import BITS, PALETTE, RANK, Candidate
from autocompress.spaces.capabilities import Capabilities

from .quantized import CHAIN, FINE, MERGED, share

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
SIZE = {1: (32,), 2: (12, 8), 3: (6, 4, 4)}

EVERY = Capabilities(runtime="every", palettes=True)


def stage(layer: nn.Module) -> list[nn.Module]:
    """Return a convolution with its norm and an activation."""
    return [layer, NORM[len(layer.kernel_size)](layer.out_channels), nn.ReLU()]


def down(d: int) -> nn.Module:
    """Return a classifier of convolutions: 0, 3 (with a stride), 6, 11."""
    layers = CONV[d](3, 8, 3, padding=1), CONV[d](8, 16, 3, stride=2, padding=1), CONV[d](16, 8, 1)
    pool = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)[d - 1]
    return nn.Sequential(*(m for layer in layers for m in stage(layer)), pool(1), nn.Flatten(), nn.Linear(8, 5))


def up(d: int) -> nn.Module:
    """Return an encoder and decoder, whose layers 3 and 6 are transposed."""
    layers = (
        CONV[d](3, 8, 3, stride=2, padding=1),
        TRANSPOSED[d](8, 12, 2, stride=2),
        TRANSPOSED[d](12, 8, 3, padding=1),
    )
    return nn.Sequential(*(m for layer in layers for m in stage(layer)), CONV[d](8, 4, 1))


def depthwise() -> nn.Module:
    """Return a network of one dimension with a depthwise convolution that is dilated and padded in a circle."""
    wide = nn.Conv1d(8, 8, 3, padding=2, dilation=2, groups=8, padding_mode="circular")
    return nn.Sequential(*stage(nn.Conv1d(3, 8, 3, padding="same")), *stage(wide), nn.Conv1d(8, 4, 1))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    **{f"down{d}": (lambda d=d: down(d), d) for d in (1, 2, 3)},
    **{f"up{d}": (lambda d=d: up(d), d) for d in (1, 2, 3)},
    "depthwise": (depthwise, 1),
}


@cache
def case(name: str) -> tuple[nn.Module, Tensor]:
    """Return a network whose norms hold something that can be got wrong, and inputs."""
    torch.manual_seed(0)
    make, d = NETWORKS[name]
    model = make().eval()
    for module in model.modules():
        if isinstance(module, CONVOLUTIONS):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, tuple(NORM.values())):
            for value in (module.weight, module.bias, module.running_mean, module.running_var):
                nn.init.uniform_(value, 0.5, 1.5)
    return model, torch.randn(16, 3, *SIZE[d])


def supplies(x: Tensor) -> Supplies:
    """Return inputs as techniques take them."""
    return Supplies(examples=(x[:1],), calibration=[(x,)])


def served(file: onnx.ModelProto | bytes, x: Tensor) -> np.ndarray:
    """Return what ONNX Runtime computes as the file is written."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    content = file if isinstance(file, bytes) else file.SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return session.run(None, {"input": x.numpy()})[0]


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv1d(4, 8, 3, stride=2, dilation=2, groups=2, padding=1),
        nn.Conv1d(4, 8, 4, padding="same", padding_mode="circular"),
        nn.Conv2d(4, 4, 3, groups=4),
        nn.Conv3d(4, 8, (1, 3, 3), padding=1),
        nn.ConvTranspose1d(4, 8, 3, stride=2, output_padding=1),
        nn.ConvTranspose2d(4, 8, 4, stride=2, padding=1, groups=2),
        nn.ConvTranspose2d(4, 4, 3, dilation=2, groups=4),
        nn.ConvTranspose3d(4, 6, 2, stride=2),
        nn.Linear(4, 3),
    ],
    ids=repr,
)
def test_what_is_counted_is_what_pytorch_counts(layer: nn.Module) -> None:
    """Multiply-accumulates of one example, for any stride, dilation and groups."""
    x = torch.randn(3, 4) if isinstance(layer, nn.Linear) else torch.randn(3, 4, *SIZE[len(layer.kernel_size)])
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        layer(x)
    (cost,) = count(nn.Sequential(layer), (x,)).values()
    assert cost.macs == counter.get_total_flops() // 2 // len(x)
    assert cost.params == sum(p.numel() for p in layer.parameters())
    assert cost.kind.replace("_", "") == type(layer).__name__.lower()


@pytest.mark.parametrize(
    "layer", [m for n in NETWORKS for m in case(n)[0].modules() if isinstance(m, LAYERS)], ids=repr
)
def test_a_weight_can_be_seen_by_its_output_channels(layer: nn.Module) -> None:
    """However it is stored: what is set to zero there silences that channel, and no other."""
    silent = copy.deepcopy(layer)
    groups, out, *_ = grouped(silent).shape
    assert groups * out == out_channels(layer)
    x = torch.randn(2, 8) if isinstance(layer, nn.Linear) else torch.randn(2, layer.in_channels, *layer.kernel_size)
    with torch.no_grad():
        grouped(silent)[-1, -1] = silent.bias[-1] = 0.0
        assert silent(x)[:, -1].abs().max() == 0 < layer(x)[:, -1].abs().max()
        torch.testing.assert_close(silent(x)[:, :-1], layer(x)[:, :-1])


@pytest.mark.parametrize("name", NETWORKS)
def test_layers_are_described_by_outputs_and_inputs(name: str) -> None:
    """Shapes are (out, in / groups, …) also where a weight is stored the other way round."""
    model, x = case(name)
    for layer in inspect(model, (x[:1],)).layers:
        module = model.get_submodule(layer.name)
        sizes = [] if isinstance(module, nn.Linear) else list(module.kernel_size)
        inputs = module.in_features if isinstance(module, nn.Linear) else module.in_channels // module.groups
        assert layer.shape == (out_channels(module), inputs, *sizes)
        assert layer.transposed == isinstance(module, tuple(TRANSPOSED.values()))
    if name == "up2":
        assert [layer.stride for layer in inspect(model, (x[:1],)).layers] == [4, 0.25, 1, 1]


@pytest.mark.parametrize("name", NETWORKS)
def test_pruning_removes_channels_that_do_nothing(name: str) -> None:
    """Each group is found, loses the channels that are zero, and the outputs stay."""
    model, x = case(name)
    model = copy.deepcopy(model)
    network = inspect(model, (x[:1],))
    roots = {group.name: group.channels for group in network.groups}
    assert set(roots) == {"down": {"0", "3", "6"}, "up": {"0", "3", "6"}, "depthwise": {"0"}}[name.rstrip("123")]
    with torch.no_grad():
        for layer in network.layers:
            module = model.get_submodule(layer.name)
            if layer.out_group:
                channels = grouped(module) if layer.groups > 1 else grouped(module)[0]
                for value in (channels, module.bias, *model[int(layer.name) + 1].parameters()):
                    value[::2] = 0.0
            if layer.in_groups and layer.groups == 1:
                grouped(module)[0, :, ::2] = 0.0
    pruned = remove_channels(model, {n: width // 2 for n, width in roots.items()}, (x[:1],))
    with torch.no_grad():
        torch.testing.assert_close(pruned(x), model(x), rtol=1e-4, atol=1e-5)
    assert all(out_channels(pruned.get_submodule(n)) == width // 2 for n, width in roots.items())


@pytest.mark.parametrize("name", NETWORKS)
def test_norms_fold_into_the_convolutions_before_them(name: str) -> None:
    """Along the output channels, wherever a weight has them."""
    model, x = case(name)
    folded = fold_batch_norm(model, (x[:1],))
    assert not any(isinstance(module, tuple(NORM.values())) for module in folded.modules())
    with torch.no_grad():
        torch.testing.assert_close(folded(x), model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_norms_fold_into_transposed_convolutions_in_groups(groups: int) -> None:
    """Each group has its own part of the weight, and of the norm."""
    torch.manual_seed(0)
    layer, norm = nn.ConvTranspose2d(4, 8, 3, stride=2, groups=groups, bias=False), nn.BatchNorm2d(8)
    for value in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        nn.init.uniform_(value, 0.5, 2.0)
    model, x = nn.Sequential(layer.to(memory_format=torch.channels_last), norm).eval(), torch.randn(2, 4, 5, 5)
    folded = fold_batch_norm(model, (x,))
    assert isinstance(folded[1], Folded)
    torch.testing.assert_close(folded(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", [nn.InstanceNorm1d(8, affine=True), nn.GroupNorm(2, 8), nn.LayerNorm(30)])
def test_other_norms_stay(norm: nn.Module) -> None:
    """So do norms before a convolution, and behind an activation that works in place."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.BatchNorm1d(3), nn.Conv1d(3, 8, 3), norm, nn.Conv1d(8, 8, 1), nn.ReLU(inplace=True), nn.BatchNorm1d(8)
    ).eval()
    for module in (model[0], model[5]):
        nn.init.uniform_(module.running_mean, 0.5, 2.0)
    folded, x = fold_batch_norm(model, (torch.randn(2, 3, 32),)), torch.randn(2, 3, 32)
    assert [type(module) for module in folded] == [type(module) for module in model]
    torch.testing.assert_close(folded(x), model(x))


@cache
def rounded(name: str) -> tuple[nn.Module, nn.Module, onnx.ModelProto]:
    """Return a network with all layers in INT8, what it is in float, and its file."""
    model, x = case(name)
    names = [n for n, module in model.named_modules() if isinstance(module, LAYERS)]
    simulated = Quantize().apply(model, Candidate({BITS: dict.fromkeys(names, 8)}), replace(supplies(x), integers=FINE))
    plain, scales = strip(simulated)
    return simulated, plain, qdq.insert(to_onnx(plain, (x[:1],)), plain, scales, [(x,)], asymmetric=True)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_file_computes_what_is_simulated(name: str) -> None:
    """Weights are integers with one scale for each output channel, along the axis where those lie."""
    model, x = case(name)
    simulated, plain, file = rounded(name)
    with torch.no_grad():
        expected = simulated(x).numpy()
        assert share(expected, plain(x).numpy()) < 0.1
    most = MERGED if name.startswith("down") else CHAIN
    assert share(served(file, x), expected) < most
    assert share(served(unsigned_activations(file.SerializeToString(), [[x.numpy()]]), x), expected) < 2 * most
    stored = {constant.name: numpy_helper.to_array(constant) for constant in file.graph.initializer}
    restored = {node.output[0]: node for node in file.graph.node if node.op_type == "DequantizeLinear"}
    read = [node for node in file.graph.node if node.op_type in ("Conv", "ConvTranspose", "Gemm")]
    assert len(read) == sum(isinstance(module, LAYERS) for module in model.modules())
    for node in read:
        restoring = restored[node.input[1]]
        integers, scale = stored[restoring.input[0]], stored[restoring.input[1]]
        assert integers.dtype == np.int8
        axis = next(a.i for a in restoring.attribute if a.name == "axis")
        assert axis == int(node.op_type == "ConvTranspose")
        assert scale.shape == (integers.shape[axis],)


def test_what_a_transposed_convolution_reads_has_the_zero_point_zero() -> None:
    """Also where it may be negative, as OpenVINO's kernel needs it; all else is unsigned."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv1d(3, 8, 3, padding=1), nn.ConvTranspose1d(8, 8, 2, stride=2), nn.Conv1d(8, 4, 1)
    ).eval()
    x = torch.randn(8, 3, 16)
    simulated = Quantize().apply(model, Candidate({BITS: {"0": 8, "1": 8, "2": 8}}), supplies(x))
    plain, scales = strip(simulated)
    file = qdq.insert(to_onnx(plain, (x[:1],)), plain, scales, [(x,)])
    flavoured = unsigned_activations(file.SerializeToString(), [[x.numpy()]])
    graph = onnx.load_from_string(flavoured).graph
    zeros = {constant.name: numpy_helper.to_array(constant) for constant in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    read = {
        node.op_type + node.name: zeros[makers[node.input[0]].input[2]] for node in graph.node if "Conv" in node.op_type
    }
    found = [(str(zero.dtype), int(zero) == 0) for zero in read.values()]
    assert found == [("uint8", False), ("int8", True), ("uint8", False)]
    assert share(served(flavoured, x), simulated(x).detach().numpy()) < CHAIN


def test_transposed_convolutions_are_offered_bits_where_there_are_kernels() -> None:
    """Those in groups nowhere; layers that stay in float are reported, with the reason."""
    model, x = case("up2")
    network = inspect(model, (x[:1],))
    offered = {choice.target for choice in Quantize().choices(network, EVERY)}
    assert offered == {"0", "3", "6", "9"}
    without = replace(EVERY, float_kinds=frozenset({"conv_transpose2d"}))
    assert [(name, why.split(", ")[1]) for name, why in without_kernels(network, without)] == [
        (name, "as every has no integer kernels for a conv_transpose2d") for name in ("3", "6")
    ]
    assert not list(without_kernels(network, EVERY))
    assert not list(without_kernels(network, replace(without, bits=(32,))))
    assert {choice.target for choice in Quantize().choices(network, without)} == {"0", "9"}
    apart = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ConvTranspose2d(8, 8, 2, groups=2)).eval()
    assert {choice.target for choice in Quantize().choices(inspect(apart, (x[:1],)), EVERY)} == {"0"}
    assert [name for name, _ in without_kernels(inspect(apart, (x[:1],)), EVERY)] == ["1"]
    with pytest.raises(InfeasibleError, match="in groups"):
        Quantize().apply(apart, Candidate({BITS: {"1": 8}}), supplies(x))


class Centred(nn.Conv1d):
    """A convolution that centres its weight in each call."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in, L) to (N, out, L − 2)."""
        return nn.functional.conv1d(x, self.weight - self.weight.mean(), self.bias)


class Own(nn.Conv1d):
    """A convolution whose own part is deeper inside."""

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return super()._conv_forward(x, 2 * weight, bias)


@pytest.mark.parametrize(
    "layer", [Centred(3, 8, 3), Own(3, 8, 3), nn.utils.parametrizations.weight_norm(nn.Conv1d(3, 8, 3))]
)
def test_a_layer_that_computes_in_a_way_of_its_own_is_only_pruned(layer: nn.Module) -> None:
    """Neither its bits nor its rank, its zeros and its palette are on offer; asking for bits is refused."""
    x = torch.randn(4, 3, 16)
    model = nn.Sequential(layer, nn.ReLU(), nn.Conv1d(8, 8, 3), nn.Flatten(), nn.Linear(96, 4)).eval()
    network = inspect(model, (x[:1],))
    assert not multiplies(layer)
    capabilities = replace(EVERY, sparsity=(0.5,))
    for technique in (Quantize(), Factorize(), Palettize(), Sparsify()):
        assert "0" not in {choice.target for choice in technique.choices(network, capabilities)}
    with pytest.raises(InfeasibleError, match="way of its own"):
        Quantize().apply(model, Candidate({BITS: {"0": 8}}), supplies(x))


@pytest.mark.parametrize(("axis", "name"), [(RANK, "down1"), (RANK, "down3"), (PALETTE, "down1"), (PALETTE, "up2")])
def test_other_techniques_reach_them(axis: str, name: str) -> None:
    """Low ranks and palettes are applied where they are on offer, and the network runs."""
    model, x = case(name)
    space = space_of(inspect(model, (x[:1],)), EVERY)
    candidate = Candidate({axis: {choice.target: choice.levels[1] for choice in space.on(axis)}})
    assert candidate[axis]
    technique = Factorize() if axis == RANK else Palettize()
    made = technique.apply(model, candidate, supplies(x))
    with torch.no_grad():
        assert made(x).shape == model(x).shape
        torch.testing.assert_close(torch.from_numpy(served(to_onnx(made, (x[:1],)), x)), made(x), rtol=1e-3, atol=1e-4)
    if axis == RANK:
        assert all(isinstance(made.get_submodule(n), Factorized) for n in candidate[RANK])


@pytest.mark.parametrize("kind", ["tucker", "cp"])
@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv1d(16, 24, 5, stride=2, padding=3, dilation=2, padding_mode="circular"),
        nn.Conv1d(16, 24, 1, stride=2),
        nn.Conv3d(16, 16, (1, 3, 2), stride=(1, 2, 1), padding=1, bias=False),
    ],
    ids=repr,
)
def test_factors_compute_what_a_layer_with_their_weight_does(layer: nn.Module, kind: str) -> None:
    """Stride, padding and dilation go to the right factors, of as many dimensions as the layer's."""
    factors = factorized(layer, 0.5, kind=kind)
    assert factors is not None
    assert {type(factor) for factor in factors} == {type(layer)}
    dense = copy.deepcopy(layer)
    dense.weight.data = factors.weight.detach()
    x = torch.randn(2, 16, *[9] * len(layer.kernel_size))
    with torch.no_grad():
        torch.testing.assert_close(factors(x), dense(x), rtol=1e-3, atol=1e-4)
    assert sum(p.numel() for p in factors.parameters()) < sum(p.numel() for p in layer.parameters())


class InPlace(nn.Module):
    """Two convolutions that read one tensor, which is changed in between."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(3, 4, 1), nn.Conv1d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 3, L) to (N, 4, L)."""
        x = x + 0
        y: Tensor = self.first(x)
        x *= 100
        return y + self.second(x)


def test_a_tensor_that_is_changed_in_place_has_a_range_of_its_own() -> None:
    """Layers share the range of what they read only if nothing changed it in between."""
    x = torch.randn(8, 3, 16)
    settings = {BITS: {"first": 8, "second": 8}, "quantization": {"scales": "learned"}}
    made = Quantize().apply(InPlace().eval(), Candidate(settings), supplies(x))
    assert made.second.scales.input.step == pytest.approx(100 * made.first.scales.input.step, rel=1e-3)


def test_a_transposed_convolution_is_told_the_size_of_its_outputs() -> None:
    """What a forward gives a layer besides its input reaches it in INT8 as well."""

    class Sized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down, self.up = nn.Conv2d(3, 8, 3, 2, 1), nn.ConvTranspose2d(8, 4, 3, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.up(self.down(x).relu(), output_size=x.shape[2:])
            return out

    x = torch.randn(8, 3, 8, 8)
    made = Quantize().apply(Sized().eval(), Candidate({BITS: {"down": 8, "up": 8}}), supplies(x))
    assert made(x).shape == (8, 4, 8, 8)


@pytest.mark.parametrize(("size", "dilation"), [(3, 2), (4, 1), (4, 3)])
def test_padding_to_the_same_size_is_written_out(size: int, dilation: int) -> None:
    """ONNX Runtime pads a dilated convolution only by numbers."""
    model, x = nn.Sequential(nn.Conv1d(3, 4, size, padding="same", dilation=dilation)).eval(), torch.randn(2, 3, 16)
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(served(to_onnx(model, (x[:1],)), x)), model(x))


@pytest.mark.parametrize("name", ["down1", "up1", "down3"])
def test_students_learn_from_features_along_channels(name: str) -> None:
    """A pruned network's are mapped to its teacher's channel by channel, at every position; maps are compared, too."""
    model, x = case(name)
    student = remove_channels(model, {"0": 4, "3": 8}, (x[:1],))
    hints = Hints(student, model, (x,), features=1.0, attention=1.0)
    with hints.tapped(), torch.no_grad():
        student(x), model(x)
        assert 0 < float(hints.loss()) < 3
    widths = [parameter.shape[0] for parameter in hints.parameters() if parameter.dim() == 2]
    assert widths == [out_channels(model[int(n)]) for n in ("0", "3")]
    same = Hints(copy.deepcopy(model), model, (x,), features=1.0, attention=1.0)
    with same.tapped(), torch.no_grad():
        same.student(x), model(x)
        assert float(same.loss()) == pytest.approx(0, abs=1e-6)
