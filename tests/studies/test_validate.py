"""Every rule of a task is checked where it enters."""

import copy
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autocompress.errors import StudyError
from autocompress.studies.task import Batch, Loader, Task
from autocompress.studies.validate import validate


class Constant(nn.Module):
    """Gives the same thing whatever it is given."""

    def __init__(self, output: object) -> None:
        super().__init__()
        self.output = output

    def forward(self, x: Tensor) -> object:
        return self.output


def net() -> nn.Module:
    """Return a network with buffers and with randomness."""
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Dropout(), nn.Linear(144, 3))


def data(*shape: int, dtype: torch.dtype = torch.float32) -> list[tuple[Tensor, Tensor]]:
    """Return one batch of five."""
    return [(torch.ones(5, *(shape or (1, 8, 8)), dtype=dtype), torch.arange(5) % 3)]


def task(**changes: Any) -> Task:
    """Return a sound task with some parts replaced."""
    parts: dict[str, Any] = {"model": net(), "example_inputs": torch.ones(1, 1, 8, 8)}
    return Task(**parts | {"train": data(), "validation": data()} | changes)


def wrong(result: object) -> Any:
    """Return a callable that gives `result`, or raises it."""

    def call(*_: object) -> object:
        if isinstance(result, Exception):
            raise result
        return result

    return call


