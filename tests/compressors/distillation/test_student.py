"""Who teaches and who is compressed, where the task names other networks than its model."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from autocompress.compressors.pipeline import apply_candidate, supplies_of
from autocompress.compressors.quantization.quantize import Quantized
from autocompress.spaces.candidate import BITS, PRUNING_RATIO, Candidate
from autocompress.studies.residual import ResidualNet
from autocompress.studies.task import Task

PRUNED = Candidate({PRUNING_RATIO: {"stages.1.0.conv1": 0.5}})
INTEGER = Candidate({BITS: {"stages.0.0.conv1": 8, "stages.1.0.conv2": 8}})


@pytest.fixture
def task() -> Task:
    """Return a task with a model of two blocks a stage."""
    labels = torch.arange(16) % 2
    images = torch.randn(16, 1, 8, 8) + 2 * labels.reshape(-1, 1, 1, 1)
    batches = [(images, labels)] * 4
    return Task(ResidualNet((8, 16), (2, 2), classes=2).eval(), images[:1], batches, batches)


def small() -> ResidualNet:
    """Return an untrained student of one block a stage."""
    return ResidualNet((8, 16), (1, 1), classes=2)


@pytest.mark.parametrize("has_teacher", [False, True])
@pytest.mark.parametrize("has_student", [False, True])
@pytest.mark.parametrize("candidate", [Candidate(), PRUNED, INTEGER])
def test_who_teaches(task: Task, candidate: Candidate, has_teacher: bool, has_student: bool) -> None:
    """`fit` gets the teacher, by default the model, in each phase; what learns is made of the student, if any."""
    seen = []

    def fit(student: nn.Module, teacher: nn.Module, epochs: float) -> None:
        seen.append((len(student.stages[0]), teacher, epochs))

    teacher = ResidualNet((16, 16), (1, 1), classes=2) if has_teacher else None
    task = replace(task, teacher=teacher, student=small() if has_student else None, fit=fit)
    apply_candidate(task, candidate, supplies_of(task), epochs=3)
    assert sum(epochs for _, _, epochs in seen) == pytest.approx(3)
    for blocks, taught_by, _ in seen:
        assert blocks == (1 if has_student else 2)
        assert taught_by is (teacher if has_teacher else task.model)


def test_a_student_is_trained_before_its_numbers_change(task: Task) -> None:
    """Its first training is in float, its second on a grid; a trained model goes to the grid at once."""
    quantized: list[bool] = []

    def fit(student: nn.Module, teacher: nn.Module, epochs: float) -> None:
        quantized.append(any(isinstance(module, Quantized) for module in student.modules()))

    for student in (small(), None):
        with_it = replace(task, student=student, fit=fit)
        apply_candidate(with_it, INTEGER, supplies_of(with_it), epochs=1)
    assert quantized == [False, True, True]


def test_an_untrained_student_learns_from_another_teacher(task: Task) -> None:
    """Training lowers its loss, with hints between networks of other depths too, and none of the three is changed."""
    task = replace(task, student=small(), teacher=copy.deepcopy(task.model), epochs=8)
    networks = (task.model, task.student, task.teacher)
    before = [copy.deepcopy(network.state_dict()) for network in networks if network is not None]
    supplies = supplies_of(task)
    hints = {"features": 1.0, "attention": 1.0, "learning_rate": 0.03, "weight": 0.3}
    losses = []
    for epochs in (0, 8):
        built = apply_candidate(task, Candidate({"distillation": hints}), supplies, epochs=epochs)
        with torch.no_grad():
            losses.append(task.loss(built.model, task.train[0]).item())
    assert losses[1] < 0.7 * losses[0]
    for network, state in zip(networks, before, strict=True):
        assert network is not None
        torch.testing.assert_close(network.state_dict(), state, rtol=0, atol=0)


def test_the_statistics_of_an_untrained_student_are_estimated(task: Task) -> None:
    """Even one-shot its batch norms are those of the data, so that its numbers can be put on a grid."""
    task = replace(task, student=small())
    supplies = supplies_of(task)
    built = apply_candidate(task, INTEGER, supplies, epochs=0)
    with torch.no_grad():
        outputs = built.model(*supplies.calibration[0])
    assert outputs.isfinite().all()
    assert outputs.std(0).min() > 1e-3
