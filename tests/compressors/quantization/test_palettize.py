"""Palettes: few distinct weights, which stay few while they are trained."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from autocompress.compressors.compact.acz import pack as packed
from autocompress.compressors.compact.acz import tensors
from autocompress.compressors.pipeline import apply_candidate, supplies_of
from autocompress.compressors.pruning.inspect import inspect
from autocompress.compressors.quantization.palettize import LEVELS, Palettize, palettized
from autocompress.compressors.quantization.quantize import Quantize
from autocompress.compressors.technique import Supplies
from autocompress.errors import InfeasibleError
from autocompress.spaces.candidate import Candidate
from autocompress.spaces.capabilities import Capabilities
from autocompress.studies.residual import ResidualNet
from autocompress.studies.task import Task

IMAGES = (torch.ones(1, 1, 8, 8),)
SUPPLIES = Supplies(examples=IMAGES, calibration=[IMAGES])


def network() -> ResidualNet:
    """Return a small residual network with weights of its own."""
    torch.manual_seed(0)
    return ResidualNet((8, 16), (1, 1), classes=4).eval()


def distinct(weight: Tensor) -> int:
    """Return how many bit patterns a weight has."""
    return len(weight.detach().contiguous().view(torch.int32).unique())


def whole(bits: int) -> Candidate:
    """Return the candidate with a palette of so many bits in each layer."""
    return Candidate({"palette": {layer.name: bits for layer in inspect(network(), IMAGES).layers}})


def test_palettes_are_offered_only_where_stored_bytes_count() -> None:
    """A runtime's capabilities have to ask for them; then each layer has all sizes, no palette first."""
    layers = inspect(network(), IMAGES)
    assert Palettize().choices(layers, Capabilities(runtime="fake")) == ()
    offers = Palettize().choices(layers, Capabilities(runtime="fake", palettes=True))
    assert [offer.target for offer in offers] == [layer.name for layer in layers.layers]
    assert {(offer.axis, offer.levels, offer.neutral) for offer in offers} == {("palette", LEVELS, 32)}
    assert LEVELS == (32, 8, 6, 5, 4, 3, 2)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 999), st.integers(1, 8), st.floats(0, 0.9), st.sampled_from([(4, 3, 3, 3), (50,), (40, 50)]))
def test_palette_is_small_and_near(seed: int, bits: int, sparsity: float, shape: tuple[int, ...]) -> None:
    """At most two to the power of bits values, zeros where they were, and the more bits the nearer."""
    torch.manual_seed(seed)
    weight = torch.randn(shape) * (torch.rand(shape) >= sparsity)
    found, finer = (palettized(weight, 2**size) for size in (bits, bits + 2))
    assert found.shape == weight.shape
    assert distinct(found) <= 2**bits
    assert torch.equal(found[weight == 0], weight[weight == 0])
    assert (finer - weight).square().sum() <= (found - weight).square().sum()
    assert torch.equal(palettized(found, 2**bits), found)


@pytest.mark.parametrize("bits", [6, 4, 2])
def test_each_chosen_layer_has_its_palette(bits: int) -> None:
    """With batch norms folded before, so that the file holds what the palette has; other layers stay."""
    model = network()
    before = copy.deepcopy(model.state_dict())
    made = Palettize().apply(model, Candidate({"palette": {"stem.0": bits, "head": 32}}), SUPPLIES)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not [module for module in made.modules() if isinstance(module, nn.BatchNorm2d)]
    assert distinct(made.get_parameter("stem.0.weight")) <= 2**bits < 72
    assert torch.equal(made.get_parameter("head.weight"), model.head.weight)


def test_integers_have_no_palette() -> None:
    """A layer that is quantized keeps its weights; its neighbour in float gets its palette."""
    model, candidate = network(), Candidate({"bits": {"stem.0": 8}, "palette": {"stem.0": 2, "head": 2}})
    quantized = Quantize().apply(model, candidate, SUPPLIES)
    made = Palettize().apply(quantized, candidate, SUPPLIES)
    assert torch.equal(made.get_submodule("stem.0").weight, quantized.get_submodule("stem.0").weight)
    assert distinct(made.get_parameter("head.weight")) <= 4
    with Palettize().hold(made, candidate):
        made(*IMAGES).sum().backward()
    assert distinct(made.get_submodule("stem.0").weight.grad) > 4


def test_what_cannot_be_built_says_why() -> None:
    """A layer that is not there, and weights that are not finite."""
    with pytest.raises(InfeasibleError, match="no layer 'nowhere'"):
        Palettize().apply(network(), Candidate({"palette": {"nowhere": 4}}), SUPPLIES)
    model = nn.Sequential(nn.Linear(3, 3))
    model[0].weight.data[0, 0] = torch.inf
    with pytest.raises(InfeasibleError, match="'0' are not finite") as caught:
        Palettize().apply(
            model, Candidate({"palette": {"0": 2}}), Supplies(examples=(torch.ones(1, 3),), calibration=())
        )
    assert caught.value.rung == "build"


