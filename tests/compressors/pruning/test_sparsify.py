"""Sparsity: the smallest weights are zero, and stay zero through training, folding, rounding and export."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from torch import Tensor, nn

from autocompress.compressors.modules import parts
from autocompress.compressors.onnx_files.number_formats import is_two_four
from autocompress.compressors.pipeline import apply_candidate, space_of, supplies_of
from autocompress.compressors.pruning.inspect import inspect
from autocompress.compressors.pruning.sparsify import Sparsify, largest
from autocompress.compressors.technique import Supplies
from autocompress.errors import InfeasibleError
from autocompress.spaces.candidate import Candidate
from autocompress.spaces.capabilities import Capabilities
from autocompress.studies.residual import ResidualNet
from autocompress.studies.task import Task, cross_entropy

IMAGES = torch.randn(64, 4, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.randint(0, 3, (64,), generator=torch.Generator().manual_seed(1))
SUPPLIES = Supplies(examples=(IMAGES[:1],), calibration=[(IMAGES[:16],)])
LAYERS = ("stem.0", "stages.0.0.conv1", "stages.1.0.conv2", "stages.1.0.shortcut.0", "head")


def residual() -> ResidualNet:
    """Return a small residual network in evaluation mode."""
    return ResidualNet((8, 16), (1, 1), channels=4, classes=3).eval()


@pytest.fixture
def task() -> Task:
    """Return a task in which brightness tells the class."""
    images = IMAGES + LABELS[:, None, None, None] - 1
    train = list(zip(images.split(16), LABELS.split(16), strict=True))
    return Task(model=residual(), example_inputs=IMAGES[:1], train=train, validation=train)


def at(level: float | str, names: tuple[str, ...] = LAYERS, **axes: dict[str, float | int | str]) -> Candidate:
    """Return the candidate with a level in layers, and whatever else."""
    return Candidate({**axes, "sparsity": dict.fromkeys(names, level)})


def stored(file: bytes) -> dict[str, np.ndarray]:
    """Return the stored weights of a file's layers, integers where it has them, with their outputs first."""
    graph = onnx.load_from_string(file).graph
    constants = {constant.name: numpy_helper.to_array(constant) for constant in graph.initializer}
    behind = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "DequantizeLinear"}
    layers = [node for node in graph.node if node.op_type in {"Conv", "Gemm"}]
    assert all(any(a.name == "transB" and a.i for a in n.attribute) for n in layers if n.op_type == "Gemm")
    return {node.name: constants[behind.get(node.input[1], node.input[1])] for node in layers}


@settings(deadline=None)
@given(st.lists(st.floats(-9, 9, width=32), min_size=1, max_size=40), st.floats(0, 1))
def test_smallest_weights_go(values: list[float], sparsity: float) -> None:
    """The share is exact to a whole number, and nothing that stays is smaller than what goes."""
    weight = torch.tensor(values)
    mask = largest(weight, sparsity)
    assert int((~mask).sum()) == round(sparsity * len(values))
    kept, gone = weight.abs()[mask], weight.abs()[~mask]
    assert not len(kept) or not len(gone) or kept.min() >= gone.max()


@pytest.mark.parametrize("level", [0.5, 0.75, 0.9, "2:4"])
def test_chosen_layers_are_sparse_and_others_stay(level: float | str) -> None:
    """Zeros are where they should be, weights that stay keep their value, and the given network is not changed."""
    model = residual()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    made = Sparsify().apply(model, at(level), SUPPLIES)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    for name, value in made.state_dict().items():
        if name.removesuffix(".weight") in LAYERS:
            share = 0.5 if level == "2:4" else float(level)
            assert int((value == 0).sum()) == round(share * value.numel())
            assert level != "2:4" or is_two_four(value.numpy(), 1)
            assert torch.equal(value[value != 0], before[name][value != 0])
        else:
            assert torch.equal(value, before[name])


