"""Penalties that make channels small before they are pruned."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from autocompress.compressors.distillation.distill import distil
from autocompress.compressors.pruning.prune import channel_scores
from autocompress.compressors.pruning.regularizer import PENALTIES, STRENGTH, sparsity_penalty
from autocompress.compressors.technique import Supplies
from autocompress.errors import InfeasibleError
from autocompress.studies.residual import ResidualNet
from autocompress.studies.task import Task

from ..samples import batches

IMAGES = (torch.ones(1, 1, 8, 8),)


@pytest.fixture(scope="module")
def task() -> Task:
    """Return a task with a small network that has learnt it."""
    torch.manual_seed(0)
    model = ResidualNet((8, 16), (1, 1), classes=2).eval()
    task = Task(model=model, example_inputs=IMAGES[0], train=batches(16), validation=batches(2))
    distil(model, copy.deepcopy(model), task, settings={"weight": 0.0}, epochs=3, seed=0)
    return task


@pytest.mark.parametrize("kind", PENALTIES)
def test_penalty_begins_at_its_strength(kind: str, task: Task) -> None:
    """What the given network pays does not depend on its weights; smaller channels pay less."""
    penalty = sparsity_penalty(kind, task.model, ["stem.0", "stages.1.0.conv1"], IMAGES)
    assert penalty(task.model).item() == pytest.approx(STRENGTH, rel=1e-4)
    small = copy.deepcopy(task.model)
    with torch.no_grad():
        for parameter in small.parameters():
            parameter *= 0.5
    assert penalty(small).item() == pytest.approx(STRENGTH / 2, rel=1e-3)
    larger = copy.deepcopy(task.model)
    larger.stem[0].weight.data *= 100
    assert sparsity_penalty(kind, larger, ["stem.0"], IMAGES)(larger).item() == pytest.approx(STRENGTH, rel=1e-4)


@pytest.mark.parametrize("kind", PENALTIES)
def test_penalty_is_picklable_and_holds_no_network(kind: str, task: Task) -> None:
    """It survives another process, where it is asked about a copy of the network."""
    before = copy.deepcopy(task.model.state_dict())
    penalty = sparsity_penalty(kind, task.model, ["stem.0"], IMAGES)
    assert all(torch.equal(before[name], value) for name, value in task.model.state_dict().items())
    sent = pickle.dumps(penalty)
    assert torch.equal(pickle.loads(sent)(copy.deepcopy(task.model)), penalty(task.model))
    weights = sum(parameter.numel() for parameter in task.model.parameters())
    assert len(sent) < 4 * weights


@pytest.mark.parametrize("kind", PENALTIES)
def test_only_the_groups_that_are_named_are_penalised(kind: str, task: Task) -> None:
    """Parameters in which no pruned channel lies get no gradient; those in which one does, get a finite one."""
    model = copy.deepcopy(task.model)
    model.stages[1][0].bn1.weight.data[0] = 0
    names = [name for name, _ in model.named_parameters()]
    loss = sparsity_penalty(kind, model, ["stages.1.0.conv1"], IMAGES)(model)
    slopes = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    found = {name.removeprefix("stages.1.0.") for name, slope in zip(names, slopes, strict=True) if slope is not None}
    assert found == ({"bn1.weight"} if kind == "l1" else {"conv1.weight", "bn1.weight", "conv2.weight"})
    assert all(slope.isfinite().all() for slope in slopes if slope is not None)


def test_channels_that_are_zero_everywhere_have_a_finite_gradient(task: Task) -> None:
    """The root of zero does not spoil a training."""
    model = nn.Sequential(nn.Linear(2, 3, bias=False), nn.Linear(3, 2))
    for layer in model:
        layer.weight.data.zero_()
    penalty = sparsity_penalty("group", model, ["0"], (torch.ones(1, 2),))
    slopes = torch.autograd.grad(penalty(model), [model[0].weight, model[1].weight])
    assert all(slope.isfinite().all() for slope in slopes)


def test_weights_are_penalised_where_there_is_no_batch_norm() -> None:
    """The L1 norm is then of what writes the channels."""
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    penalty = sparsity_penalty("l1", model, ["0"], (torch.ones(1, 2),))
    half = copy.deepcopy(model)
    half[0].weight.data[0] = 0
    sizes = model[0].weight.detach().abs().sum(1)
    assert penalty(half).item() == pytest.approx(STRENGTH * float(sizes[1:].sum() / sizes.sum()), rel=1e-4)


def weakest_share(model: nn.Module, importance: str) -> float:
    """Return which part of all magnitude the weaker half of the channels has, as a mean over groups."""
    groups = ["stem.0", "stages.1.0.conv1", "stages.1.0.conv2"]
    found = channel_scores(model, groups, Supplies(examples=IMAGES, calibration=()), importance=importance)
    shares = [scores.sort().values[: len(scores) // 2].sum() / scores.sum() for scores in found.values()]
    return float(torch.stack(shares).mean())


@pytest.mark.parametrize(("kind", "importance"), [("l1", "bn_scale"), ("group", "magnitude")])
def test_channels_get_sparser_than_without(kind: str, importance: str, task: Task) -> None:
    """After the same training the weaker half of the channels holds less than without; the network still works."""
    groups = ["stem.0", "stages.1.0.conv1", "stages.1.0.conv2"]
    penalised, plain = copy.deepcopy(task.model), copy.deepcopy(task.model)
    penalty = sparsity_penalty(kind, task.model, groups, IMAGES)
    for student, extra in ((penalised, penalty), (plain, None)):
        distil(student, task.model, task, settings={"learning_rate": 0.03}, epochs=4, seed=0, penalty=extra)
    assert weakest_share(penalised, importance) < 0.85 * weakest_share(plain, importance)
    assert task.metric(penalised, task.validation) > 0.85


def test_unknown_penalty_is_infeasible(task: Task) -> None:
    """A name that is none of the penalties' ends at the rung of building."""
    with pytest.raises(InfeasibleError, match="none or one of l1, group, got 'l7'") as caught:
        sparsity_penalty("l7", task.model, ["stem.0"], IMAGES)
    assert caught.value.rung == "build"
