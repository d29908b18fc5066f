"""What is frozen stays frozen, whatever is made of it."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autocompress.compressors.inherited_weights import Ancestor
from autocompress.compressors.pipeline import apply_candidate, supplies_of
from autocompress.spaces.candidate import Candidate
from autocompress.studies.residual import ResidualNet
from autocompress.studies.task import Task

from .samples import batches

PRUNED: dict[str, Any] = {"pruning_ratio": {"stem.0": 0.5}}
NARROW = Candidate({"pruning_ratio": {"stem.0": 0.25}})
CANDIDATES = {
    "nothing": Candidate(),
    "pruned": Candidate(PRUNED),
    "pruned by gradients in steps": Candidate(PRUNED | {"pruning": {"importance": "taylor", "steps": 2}}),
    "after a penalty": Candidate(PRUNED | {"pruning": {"penalty": "l1"}}),
    "factors": Candidate({"rank": {"stages.0.0.conv1": 0.5, "stages.0.0.conv2": 0.5}}),
    "zeros": Candidate({"sparsity": {"stages.0.0.conv1": 0.5}}),
    "INT8": Candidate({"bits": {"stem.0": 8, "head": 8}}),
    "learned steps": Candidate({"bits": {"stem.0": 8, "head": 8}, "quantization": {"scales": "learned"}}),
    "palettes": Candidate({"palette": {"stem.0": 4, "stages.0.0.conv1": 4}}),
    "pruned, factors and INT8": Candidate(PRUNED | {"rank": {"stages.0.0.conv1": 0.5}, "bits": {"stem.0": 8}}),
}
BACKBONE = ("stem", "stages.0")


@pytest.fixture
def task() -> Task:
    """Return a task whose network has a frozen backbone."""
    model = ResidualNet((8, 16), (1, 1), classes=2).eval()
    for part in BACKBONE:
        model.get_submodule(part).requires_grad_(False)
    return Task(model=model, example_inputs=torch.ones(1, 1, 8, 8), train=batches(4), validation=batches(2))


def trained(task: Task, candidate: Candidate, ancestor: Ancestor | None = None) -> list[tuple[set[str], set[str]]]:
    """Return which parameters have changed in each phase of a training, and which have not."""
    phases = []

    def fit(student: nn.Module, teacher: nn.Module, epochs: float) -> None:
        before = {name: p.detach().clone() for name, p in student.named_parameters()}
        optimizer = torch.optim.SGD([p for p in student.parameters() if p.requires_grad], 0.1)
        for batch in batches(2):
            optimizer.zero_grad()
            task.loss(student, batch).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        changed = {name for name, p in student.named_parameters() if not torch.equal(p, before[name])}
        phases.append((changed, before.keys() - changed))

    apply_candidate(replace(task, fit=fit), candidate, supplies_of(task), epochs=1, ancestor=ancestor)
    return phases


def of_backbone(names: set[str]) -> set[str]:
    """Return the names of what is in the backbone."""
    return {name for name in names if name.startswith(tuple(f"{part}." for part in BACKBONE))}


@pytest.mark.parametrize("name", CANDIDATES)
def test_what_is_made_of_frozen_parameters_is_not_trained(task: Task, name: str) -> None:
    """The weights, factors, steps and folded biases of a frozen backbone stay in every phase; the rest is trained."""
    phases = trained(task, CANDIDATES[name])
    assert phases
    for changed, same in phases:
        assert not of_backbone(changed)
        assert of_backbone(same)
        assert any(part.startswith("head") for part in changed)


def test_what_goes_on_from_another_model_is_frozen_too(task: Task) -> None:
    """Inherited weights are those of the same network."""
    ancestor = apply_candidate(task, NARROW, supplies_of(task), epochs=0.5).ancestor
    assert ancestor is not None
    ((changed, _),) = trained(task, CANDIDATES["pruned"], ancestor)
    assert changed
    assert not of_backbone(changed)


def test_a_network_that_is_frozen_as_a_whole_is_trained(task: Task) -> None:
    """It was made ready to be served, and there would be nothing to train."""
    task.model.requires_grad_(False)
    for name in ("nothing", "pruned", "INT8"):
        for changed, _ in trained(task, CANDIDATES[name]):
            assert of_backbone(changed)
    assert not any(p.requires_grad for p in task.model.parameters())


def test_one_parameter_of_a_layer_may_be_frozen() -> None:
    """A frozen weight with a bias that is trained stays that, through pruning and INT8."""
    model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 2)).eval()
    model[0].weight.requires_grad_(False)  # type: ignore[union-attr]
    task = Task(model, torch.ones(1, 1, 8, 8), batches(4), batches(2))
    for changed, same in trained(task, Candidate({"pruning_ratio": {"0": 0.5}, "bits": {"0": 8}})):
        assert any(name.endswith("bias") and name.startswith("0") for name in changed)
        assert {name for name in same if name.startswith("0") and name.endswith("weight")}


def test_our_own_training_leaves_frozen_weights(task: Task) -> None:
    """Neither gradients nor weight decay reach them."""
    before = copy.deepcopy(task.model.state_dict())
    state = apply_candidate(task, Candidate(), supplies_of(task), epochs=1).state()
    assert not torch.equal(state["head.weight"], before["head.weight"])
    frozen: list[Tensor] = [p for p in task.model.parameters() if not p.requires_grad]
    assert frozen