def test_offers_are_what_the_runtime_gains_from() -> None:
    """Nothing without a gain; 2:4 only where four divides the inputs; neutral first."""
    network = inspect(ResidualNet((8, 16), (1, 1)).eval(), (torch.ones(1, 1, 8, 8),))
    assert Sparsify().choices(network, Capabilities(runtime="fake")) == ()
    offers = Sparsify().choices(network, Capabilities(runtime="fake", sparsity=("2:4",)))
    assert {o.target for o in offers} == {layer.name for layer in network.layers} - {"stem.0"}
    assert {(o.levels, o.neutral) for o in offers} == {((0.0, "2:4"), 0.0)}
    offers = Sparsify().choices(network, Capabilities(runtime="fake", sparsity=(0.5, 0.9)))
    assert {(o.target, o.levels) for o in offers} == {(layer.name, (0.0, 0.5, 0.9)) for layer in network.layers}
    space = space_of(network, Capabilities(runtime="fake", sparsity=("2:4",)))
    assert len(list(space.on("sparsity"))) == len(network.layers) - 1


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD, torch.optim.RMSprop])
def test_zeros_stay_while_held_and_no_longer(optimizer: type[torch.optim.Optimizer]) -> None:
    """Whatever optimizer trains, zeros are zeros to the bit and the other weights learn; afterwards all are free."""
    technique, candidate = Sparsify(), at("2:4")
    model = technique.apply(residual(), candidate, SUPPLIES).train()

    def zeros() -> Tensor:
        return torch.cat([(part.weight == 0).flatten() for n in LAYERS for _, part in parts(model, n)])  # type: ignore[union-attr]

    def step() -> None:
        trainer = optimizer(model.parameters(), lr=0.01, weight_decay=0.1)  # type: ignore[call-arg]
        for _ in range(3):
            trainer.zero_grad()
            cross_entropy(model, (IMAGES, LABELS)).backward()
            trainer.step()

    before, weight = zeros(), model.stem[0].weight.detach().clone()
    with technique.hold(model, candidate):
        step()
    assert torch.equal(zeros(), before)
    assert not torch.equal(model.stem[0].weight, weight)
    step()
    assert zeros().sum() < before.sum()


@pytest.mark.parametrize("own_fit", [False, True])
@pytest.mark.parametrize("bits", [{}, dict.fromkeys(LAYERS, 8)], ids=["float", "int8"])
def test_exported_file_is_sparse_after_training(task: Task, bits: dict[str, int], *, own_fit: bool) -> None:
    """After training, folding and rounding, 2:4 holds in the file, in the layers that were chosen and not in others."""

    def fit(student: nn.Module, teacher: nn.Module, epochs: float) -> None:
        trainer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3)
        for batch in task.train:
            trainer.zero_grad()
            task.loss(student, batch).backward()
            trainer.step()

    candidate = at("2:4", bits=bits)
    used = replace(task, fit=fit) if own_fit else task
    result = apply_candidate(used, candidate, supplies_of(task), epochs=4)
    weights = stored(result.onnx)
    assert len(weights) == 7
    sparse = [weight for weight in weights.values() if is_two_four(weight, 1)]
    assert len(sparse) == len(LAYERS)
    assert sum(weight.dtype == np.int8 for weight in weights.values()) == len(bits)
    assert all((weight != 0).any() for weight in weights.values())
    unchanged = apply_candidate(task, candidate, supplies_of(task), epochs=0).state()["stem.0.weight"]
    assert not torch.equal(result.state()["stem.0.weight"], unchanged)


@pytest.mark.parametrize("kind", ["tucker", "cp"])
def test_factors_are_sparse(task: Task, kind: str) -> None:
    """A factorised layer is sparse in each part that can be, after training too."""
    name = "stages.1.0.conv2"
    candidate = at("2:4", (name,), rank={name: 0.5}, factorization={"kind": kind}, bits={name: 8})
    state = apply_candidate(task, candidate, supplies_of(task), epochs=2).state()
    made = {key: value for key, value in state.items() if key.startswith(name) and key.endswith("weight")}
    assert len(made) == {"tucker": 3, "cp": 4}[kind]
    for value in made.values():
        assert is_two_four(value.numpy(), 1) == (value.shape[1] % 4 == 0)
    assert sum(value.shape[1] % 4 == 0 for value in made.values()) >= 2


@pytest.mark.parametrize(
    ("model", "name", "reason"),
    [
        (nn.Sequential(nn.Conv2d(4, 4, 3, groups=4)), "0", "multiple of 4 inputs; the layer '0' has 1"),
        (nn.Sequential(nn.ReLU()), "0", "'0' has no weight"),
        (nn.Sequential(nn.ReLU()), "fc", "no layer 'fc'"),
    ],
)
def test_what_cannot_be_sparse_is_infeasible_with_a_reason(model: nn.Module, name: str, reason: str) -> None:
    """A candidate that asks for it ends when it is built."""
    with pytest.raises(InfeasibleError, match=reason) as caught:
        Sparsify().apply(model, at("2:4", (name,)), SUPPLIES)
    assert caught.value.rung == "build"