def test_shared_gradient_is_the_projection() -> None:
    """Each weight of a cluster gets the mean of their gradients; a layer without a palette is left to itself."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 3))
    model[0].weight.data = torch.tensor([[1.0, 2.0], [2.0, 1.0]])
    plain = copy.deepcopy(model)
    x = torch.randn(5, 2)
    with Palettize().hold(model, Candidate({"palette": {"0": 1, "1": 2}})):
        for it in (model, plain):
            it(x).square().sum().backward()
    gradient = plain[0].weight.grad
    one, two = (gradient[0, 0] + gradient[1, 1]) / 2, (gradient[0, 1] + gradient[1, 0]) / 2
    torch.testing.assert_close(model[0].weight.grad, torch.stack((one, two, two, one)).reshape(2, 2))
    torch.testing.assert_close(model[1].weight.grad, plain[1].weight.grad, rtol=0, atol=0)


def quadrants(count: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Return images whose class is the quadrant that is a little brighter."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (count, 32), generator=random)
    images = torch.randn(count, 32, 1, 8, 8, generator=random)
    for quadrant in range(4):
        row, column = 4 * (quadrant // 2), 4 * (quadrant % 2)
        images[..., row : row + 4, column : column + 4] += 0.7 * (labels == quadrant)[:, :, None, None, None]
    return list(zip(images, labels, strict=True))


@pytest.fixture(scope="module")
def task() -> Task:
    """Return a task with a network that was trained for it."""
    model, train = network().train(), quadrants(24, 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(3):
        for images, labels in train:
            optimizer.zero_grad()
            functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
    return Task(model=model.eval(), example_inputs=IMAGES[0], train=train, validation=quadrants(20, 1))


OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "AdamW": lambda model: torch.optim.AdamW(model.parameters(), lr=0.003),
    "SGD": lambda model: torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, nesterov=True),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_weights_of_a_cluster_move_together(name: str, task: Task) -> None:
    """Training moves the palettes and lowers the loss; which weights are equal stays, to the bit."""
    candidate = whole(2)
    model = Palettize().apply(task.model, candidate, SUPPLIES)
    x, y = quadrants(1, 2)[0]
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    losses = []
    with Palettize().hold(model, candidate):
        optimizer = OPTIMIZERS[name](model)
        for _ in range(12):
            losses.append(functional.cross_entropy(model(x), y))
            optimizer.zero_grad()
            losses[-1].backward()
            optimizer.step()
    assert losses[-1] < 0.8 * losses[0]
    for layer in candidate["palette"]:
        old, new = before[f"{layer}.weight"], model.get_parameter(f"{layer}.weight")
        clusters = old.unique(return_inverse=True)[1]
        assert distinct(new) <= 4
        assert not torch.equal(old, new)
        for cluster in range(int(clusters.max()) + 1):
            assert distinct(new[clusters == cluster]) == 1
    model(x).sum().backward()  # what held them is gone
    assert distinct(model.get_parameter("head.weight").grad) > 4


def test_trained_palettes_are_better_and_stay_small_in_the_file(task: Task) -> None:
    """A palette of four weights a layer costs accuracy, which training brings back; the file has four in each layer."""
    candidate, supplies = whole(2), supplies_of(task)
    original = task.metric(task.model, task.validation)
    one_shot, trained = (apply_candidate(task, candidate, supplies, epochs=epochs) for epochs in (0, 3))
    scores = [task.metric(result.model, task.validation) for result in (one_shot, trained)]
    assert original > 0.8
    assert scores[0] < original - 0.05
    assert scores[1] > scores[0] + 0.05
    weights = {it.name: numpy_helper.to_array(it) for it in onnx.load_from_string(trained.onnx).graph.initializer}
    for layer in candidate["palette"]:
        assert len(np.unique(weights[f"{layer}.weight"].view(np.uint32))) <= 4
    rows = [row for row in tensors(packed(trained.onnx)) if row.entry.name.endswith("weight")]
    assert rows
    assert all(row.coding == "palette" and row.distinct <= 4 for row in rows)


def test_pruned_network_has_palettes_too(task: Task) -> None:
    """Shapes come first and are trained freely; then the layers that are left get their palettes."""
    axes = {"pruning_ratio": {"stages.1.0.conv1": 0.5}, "palette": {"stages.1.0.conv1": 4, "stages.1.0.conv2": 4}}
    result = apply_candidate(task, Candidate(axes), supplies_of(task), epochs=0.5)
    for name in axes["palette"]:
        weight = result.plain.get_submodule(name).weight
        assert min(weight.shape[:2]) == 8
        assert distinct(weight) <= 16
