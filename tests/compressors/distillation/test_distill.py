"""Distillation: a student learns from the data and from its teacher."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from autocompress.compressors.distillation.distill import CHOICES, DEFAULTS, choices, distil
from autocompress.compressors.quantization.quantize import Quantized
from autocompress.errors import InfeasibleError, StudyError
from autocompress.studies.distance import Softmax
from autocompress.studies.task import Batch, Task


def data(batches: int = 6) -> list[tuple[Tensor, Tensor]]:
    """Return batches of points whose class is the sign of their first coordinate."""
    points = torch.randn(batches, 16, 4, generator=torch.Generator().manual_seed(3))
    return [(x, (x[:, 0] > 0).long()) for x in points]


def network() -> nn.Sequential:
    """Return a small classifier with a batch norm and dropout."""
    return nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 2))


@pytest.fixture
def task() -> Task:
    """Return a task on the points, with an untrained network."""
    return Task(model=network(), example_inputs=torch.ones(1, 4), train=data(), validation=data(2))


def mean_loss(model: nn.Module, task: Task) -> float:
    """Return the mean loss over the training data."""
    with torch.no_grad():
        return sum(float(task.loss(model.eval(), batch)) for batch in task.train) / 6


def test_training_improves_the_loss(task: Task) -> None:
    """A student gets better at the task, and ends in evaluation mode."""
    student = copy.deepcopy(task.model)
    before = mean_loss(student, task)
    distil(student, task.model, task, settings={"weight": 0.0, "learning_rate": 0.05}, epochs=10, seed=0)
    assert not student.training
    assert mean_loss(student, task) < 0.5 * before


def test_student_approaches_its_teacher(task: Task) -> None:
    """With all weight on the teacher, the labels do not matter."""
    teacher, student = network(), network()

    def distance() -> float:
        inputs = torch.cat([x for x, _ in data()])
        with torch.no_grad():
            return float(Softmax()(student.eval()(inputs), teacher.eval()(inputs), 1.0))

    before = distance()
    distil(student, teacher, task, settings={"weight": 1.0, "learning_rate": 0.05}, epochs=10, seed=0)
    assert distance() < 0.5 * before


@pytest.mark.parametrize("batches", [*range(1, 13), 19])
def test_any_number_of_steps_can_be_trained(task: Task, batches: int) -> None:
    """The schedule of the learning rate fits every length."""
    student = copy.deepcopy(task.model)
    distil(student, task.model, replace(task, train=data(batches)), settings={}, epochs=1, seed=0)
    assert not torch.equal(student[0].weight, task.model[0].weight)


@pytest.mark.parametrize(("epochs", "steps"), [(0.5, 3), (1, 6), (2.5, 15), (0.01, 1)])
def test_epochs_may_be_fractions(task: Task, epochs: float, steps: int) -> None:
    """The number of steps is the share of a pass, at least one."""
    seen = []

    def loss(model: nn.Module, batch: Batch) -> Tensor:
        seen.append(batch)
        return task.loss(model, batch)

    counted = replace(task, loss=loss, distance=Softmax())
    distil(copy.deepcopy(task.model), task.model, counted, settings={}, epochs=epochs, seed=0)
    assert len(seen) == steps


def test_loss_that_is_no_number_is_infeasible(task: Task) -> None:
    """A training that diverges says at which step."""
    broken = replace(task, loss=lambda model, batch: math.nan * task.loss(model, batch))
    with pytest.raises(InfeasibleError, match="became nan at training step 0 of 6") as caught:
        distil(copy.deepcopy(task.model), task.model, broken, settings={}, epochs=1, seed=0)
    assert caught.value.rung == "train"


def test_training_ends_at_its_deadline(task: Task) -> None:
    """A training that takes too long says how far it came."""
    with pytest.raises(InfeasibleError, match="time was over at training step 0 of 6") as caught:
        distil(
            copy.deepcopy(task.model),
            task.model,
            task,
            settings={},
            epochs=1,
            seed=0,
            deadline=time.monotonic() - 1,
        )
    assert caught.value.rung == "train"


def test_task_may_train_in_its_own_way(task: Task) -> None:
    """`fit` gets the student in training mode, its teacher in evaluation mode and the epochs, and nothing else runs."""
    calls = []

    def fit(student: nn.Module, teacher: nn.Module, epochs: float) -> None:
        calls.append((student, teacher, epochs, student.training, teacher.training))

    student = copy.deepcopy(task.model)
    before = copy.deepcopy(student.state_dict())
    distil(student, task.model.train(), replace(task, fit=fit), settings={}, epochs=2.5, seed=0)
    assert calls == [(student, task.model, 2.5, True, False)]
    assert not student.training
    assert all(torch.equal(before[name], value) for name, value in student.state_dict().items())


def test_what_a_training_of_ones_own_raises_is_told(task: Task) -> None:
    """A loop that counts whole epochs is reported that there are fractions; what is infeasible stays that."""

    def fit(student: nn.Module, teacher: nn.Module, epochs: float) -> None:
        for _ in range(epochs):  # type: ignore[arg-type]
            pass

    def stops(student: nn.Module, teacher: nn.Module, epochs: float) -> None:
        raise InfeasibleError("it diverges", rung="train")

    student = copy.deepcopy(task.model)
    with pytest.raises(StudyError, match=r"fit\(student, teacher, 0.5\).*TypeError: .*may be a fraction"):
        distil(student, task.model, replace(task, fit=fit), settings={}, epochs=0.5, seed=0)
    with pytest.raises(InfeasibleError, match="it diverges"):
        distil(student, task.model, replace(task, fit=stops), settings={}, epochs=0.5, seed=0)


def test_same_seed_gives_the_same_weights(task: Task) -> None:
    """All that is random in the training comes from its seed."""
    students = [copy.deepcopy(task.model) for _ in range(3)]
    for student, seed in zip(students, (1, 1, 2), strict=True):
        torch.rand(1)
        distil(student, task.model, task, settings={}, epochs=1, seed=seed)
    one, same, other = (student[0].weight for student in students)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_training_leaves_the_global_random_state(task: Task) -> None:
    """Numbers drawn afterwards are those that would have been drawn without it."""
    before = torch.random.get_rng_state()
    distil(copy.deepcopy(task.model), task.model, task, settings={}, epochs=1, seed=0)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("training", [True, False])
def test_teacher_is_not_changed(task: Task, training: bool) -> None:
    """Weights, statistics, gradients and mode of the teacher stay."""
    teacher = task.model.train(training)
    before = copy.deepcopy(teacher.state_dict())
    distil(copy.deepcopy(teacher), teacher, task, settings={}, epochs=1, seed=0)
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(module.training is training for module in teacher.modules())


def test_no_hook_stays_on_the_student(task: Task) -> None:
    """The student can be pickled and exported after its training, also after one that failed."""
    student = copy.deepcopy(task.model)
    distil(student, task.model, task, settings={}, epochs=1, seed=0)
    with pytest.raises(InfeasibleError):
        distil(student, task.model, task, settings={}, epochs=1, seed=0, deadline=0)
    assert not student._forward_hooks


def test_settings_on_offer_begin_with_the_defaults() -> None:
    """What a candidate does not say is the first level of each choice."""
    assert {choice.target: choice.levels[0] for choice in CHOICES} == dict(DEFAULTS)
    assert DEFAULTS.keys() == {"temperature", "weight", "learning_rate", "features", "attention"}


def offered(task: Task) -> set[str]:
    """Return the settings of distillation that a task's search varies."""
    return {choice.target for choice in choices(task)}


