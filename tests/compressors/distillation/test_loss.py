"""The loss of distillation: what the teacher is given, and what counts in the distance to its outputs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from autocompress.compressors.distillation.distill import DEFAULTS, distil
from autocompress.compressors.distillation.intermediate import Hints
from autocompress.compressors.distillation.loss import DistillationLoss
from autocompress.errors import blamed
from autocompress.studies.distance import OFF, Softmax
from autocompress.studies.task import Batch, Task


class Seen(nn.Module):
    """A classifier that remembers what it was given."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        self.inputs: list[Tensor] = []

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """Return logits of a sum."""
        self.inputs.append(x if other is None else x + other)
        return self.layers(self.inputs[-1])


def mixup(model: nn.Module, batch: Batch) -> Tensor:
    """Return the loss of mixed inputs, as Zhang et al., ICLR 2018."""
    inputs, labels = batch
    share, order = float(torch.rand(())), torch.randperm(len(inputs))
    outputs = model(share * inputs + (1 - share) * inputs[order])
    first, second = (functional.cross_entropy(outputs, y) for y in (labels, labels[order]))
    return share * first + (1 - share) * second


def two_views(model: nn.Module, batch: Batch) -> Tensor:
    """Return the loss of two views: the first counts for its labels, both for agreeing."""
    inputs, labels = batch
    one, other = (model(inputs + 0.1 * torch.randn_like(inputs)) for _ in range(2))
    return functional.cross_entropy(one, labels) + functional.mse_loss(one, other)


def by_keyword(model: nn.Module, batch: Batch) -> Tensor:
    """Return the loss of two inputs, one of them by its name."""
    inputs, labels = batch
    return functional.cross_entropy(model(inputs, other=torch.rand_like(inputs)), labels)


def with_a_look(model: nn.Module, batch: Batch) -> Tensor:
    """Return the usual loss; the network is asked once more, for nothing that is learned."""
    inputs, labels = batch
    loss = functional.cross_entropy(model(2 * inputs), labels)
    with torch.no_grad():
        model(inputs)
    return loss


def task_of(loss: Callable[[nn.Module, Batch], Tensor], **more: Any) -> Task:
    """Return a task of points in three classes."""
    points = torch.randn(4, 8, 4, generator=torch.Generator().manual_seed(1))
    batches = [(x, torch.arange(8) % 3) for x in points]
    return Task(Seen(), points[0, :1], batches, batches, loss=loss, **more)


def settings(**changed: float) -> Mapping[str, float]:
    """Return all settings, some of them changed."""
    return {**{name: float(value) for name, value in DEFAULTS.items()}, **changed}


@pytest.mark.parametrize("loss", [mixup, two_views, by_keyword, with_a_look])
@pytest.mark.parametrize("features", [0.0, 1.0])
def test_the_teacher_is_given_what_the_student_is(loss: Any, features: float) -> None:
    """Mixtures, views and keywords of the loss's own reach the teacher, in the same order."""
    task, teacher = task_of(loss, distance=Softmax()), Seen()
    student, (batch, *_) = copy.deepcopy(task.model), task.train
    hints = Hints(student, teacher, (batch[0],), features=features, attention=0.0) if features else None
    taught = DistillationLoss(student, teacher, task, settings(features=features), hints)
    student.inputs.clear(), teacher.inputs.clear()
    with taught.watching():
        assert taught(batch).requires_grad
    wanted = student.inputs[:1] if loss is with_a_look else student.inputs
    assert len(teacher.inputs) == len(wanted) == (2 if loss is two_views else 1)
    assert all(torch.equal(theirs, ours) for theirs, ours in zip(teacher.inputs, wanted, strict=True))


@pytest.mark.parametrize("loss", [mixup, two_views, by_keyword, with_a_look])
def test_a_copy_has_nothing_to_learn(loss: Any) -> None:
    """With all weight on the teacher the loss of its copy is 0, whatever the task's loss makes of the inputs."""
    task = task_of(loss)
    taught = DistillationLoss(task.model, copy.deepcopy(task.model), task, settings(weight=1.0), None)
    with taught.watching():
        assert taught(task.train[0]).item() == pytest.approx(0, abs=1e-6)


def test_without_a_distance_the_task_has_its_whole_loss() -> None:
    """Where nothing is learned from the teacher's outputs the weight of that counts for nothing."""
    task = task_of(by_keyword, distance=OFF)
    taught = DistillationLoss(task.model, Seen(), task, settings(), None)
    torch.manual_seed(1)
    with taught.watching():
        loss = taught(task.train[0])
    torch.manual_seed(1)
    assert loss.item() == pytest.approx(by_keyword(task.model, task.train[0]).item())


