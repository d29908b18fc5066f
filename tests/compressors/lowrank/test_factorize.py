"""Low-rank factorization: cheaper layers that compute the nearest thing, under the name of the one they replace."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import asdict

import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from autocompress.compressors.batch_norm import fold_batch_norm
from autocompress.compressors.lowrank import decompositions as lowrank
from autocompress.compressors.lowrank.factored_layers import Factorized
from autocompress.compressors.lowrank.factorize import Factorize, cost_of, factorized, levels, ranks_of
from autocompress.compressors.modules import count, parts
from autocompress.compressors.onnx_files.export import to_onnx
from autocompress.compressors.pipeline import apply_candidate, supplies_of
from autocompress.compressors.pruning.inspect import inspect
from autocompress.compressors.pruning.prune import Prune
from autocompress.compressors.quantization.quantize import Quantize, Quantized, strip
from autocompress.compressors.technique import Supplies
from autocompress.errors import InfeasibleError
from autocompress.spaces.candidate import Candidate
from autocompress.spaces.capabilities import Capabilities
from autocompress.spaces.layers import Layer
from autocompress.spaces.space import Space
from autocompress.studies.residual import ResidualNet
from autocompress.studies.task import Task

CAPABILITIES = Capabilities(runtime="fake")
IMAGES = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
SUPPLIES = Supplies(examples=(IMAGES[:1],), calibration=[(IMAGES,)])
SHARES = st.sampled_from([0.75, 0.5, 0.25, 0.125])


def residual() -> ResidualNet:
    """Return a residual network whose batch norms hold something that can be got wrong."""
    model = ResidualNet((16, 32), (1, 1), channels=3, classes=10).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value in (module.weight, module.bias, module.running_mean, module.running_var):
                nn.init.uniform_(value, 0.5, 1.5)
    return model


def chosen(model: nn.Module, level: float = 0.5, **settings: str) -> Candidate:
    """Return the candidate that factorises all layers that can be, at the nearest level on offer."""
    offers = Factorize().choices(inspect(model, SUPPLIES.examples), CAPABILITIES)
    ranks = {offer.target: min(offer.levels[1:], key=lambda it: abs(float(it) - level)) for offer in offers}
    return Candidate({"rank": ranks, "factorization": settings})


def served(file: onnx.ModelProto | bytes, images: Tensor) -> Tensor:
    """Return what ONNX Runtime computes."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.x64quantprecision", "1")  # without VNNI its sums of products overflow
    content = file if isinstance(file, bytes) else file.SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"input": images.numpy()})[0])


@st.composite
def convolutions(draw: st.DrawFn) -> nn.Conv2d:
    """Draw a convolution of any size, stride, padding and dilation."""
    torch.manual_seed(draw(st.integers(0, 999)))
    pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))
    size = draw(pairs)
    return nn.Conv2d(
        draw(st.integers(4, 24)),
        draw(st.integers(4, 24)),
        size,
        stride=draw(pairs),
        padding=(size[0] // 2, size[1] // 2),
        dilation=draw(pairs),
        bias=draw(st.booleans()),
        padding_mode=draw(st.sampled_from(["zeros", "reflect", "circular"])),
    )


@settings(deadline=None, max_examples=25)
@given(convolutions(), SHARES, st.sampled_from(["tucker", "cp"]), st.sampled_from(["rank", "energy"]))
def test_factors_compute_what_a_layer_with_the_product_as_its_weight_does(
    layer: nn.Conv2d, share: float, kind: str, by: str
) -> None:
    """Stride, padding and dilation go to the right factors; the weight that can be read is what is computed."""
    factors = factorized(layer, share, kind=kind, by=by)
    if factors is None:
        return
    dense = copy.deepcopy(layer)
    dense.weight.data = factors.weight.detach()
    x = torch.randn(2, layer.in_channels, 9, 8)
    torch.testing.assert_close(factors(x), dense(x), rtol=1e-3, atol=1e-4)
    assert (factors.bias is None) == (layer.bias is None)


@settings(deadline=None, max_examples=25)
@given(convolutions(), SHARES, st.sampled_from(["rank", "energy"]))
def test_factors_cost_what_is_promised_and_less_than_the_layer(layer: nn.Conv2d, share: float, by: str) -> None:
    """Where a stride divides the inputs, the multiply-accumulates are those that levels are chosen by."""
    factors = factorized(layer, share, by=by)
    x = torch.ones(1, layer.in_channels, 12, 12)
    positions = layer(x)[0, 0].numel()
    if factors is None:
        assert math.prod(layer.stride) > 1 or layer.kernel_size == (1, 1)
        return
    _, *ranks = (factor.out_channels for factor in reversed(factors))
    expected = cost_of(layer.weight.shape, tuple(ranks), math.prod(layer.stride))
    assert expected < layer.weight.numel()
    if len(ranks) == 1 or positions * math.prod(layer.stride) == 144:
        assert sum(cost.macs for cost in count(factors, (x,)).values()) == positions * expected


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 40), st.integers(2, 40), SHARES)
def test_linear_layer_becomes_the_nearest_two(inner: int, out: int, share: float) -> None:
    """The product is the best of its rank, and the rank is a multiple where the layer is large enough."""
    torch.manual_seed(inner)
    layer = nn.Linear(inner, out)
    factors = factorized(layer, share)
    if factors is None:
        assert cost_of((out, inner), (1,)) >= out * inner
        return
    rank = factors[0].out_features
    values = torch.linalg.svdvals(layer.weight)
    torch.testing.assert_close((factors.weight - layer.weight).norm(), values[rank:].norm(), rtol=1e-3, atol=1e-5)
    assert rank % 8 == 0 or min(inner, out) < 32
    assert factors.bias is not None
    assert torch.equal(factors.bias, layer.bias)