def test_settings_that_do_nothing_are_not_offered(task: Task) -> None:
    """Attention and features need layers that have some, a temperature a distance that it softens, and all a loss."""
    without = {"temperature", "weight", "learning_rate", "features"}
    assert offered(task) == without  # an MLP has no attention
    images = [(torch.rand(4, 1, 8, 8), torch.arange(4))]
    convolutional = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 4))
    assert offered(replace(task, model=convolutional, example_inputs=images[0][0], train=images)) == set(DEFAULTS)
    assert offered(replace(task, distance="mse")) == without - {"temperature"}
    assert offered(replace(task, distance="off")) == without - {"temperature", "weight"}
    linear = nn.Linear(4, 2)
    assert offered(replace(task, model=linear)) == without - {"features"}
    assert offered(replace(task, fit=lambda student, teacher, epochs: None)) == set()


def test_only_matrices_decay(task: Task) -> None:
    """A training whose loss has no slope makes weights smaller, and leaves norms, biases and learned steps alone."""
    rounded = Quantized(nn.Linear(4, 16), 8)
    student = nn.Sequential(rounded, nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2))
    student(torch.randn(8, 4))
    assert rounded.round_input is not None
    rounded.round_input.calibrated()
    rounded.learn_scales()
    for parameter in student.parameters():
        nn.init.uniform_(parameter, 0.5, 1.0)
    before = {name: p.detach().clone() for name, p in student.named_parameters()}

    def flat(model: nn.Module, batch: Batch) -> Tensor:
        return 0 * sum(p.sum() for p in model.parameters())

    distil(student, task.model, replace(task, loss=flat), settings={"weight": 0.0}, epochs=1, seed=0)
    smaller = {name for name, p in student.named_parameters() if (p < before[name]).all()}
    same = {name for name, p in student.named_parameters() if torch.equal(p, before[name])}
    assert smaller == {"0.layer.weight", "3.weight"}
    steps = {"0.round_weight.learned.factor", "0.round_input.learned.factor"}
    assert same == {"0.layer.bias", "1.weight", "1.bias", "3.bias", *steps}


def test_one_rate_fits_all_sizes(task: Task) -> None:
    """A step moves large and small weights by about the same share of their size, whatever their gradients are."""
    student = nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 16), nn.Linear(16, 2))
    with torch.no_grad():
        for layer, size in zip(student, (0.01, 0.5, 30.0), strict=True):
            layer.weight.copy_(size * torch.randn_like(layer.weight))
    before = [layer.weight.detach().clone() for layer in student]
    settings = {"weight": 0.0, "learning_rate": 0.05}
    distil(student, task.model, task, settings=settings, epochs=1 / 6, seed=0)
    moved = [
        ((layer.weight - weight).norm() / weight.norm()).item() for layer, weight in zip(student, before, strict=True)
    ]
    assert min(moved) > 0.6 * max(moved)
    assert 0.01 < max(moved) < 0.06


def test_gradients_are_clipped_with_those_of_hints(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """The norm that is limited is that of all that is trained."""
    clip, clipped = nn.utils.clip_grad_norm_, []

    def watch(parameters: list[nn.Parameter], most: float) -> Tensor:
        clipped.append(parameters)
        norm = clip(parameters, most)
        assert torch.stack([p.grad.norm() for p in parameters if p.grad is not None]).norm() <= 1.001
        return norm

    monkeypatch.setattr(nn.utils, "clip_grad_norm_", watch)
    student = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.1), nn.Linear(8, 2))
    distil(student, network(), task, settings={"features": 1.0}, epochs=1, seed=0)
    assert clipped
    assert all(len(parameters) > len(list(student.parameters())) for parameters in clipped)