def padded(model: nn.Module, batch: Batch) -> Tensor:
    """Return the loss of tokens that are no padding."""
    inputs, labels = batch
    return functional.cross_entropy(model(inputs).flatten(0, 1), labels.flatten())


@pytest.mark.parametrize("weight", [0.5, 1.0])
def test_padding_does_not_count(weight: float) -> None:
    """What the networks give where the labels are ignored changes nothing, and as much padding again neither."""
    torch.manual_seed(0)
    inputs, labels = torch.randn(4, 6, 5), torch.randint(3, (4, 6))
    inputs[:, 4:], labels[:, 4:] = 7.0, -100
    model, teacher = nn.Linear(5, 3), nn.Linear(5, 3)
    found = []
    for x, y in ((inputs, labels), (inputs.repeat(1, 2, 1), torch.cat([labels, 0 * labels - 100], 1))):
        task = Task(model, x[:1], [(x, y)], [(x, y)], loss=padded)
        taught = DistillationLoss(model, teacher, task, settings(weight=weight), None)
        with taught.watching():
            found.append(taught((x, y)))
    assert found[0].item() == pytest.approx(found[1].item(), rel=1e-5)
    alone = Softmax(axis=2)(model(inputs[:, :4]), teacher(inputs[:, :4]), 1.0)
    own = functional.cross_entropy(model(inputs).flatten(0, 1), labels.flatten())
    assert found[0].item() == pytest.approx(((1 - weight) * own + weight * alone).item(), rel=1e-5)


@pytest.mark.parametrize("positions", [1, 8, 32])
def test_soft_labels_of_pictures_weigh_as_much_as_labels(positions: int) -> None:
    """The distance is of the size of the task's loss at any resolution, not as many times that as there are pixels."""
    torch.manual_seed(0)
    inputs, labels = torch.randn(2, 4, positions, positions), torch.randint(5, (2, positions, positions))
    model, teacher = nn.Conv2d(4, 5, 1), nn.Conv2d(4, 5, 1)
    task = Task(model, inputs[:1], [(inputs, labels)], [(inputs, labels)])
    sizes = []
    for weight in (0.0, 1.0):
        taught = DistillationLoss(model, teacher, task, settings(weight=weight), None)
        with taught.watching():
            sizes.append(taught((inputs, labels)).item())
    assert 0.05 < sizes[1] / sizes[0] < 2


class Tokens(nn.Module):
    """Classifies each token, all of which it says are of the first class where it is told to."""

    def __init__(self, certain: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.certain = nn.Linear(5, 3), certain

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (batch, positions, classes)."""
        return self.layer(x) + self.certain * torch.tensor([1.0, 0.0, 0.0])


def test_a_student_that_takes_all_tokens_for_one_class_has_a_distance() -> None:
    """Tokens have their classes on the last axis: a constant answer is far from its teacher."""
    inputs, labels = torch.randn(4, 6, 5), torch.randint(3, (4, 6))
    task = Task(Tokens(), inputs[:1], [(inputs, labels)], [(inputs, labels)], loss=padded)
    student = Tokens(30.0)
    taught = DistillationLoss(student, Tokens(), task, settings(weight=1.0), None)
    with taught.watching():
        assert taught((inputs, labels)).item() > 1


@pytest.mark.parametrize("labels", [torch.rand(8, 1).round(), 100 * torch.randn(8, 1)])
def test_students_with_one_output_come_nearer(labels: Tensor) -> None:
    """A yes or no, or a number, is learned from the teacher: with all weight on it the student ends up nearer."""
    torch.manual_seed(0)
    binary = bool((labels.abs() <= 1).all())
    lose = functional.binary_cross_entropy_with_logits if binary else functional.mse_loss
    inputs = torch.randn(8, 4)
    student, teacher = (nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 1)) for _ in range(2))
    batches = [(inputs, labels)] * 20
    task = Task(teacher, inputs[:1], batches, batches, loss=lambda model, batch: lose(model(batch[0]), batch[1]))

    def apart() -> float:
        with torch.no_grad():
            return float(functional.mse_loss(student(inputs), teacher(inputs)))

    before = apart()
    distil(student, teacher, task, settings={"weight": 1.0, "learning_rate": 0.03}, epochs=5, seed=0)
    assert apart() < 0.3 * before


def test_a_distance_of_the_users_that_raises_is_named() -> None:
    """What a distance raises in a training is reported as that, not as a fault of the loss or of the network."""

    def distance(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        if temperature == 8:
            raise ValueError("too hot")
        return (student - teacher).abs().mean() / temperature

    task = task_of(by_keyword, distance=distance)
    taught = DistillationLoss(task.model, Seen(), task, settings(temperature=8.0), None)
    with taught.watching(), pytest.raises(ValueError, match="too hot") as caught:
        taught(task.train[0])
    assert blamed(caught.value).endswith("`distance`")