@given(st.integers(1, 96), st.integers(1, 96), st.sampled_from([(), (1, 1), (3, 3), (1, 5)]), st.sampled_from([1, 4]))
def test_levels_gain_more_and_more(out: int, inner: int, size: tuple[int, ...], stride: int) -> None:
    """Every level costs less than the one before it, and the first less than the layer."""
    layer = Layer(name="layer", kind="conv2d", params=0, macs=0, shape=(out, inner, *size), stride=stride)
    costs = [cost_of(layer.shape, ranks_of(layer.shape, share), stride) for share in levels(layer)]
    assert all(after < before for before, after in zip([math.prod(layer.shape), *costs], costs, strict=False))
    assert not levels(Layer(name="layer", kind="conv2d", params=0, macs=0, shape=layer.shape, groups=2))


def test_energy_keeps_the_share_with_the_fewest_channels() -> None:
    """The level is then a share of the squared singular values; the rank is the next multiple that keeps it."""
    torch.manual_seed(0)
    layer = nn.Linear(64, 128, bias=False)
    left, _, right = torch.linalg.svd(layer.weight.detach(), full_matrices=False)
    layer.weight.data = left * torch.cat((torch.full((9,), 3.0), torch.full((55,), 0.1))) @ right
    factors = factorized(layer, 0.75, by="energy")
    assert factors is not None
    assert factors[0].out_features == 8  # 8 of 9 equal ones
    values = torch.linalg.svdvals(layer.weight)
    assert lowrank.rank_for_energy(values, 0.75) <= 8
    capped = factorized(layer, 0.999, by="energy")
    assert capped is not None
    assert cost_of((128, 64), (capped[0].out_features,)) < 64 * 128


def test_rough_factors_have_the_shapes_of_refined_ones() -> None:
    """They cost the same, so that they can be timed in their place, and are a little further from the layer."""
    torch.manual_seed(0)
    layer = nn.Conv2d(32, 32, 3)
    refined, rough = factorized(layer, 0.5), factorized(layer, 0.5, rough=True)
    assert refined is not None
    assert rough is not None
    assert [p.shape for p in rough.parameters()] == [p.shape for p in refined.parameters()]
    with torch.no_grad():
        near, far = (float((each.weight - layer.weight).norm() / layer.weight.norm()) for each in (refined, rough))
    assert near < far < 1.1 * near


