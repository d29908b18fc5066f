"""Learning from the inside of a teacher."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from autocompress.compressors.batch_norm import fold_batch_norm
from autocompress.compressors.distillation.distill import distil
from autocompress.compressors.distillation.intermediate import Hints
from autocompress.compressors.modules import run
from autocompress.compressors.pruning.prune import remove_channels
from autocompress.errors import InfeasibleError
from autocompress.studies.residual import ResidualNet
from autocompress.studies.task import Task


class Encoder(nn.Module):
    """A transformer encoder and a linear head."""

    def __init__(self, layers: int = 2) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, dropout=0.0)
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Map (batch, positions, 16) to logits (batch, 3)."""
        return self.head(self.layers(x).mean(1))


def task_of(model: nn.Module, *shape: int) -> Task:
    """Return a task with random inputs and labels."""
    generator = torch.Generator().manual_seed(1)
    batches = [(torch.randn(8, *shape, generator=generator), torch.arange(8) % 3) for _ in range(4)]
    return Task(model, batches[0][0][:1], batches, batches)


@pytest.fixture
def convolutional() -> Task:
    """Return a task with a residual network whose batch norms have seen data."""
    torch.manual_seed(0)
    model = ResidualNet((8, 16), (1, 1), classes=3)
    task = task_of(model, 1, 12, 12)
    for inputs, _ in task.train:
        model(inputs)
    return replace(task, model=model.eval())


@pytest.fixture
def transformer() -> Task:
    """Return a task with an encoder."""
    torch.manual_seed(0)
    return task_of(Encoder().eval(), 5, 16)


def value(hints: Hints, student: nn.Module, inputs: Tensor) -> float:
    """Return the loss of a batch."""
    with hints.tapped():
        for model in (student, hints.teacher):
            with hints.watched(model):
                run(model, (inputs,))
        return hints.loss().item()


@pytest.mark.parametrize("name", ["convolutional", "transformer"])
@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0)])
def test_a_copy_has_nothing_to_learn(name: str, weights: tuple[float, float], request: pytest.FixtureRequest) -> None:
    """The loss of a network with itself is 0, of one with other weights it is not, and it grows with its weight."""
    task: Task = request.getfixturevalue(name)
    inputs = task.train[0][0]
    features, attention = weights
    student = copy.deepcopy(task.model)
    hints = Hints(student, task.model, (inputs,), features=features, attention=attention)
    assert value(hints, student, inputs) == pytest.approx(0, abs=1e-6)
    for parameter in student.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    other = value(hints, student, inputs)
    assert other > 1e-4
    twice = Hints(student, task.model, (inputs,), features=2 * features, attention=2 * attention)
    assert value(twice, student, inputs) == pytest.approx(2 * other, rel=1e-3)


def test_folded_networks_have_nothing_to_learn_either(convolutional: Task) -> None:
    """A student whose batch norms are folded is compared to its teacher with folded batch norms."""
    inputs = convolutional.train[0][0]
    student = fold_batch_norm(convolutional.model, (inputs,))
    hints = Hints(student, convolutional.model, (inputs,), features=1.0, attention=1.0)
    assert value(hints, student, inputs) < 1e-5
    torch.testing.assert_close(run(hints.teacher, (inputs,)), run(convolutional.model, (inputs,)), rtol=1e-3, atol=1e-3)


def test_partly_folded_networks_have_nothing_to_learn_either() -> None:
    """Where one norm cannot be folded, the teacher's stays as well."""
    stages = [nn.Sequential(nn.LazyConv2d(4, 3), nn.BatchNorm2d(4), nn.ReLU()) for _ in range(3)]
    stages[1] = nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU(inplace=True), nn.BatchNorm2d(4))
    teacher, inputs = nn.Sequential(*stages, nn.Flatten(), nn.LazyLinear(3)), torch.randn(8, 1, 12, 12)
    teacher(inputs)
    student = fold_batch_norm(teacher, (inputs,))
    hints = Hints(student, teacher, (inputs,), features=1.0, attention=1.0)
    assert value(hints, student, inputs) < 1e-5
    assert sum(isinstance(module, nn.BatchNorm2d) for module in hints.teacher.modules()) == 1


@pytest.mark.parametrize("setting", ["features", "attention"])
@pytest.mark.parametrize("name", ["convolutional", "transformer"])
def test_students_come_nearer_inside(name: str, setting: str, request: pytest.FixtureRequest) -> None:
    """Training with a hint alone lowers its loss below that of the same training without."""
    task: Task = request.getfixturevalue(name)
    inputs = task.train[0][0]
    final = {}
    for strength in (0.0, 10.0):
        student = copy.deepcopy(task.model)
        torch.manual_seed(0)
        for parameter in student.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
        settings = {"weight": 0.0, setting: strength, "learning_rate": 0.03}
        distil(student, task.model, task, settings=settings, epochs=5, seed=0)
        weights = {"features": 0.0, "attention": 0.0, setting: 1.0}
        final[strength] = value(Hints(student, task.model, (inputs,), **weights), student, inputs)
    assert final[10.0] < 0.9 * final[0.0]


def test_pruned_students_and_their_adapters_learn(convolutional: Task) -> None:
    """Hints of a narrower network are trained by seed, and leave it without adapters and hooks."""
    states = []
    for _ in range(2):
        student = remove_channels(convolutional.model, {"stages.1.0.conv1": 8}, convolutional.examples)
        names = list(student.state_dict())
        settings = {"features": 0.1, "attention": 1.0}
        distil(student, convolutional.model, convolutional, settings=settings, epochs=1, seed=3)
        assert list(student.state_dict()) == names
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in student.modules())
        states.append(student.state_dict())
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)
    assert not any(m._forward_hooks for m in convolutional.model.modules())
    assert all(parameter.grad is None for parameter in convolutional.model.parameters())


def test_a_student_with_fewer_layers_is_compared_by_depth(transformer: Task) -> None:
    """One layer of attention learns from the last of three."""
    teacher, student = Encoder(3).eval(), Encoder(1).eval()
    inputs = transformer.train[0][0]
    hints = Hints(student, teacher, (inputs,), features=1.0, attention=1.0)
    assert value(hints, student, inputs) > 0
    settings = {"features": 1.0, "attention": 1.0}
    distil(student, teacher, transformer, settings=settings, epochs=1, seed=0)


@pytest.mark.parametrize(
    ("weights", "reason"),
    [({"features": 1.0}, "no layers, before their last"), ({"attention": 0.1}, "no attention to compare")],
)
def test_nothing_to_compare_is_infeasible(weights: dict[str, float], reason: str) -> None:
    """A network of one layer has neither features nor attention; without a weight it does not matter."""
    task = task_of(nn.Linear(4, 3), 4)
    with pytest.raises(InfeasibleError, match=reason) as caught:
        distil(nn.Linear(4, 3), task.model, task, settings=weights, epochs=1, seed=0)
    assert caught.value.rung == "train"
    distil(nn.Linear(4, 3), task.model, task, settings=dict.fromkeys(weights, 0.0), epochs=1, seed=0)


def test_weights_of_zero_change_nothing(convolutional: Task) -> None:
    """A training that names them is, to the bit, the one that does not, and neither replaces PyTorch's attention."""
    genuine = functional.scaled_dot_product_attention
    states = []
    for settings in ({}, {"features": 0.0, "attention": 0.0}):
        student = copy.deepcopy(convolutional.model)
        distil(student, convolutional.model, convolutional, settings=settings, epochs=1, seed=0)
        states.append(student.state_dict())
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=0)
    assert functional.scaled_dot_product_attention is genuine
