"""Networks that give more while they are trained than when they are served: heads that only help."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from autocompress.compressors.distillation.bfloat16 import in_bfloat16
from autocompress.compressors.distillation.distill import choices, distil
from autocompress.compressors.distillation.loss import DistillationLoss
from autocompress.compressors.pipeline import apply_candidate, supplies_of
from autocompress.spaces.candidate import Candidate
from autocompress.studies.distance import Softmax
from autocompress.studies.keywords import tensors_in, with_tensor
from autocompress.studies.loss_probe import choose_distance
from autocompress.studies.task import Batch, Task


class Named(NamedTuple):
    """As torchvision's GoogLeNet gives."""

    logits: Tensor
    aux: Tensor


@dataclass
class Fields:
    """As Hugging Face's networks give."""

    loss: Tensor | None
    aux: Tensor
    logits: Tensor


OUTPUTS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "tuple": lambda out, aux: (out, aux),
    "list": lambda out, aux: [out, aux],
    "other first": lambda out, aux: (aux[:, :2], out),
    "named": Named,
    "fields": lambda out, aux: Fields(None, aux, out),
    "mapping": lambda out, aux: OrderedDict(out=out, aux=aux),
    "a part that is no tensor": lambda out, aux: (out, [aux]),
}


class Helped(nn.Module):
    """A classifier with a second head that is used in training alone."""

    def __init__(self, give: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.give = give
        self.body = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU())
        self.aux, self.head = nn.Linear(8, 3), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Any:
        """Return the logits; in training both heads'."""
        features = self.body(x)
        out = self.head(self.second(features).mean((2, 3)))
        return self.give(out, self.aux(features.mean((2, 3)))) if self.training else out


def loss(model: nn.Module, batch: Batch) -> Tensor:
    """Return the cross-entropy of all that the model gives for three classes."""
    found = model(batch[0])
    parts = [each for each in tensors_in(found).values() if each.shape[1] == 3]
    return torch.stack([functional.cross_entropy(each, batch[1]) for each in parts]).sum()


@pytest.fixture(params=OUTPUTS)
def task(request: pytest.FixtureRequest) -> Task:
    """Return a task for each kind of outputs."""
    torch.manual_seed(0)
    data = [(torch.randn(8, 1, 8, 8), torch.arange(8) % 3) for _ in range(4)]
    return Task(Helped(OUTPUTS[request.param]).eval(), data[0][0][:1], data, data, loss=loss)


def test_settings_are_offered_as_for_one_output(task: Task) -> None:
    """The distance is found by asking the loss, whatever its outputs are wrapped in."""
    if task.model.give is OUTPUTS["other first"]:
        pytest.skip("what comes first is what the loss is asked by, and it does not depend on that")
    assert {choice.target for choice in choices(task)} >= {"weight", "learning_rate", "features", "attention"}
    assert choose_distance(task).name == "softmax over axis 1"


def test_the_distance_is_that_of_the_head_that_serves(task: Task) -> None:
    """The student's output of the teacher's shape is compared to it; the loss has all of them."""
    (images, labels), model = task.train[0], task.model  # type: ignore[index]
    object.__setattr__(task, "distance", Softmax())
    settings = {"weight": 0.5, "temperature": 2.0, "features": 0.0, "attention": 0.0}
    taught = DistillationLoss(model, model, task, settings, None)
    model.train()
    with taught.watching():
        found = taught((images, labels))
    outputs = next(x for x in tensors_in(model(images)).values() if x.shape[1] == 3)
    apart = Softmax()(outputs, outputs.detach(), 2.0)
    assert found.isfinite()
    torch.testing.assert_close(found, 0.5 * loss(model, (images, labels)) + 0.5 * apart)


def test_a_candidate_is_trained_with_all_that_teaches(task: Task) -> None:
    """Soft labels, features and attention work, and what is left answers with one tensor."""
    settings = {"weight": 0.7, "features": 0.1, "attention": 0.1}
    candidate = Candidate({"pruning_ratio": {"second.0": 0.5}, "distillation": settings})
    built = apply_candidate(task, candidate, supplies_of(task), epochs=1, seed=1)
    assert built.model(torch.zeros(2, 1, 8, 8)).shape == (2, 3)
    student = Helped(task.model.give)  # type: ignore[arg-type]
    before = student.head.weight.detach().clone()
    distil(student, task.model, task, settings=settings, epochs=1, seed=0)
    assert not torch.equal(student.head.weight, before)


def test_all_that_is_given_in_bfloat16_is_taken_to_float32(task: Task) -> None:
    """A loss sees the numbers that it is written for, whatever they are wrapped in; nothing is left switched on."""
    model = task.model.train()
    with in_bfloat16(model):
        found = tensors_in(model(torch.randn(4, 1, 8, 8)))
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("kind", OUTPUTS)
def test_an_output_keeps_its_form_when_a_tensor_in_it_is_another(kind: str) -> None:
    """All else stays, and the original is as it was."""
    given = OUTPUTS[kind](torch.zeros(1, 3), torch.ones(1, 3))
    name, first = next(iter(tensors_in(given).items()))
    changed = with_tensor(given, name, first + 5)
    assert type(changed) is type(given)
    assert float(next(iter(tensors_in(changed).values())).min()) >= 5
    assert float(next(iter(tensors_in(given).values())).max()) <= 1
    assert len(tensors_in(changed)) == len(tensors_in(given))