def test_offers_are_for_layers_that_gain() -> None:
    """Neither depthwise convolutions nor layers of few channels are on offer; what is can be read from JSON again."""
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.Conv2d(16, 16, 3, padding=1, groups=16),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.Flatten(),
        nn.Linear(32 * 64, 10),
    )
    network = inspect(model, SUPPLIES.examples)
    offers = Factorize().choices(network, CAPABILITIES)
    assert [(offer.target, offer.levels[0], offer.neutral) for offer in offers] == [("2", 1.0, 1.0), ("4", 1.0, 1.0)]
    rows = json.loads(json.dumps([asdict(layer) for layer in network.layers]))
    assert tuple(rows[2]["shape"]) == network.layers[2].shape == (32, 16, 3, 3)


def test_settings_are_stated_only_where_something_is_factorised() -> None:
    """A candidate without low ranks says nothing about how they are found."""
    technique, model = Factorize(), residual()
    offers = technique.choices(inspect(model, SUPPLIES.examples), CAPABILITIES)
    space = Space((*offers, *technique.settings()))
    assert space.candidate({}) == Candidate()
    assert space.candidate({offers[0].name: 1})["factorization"] == {"kind": "tucker", "by": "rank"}


@pytest.mark.parametrize("kind", ["tucker", "cp"])
@pytest.mark.parametrize("by", ["rank", "energy"])
def test_network_is_cheaper_and_exports(kind: str, by: str) -> None:
    """Fewer multiply-accumulates, names below the layer's own, and ONNX Runtime computes what PyTorch does."""
    model = residual()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    made = Factorize().apply(model, chosen(model, kind=kind, by=by), SUPPLIES)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    macs, fewer = (sum(cost.macs for cost in count(m, SUPPLIES.examples).values()) for m in (model, made))
    assert fewer < 0.75 * macs
    name = "stages.0.0.conv1"
    count_of = {"tucker": 3, "cp": 4}[kind]
    assert [part for part, _ in parts(made, name)] == [f"{name}.{i}" for i in range(count_of)]
    assert not made.training
    with torch.no_grad():
        torch.testing.assert_close(served(to_onnx(made, SUPPLIES.examples), IMAGES), made(IMAGES), rtol=1e-3, atol=1e-4)


def test_batch_norm_folds_into_the_last_factor() -> None:
    """No batch norm is left, and the folded network computes what it did."""
    model = residual()
    made = Factorize().apply(model, chosen(model), SUPPLIES)
    folded = fold_batch_norm(made, SUPPLIES.examples)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert folded.get_submodule("stages.0.0.conv1.2").bias is not None
    torch.testing.assert_close(folded(IMAGES), made(IMAGES), rtol=1e-3, atol=1e-4)


def test_bits_reach_every_factor() -> None:
    """A layer's bits are those of all that takes its place."""
    model = residual()
    made = Factorize().apply(model, chosen(model), SUPPLIES)
    rounded = Quantize().apply(made, Candidate({"bits": {"stages.0.0.conv1": 8}}), SUPPLIES)
    assert all(isinstance(module, Quantized) for _, module in parts(rounded, "stages.0.0.conv1"))
    assert set(strip(rounded)[1]) == {f"stages.0.0.conv1.{i}" for i in range(3)}
    with torch.no_grad():
        difference = (rounded(IMAGES) - made(IMAGES)).abs().max() / made(IMAGES).abs().max()
    assert 0 < difference < 0.1


@pytest.mark.parametrize("kind", ["tucker", "cp"])
def test_pruned_and_factorised_and_integer(kind: str) -> None:
    """All three at once go through the pipeline, trained, and agree with ONNX Runtime."""
    model = residual()
    labels = [torch.randint(0, 10, (16,)) for _ in range(8)]
    train = [(torch.randn(16, 3, 8, 8) + y[:, None, None, None] - 5, y) for y in labels]  # the brighter, the higher
    task = Task(model=model, example_inputs=IMAGES[:1], train=train, validation=train)
    network = inspect(model, task.examples)
    pruning = {offer.target: offer.levels[1] for offer in Prune().choices(network, CAPABILITIES)}
    ranks = chosen(model, kind=kind).axes
    candidate = Candidate({**ranks, "pruning_ratio": pruning, "bits": {layer.name: 8 for layer in network.layers}})
    result = apply_candidate(task, candidate, supplies_of(task), epochs=4)
    assert "stages.1.0.conv1.1" in result.quantized
    assert result.low_precision == 1
    assert result.macs < 0.6 * sum(layer.macs for layer in network.layers)
    x = train[0][0]
    with torch.no_grad():
        expected = result.model(x)
    off = (served(result.onnx, x) - expected).abs().max() / (expected.amax(0) - expected.amin(0)).max()
    assert off < 0.1