def test_a_sound_task_passes_and_nothing_changes() -> None:
    """Parameters, buffers, gradients, mode and the global random state are as they were."""
    sound = task(test=data(), calibration=[data()[0][0]], keep=("0", "4"))
    before, state, mode = copy.deepcopy(sound.model.state_dict()), torch.get_rng_state(), sound.model.training
    validate(sound)
    torch.testing.assert_close(sound.model.state_dict(), before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert sound.model.training is mode
    assert all(parameter.grad is None for parameter in sound.model.parameters())


def mean_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Return a loss that needs no labels."""
    return model(batch).mean()


def count(model: nn.Module, loader: Loader) -> float:
    """Return a metric that needs no labels."""
    return float(len(list(loader)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "`epochs` must be more than 0; it is 0"),
        ({"final_epochs": -1.0}, "`final_epochs` must be more than 0"),
        ({"model": len}, "must be a torch.nn.Module; it is a builtin_function"),
        ({"keep": ("5",)}, "none called '5'"),
        ({"keep": "4"}, r"Write keep=\['4'\]"),
        ({"model": nn.ModuleDict({"stem": net()}), "keep": ("stam",)}, "did you mean 'stem'"),
        ({"teacher": len}, "`teacher` must be a torch.nn.Module, or None; it is a builtin_function"),
        ({"student": 3}, "`student` must be a torch.nn.Module, or None; it is a int"),
        (
            {"teacher": Constant(torch.ones(1, 4))},
            r"`teacher` must give .* of shape \(1, 3\); it gave a tensor of shape \(1, 4\)",
        ),
        ({"student": Constant([1])}, "`student` must return one tensor; it returned a list"),
        ({"student": nn.Linear(3, 3)}, r"student\(\*example_inputs\)` must run; it raised RuntimeError"),
        ({"student": Constant(torch.ones(1, 3))}, "must have parameters"),
        ({"student": nn.Sequential(net()), "keep": ("4",)}, "none called '4'"),
        ({"example_inputs": ()}, "it is an empty tuple"),
        ({"example_inputs": (3,)}, "it is a int"),
        ({"example_inputs": torch.ones(1, 2, 8, 8)}, r"model\(\*example_inputs\).* RuntimeError"),
        ({"model": Constant([1])}, "must return one tensor; it returned a list"),
        ({"model": Constant(torch.ones(2, 3))}, r"batch of 1 .* its shape is \(2, 3\)"),
        ({"model": Constant(torch.ones(()))}, r"its shape is \(\)"),
        ({"model": Constant(torch.tensor([[torch.nan]]))}, "must be finite; it holds NaN"),
        ({"train": iter(data())}, "`train` must be iterable again and again; it is a list_iterator"),
        ({"train": 3}, r"iter\(train\).* TypeError"),
        ({"validation": []}, "`validation` must give at least one batch"),
        ({"test": []}, "`test` must give at least one batch"),
        ({"validation": data(1, 9, 9)}, r"`validation` are \(N, 1, 9, 9\) float32, the example inputs \(N, 1, 8, 8\)"),
        ({"calibration": data(1, 8, 8, dtype=torch.float64)}, "`calibration` are .* float64"),
        ({"train": [{"x": 1}]}, r"must give a tuple of tensors; for `train`"),
        ({"inputs": wrong(KeyError("x"))}, r"inputs\(batch of train\)` must run; it raised KeyError"),
        ({"loss": wrong(ValueError("bad"))}, "loss.* raised ValueError: bad"),
        ({"loss": wrong(1.0)}, "must return a scalar tensor; it returned a float"),
        ({"loss": wrong(torch.ones(2))}, r"a tensor of shape \(2,\)"),
        ({"loss": wrong(torch.tensor(torch.inf))}, "must be finite on the first batch of train; it is inf"),
        ({"loss": wrong(torch.tensor(1.0))}, "it has no gradient"),
        ({"distance": "softmx"}, "one of 'softmax', 'sigmoid', 'mse', 'off', or a function .* it is 'softmx'"),
        ({"distance": wrong(ValueError("bad"))}, r"distance\(.*must run; it raised ValueError: bad"),
        ({"distance": wrong(torch.ones(2))}, r"finite scalar tensor; it returned a tensor of shape \(2,\)"),
        ({"distance": wrong(torch.tensor(torch.nan))}, "finite scalar tensor; it returned nan"),
        ({"metric": wrong(ValueError("bad"))}, "metric.* raised ValueError: bad"),
        ({"metric": wrong(float("nan"))}, "must return a finite float; it returned nan"),
        ({"metric": wrong(None)}, "it returned a NoneType"),
    ],
)
def test_a_broken_rule_is_told(changes: dict[str, Any], message: str) -> None:
    """The message gives the rule and the value that came."""
    with pytest.raises(StudyError, match=message):
        validate(task(**changes))


@pytest.mark.parametrize(
    ("per_example", "message"),
    [
        (
            lambda model, loader: torch.zeros(2, 2),
            "a finite tensor of shape (examples,); it is a tensor",
        ),
        (lambda model, loader: 0.5, "must return a finite tensor of shape (examples,); it is a float"),
        (lambda model, loader: torch.full((4,), 7.0), "must be the metric; on a batch of validation it is 7"),
    ],
)
def test_scores_of_examples_must_be_the_metrics(per_example: Any, message: str) -> None:
    """What is compared example by example is the metric itself, one number an example."""
    with pytest.raises(StudyError, match=re.escape(message)):
        validate(task(metric=count, per_example=per_example))


def test_labels_are_not_needed_when_loss_metric_and_inputs_are_the_users() -> None:
    """Batches may be anything that the task's own callables understand."""
    bare = [torch.ones(5, 1, 8, 8)]
    validate(task(train=bare, validation=bare, loss=mean_loss, metric=count))


def test_a_teacher_and_a_student_may_be_other_networks() -> None:
    """Both may have other layers than the model, `keep` names the student's, and neither is changed."""
    sound = task(teacher=nn.Sequential(net()), student=nn.Sequential(nn.Identity(), net()), keep=("1.4",))
    networks = (sound.teacher, sound.student)
    before = [copy.deepcopy(network.state_dict()) for network in networks if network is not None]
    validate(sound)
    assert len(before) == 2
    for network, state in zip(networks, before, strict=True):
        torch.testing.assert_close(network.state_dict(), state, rtol=0, atol=0)
        assert all(parameter.grad is None for parameter in network.parameters())