def test_pruning_leaves_ranks_that_gain() -> None:
    """A level that would cost more than a pruned layer gives a smaller rank."""
    layer = nn.Conv2d(3, 64, 3)
    factors = factorized(layer, 0.75)
    assert factors is not None
    assert sum(p.numel() for p in factors.parameters()) - 64 < layer.weight.numel()


def test_layer_that_no_rank_makes_cheaper_is_infeasible() -> None:
    """A single input has nothing to factorise; the reason tells the shape."""
    model = nn.Sequential(nn.Linear(1, 8), nn.Linear(8, 8))
    supplies = Supplies(examples=(torch.ones(1, 1),), calibration=[])
    with pytest.raises(InfeasibleError, match=r"no rank makes the layer '0' cheaper.*\(8, 1\)") as caught:
        Factorize().apply(model, Candidate({"rank": {"0": 0.5}}), supplies)
    assert caught.value.rung == "build"


class Own(nn.Linear):
    """A linear layer that does more than its type."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in) to (N, out)."""
        return super().forward(x).relu()


@pytest.mark.parametrize(
    ("model", "name", "x", "reason"),
    [
        (nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), "self_attn.out_proj", torch.ones(1, 4, 16), "call"),
        (nn.Sequential(nn.Conv2d(8, 8, 3, groups=2)), "0", torch.ones(1, 8, 4, 4), "groups"),
        (nn.Sequential(Own(16, 16)), "0", torch.ones(1, 16), "way of its own"),
        (nn.Sequential(nn.ReLU()), "0", torch.ones(1, 16), "ReLU"),
        (nn.Sequential(nn.ReLU()), "fc", torch.ones(1, 16), "none"),
    ],
)
def test_what_cannot_be_factorised_is_infeasible_with_a_reason(
    model: nn.Module, name: str, x: Tensor, reason: str
) -> None:
    """It is not on offer, and a candidate that asks for it ends when it is built."""
    assert name not in {o.target for o in Factorize().choices(inspect(model.eval(), (x,)), CAPABILITIES)}
    with pytest.raises(InfeasibleError, match=f"'{name}' cannot be factorised: .*{reason}") as caught:
        Factorize().apply(model, Candidate({"rank": {name: 0.5}}), Supplies(examples=(x,), calibration=[]))
    assert caught.value.rung == "build"


@pytest.mark.parametrize("depth", [1, 2])
def test_layers_inside_of_pytorchs_encoder_are_factorised(depth: int) -> None:
    """It looks at the weights of its linear layers, and in evaluation would compute without calling them."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, depth).eval()
    tokens = torch.randn(4, 6, 32)
    supplies = Supplies(examples=(tokens[:1],), calibration=[(tokens,)])
    axes = {"rank": {"layers.0.linear1": 0.25, "layers.0.linear2": 0.25}}
    made = Factorize().apply(model, Candidate(axes), supplies)
    dense = copy.deepcopy(model)
    for name in axes["rank"]:
        assert isinstance(made.get_submodule(name), Factorized)
        dense.get_submodule(name).weight.data = made.get_submodule(name).weight.detach()
    with torch.no_grad():
        assert not torch.allclose(made(tokens), model(tokens), atol=1e-3)
        torch.testing.assert_close(made(tokens), dense(tokens), rtol=1e-4, atol=1e-4)
    assert made.get_submodule("layers.0.linear1").in_features == 32


def test_layer_with_two_names_is_replaced_under_both() -> None:
    """A layer that a network holds twice stays one layer."""
    shared = nn.Linear(16, 16)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    supplies = Supplies(examples=(torch.ones(1, 16),), calibration=[])
    made = Factorize().apply(model, Candidate({"rank": {"0": 0.25}}), supplies)
    assert made[0] is made[2]
    assert isinstance(made[0], Factorized)
