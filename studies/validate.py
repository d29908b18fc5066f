"""Check a task once, where it enters, so that a mistake is told before anything is trained or measured."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..errors import StudyError
from .distance import BUILT_IN, OFF
from .networks.copied import copied
from .normalize import normalized
from .task import Batch, Loader, Task

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Valid:
    """A task that was checked.

    Attributes:
        task: as it is compressed, its networks plain; see `normalized`.
        notes: what was changed, and what its owner should know, a sentence each.
    """

    task: Task
    notes: tuple[str, ...] = ()


def validate(task: Task) -> Valid:
    """Run every part of a task once; neither the model nor the global random state is changed.

    Raises:
        StudyError: a rule of `Task` is broken.
    """
    for name in ("epochs", "final_epochs"):
        if not getattr(task, name) > 0:
            raise StudyError(f"`{name}` must be more than 0; it is {getattr(task, name)}")
    task, notes = normalized(task)
    _check_keep(task)
    with torch.random.fork_rng(devices=[]):
        model = copied(task.model)
        shape = _check_examples(model, task)
        loaders = {"train": task.train, "validation": task.validation, "test": task.test}
        loaders["calibration"] = task.calibration
        first = {name: _first_batch(name, loader) for name, loader in loaders.items() if loader is not None}
        for name, batch in first.items():
            _check_inputs(name, batch, task)
        _check_metric(model, first["validation"], task)
        _check_loss(model, first["train"], task)
        _check_distance(model, first["train"], task)
        if task.teacher is not None:
            _check_like_the_model("teacher", copied(task.teacher), shape, task)
        if task.student is not None:
            student = copied(task.student)
            _check_like_the_model("student", student, shape, task)
            _check_loss(student, first["train"], task)
    return Valid(task=task, notes=notes)


def _check_keep(task: Task) -> None:
    """Check that each name in `keep` is a module of the network that is compressed."""
    known = [name for name, _ in task.base.named_modules()]
    if isinstance(task.keep, str):
        raise StudyError(f"`keep` must be a list of names; it is the string {task.keep!r}. Write keep=[{task.keep!r}]")
    for name in task.keep:
        if name not in known:
            close = ", ".join(repr(match) for match in difflib.get_close_matches(name, known))
            hint = f"did you mean {close}?" if close else "print model.named_modules() to see them"
            raise StudyError(f"`keep` must name modules of the model; there is none called {name!r}: {hint}")


def _check_examples(model: nn.Module, task: Task) -> torch.Size:
    """Check that the model runs on the example inputs and gives finite numbers, batch first; return their shape."""
    examples = task.examples
    if not examples or not all(isinstance(example, Tensor) and example.dim() > 0 for example in examples):
        kinds = ", ".join(_kind(example) for example in examples) or "an empty tuple"
        raise StudyError(f"`example_inputs` must be a tensor, or tensors, batch first; it is {kinds}")
    model.eval()
    with torch.no_grad():
        output = _run("model(*example_inputs)", lambda: model(*examples))
    if not isinstance(output, Tensor):
        raise StudyError(
            f"The model must return one tensor; it returned {_kind(output)}. Wrap it in a module that does"
        )
    if output.dim() == 0 or len(output) != len(examples[0]):
        raise StudyError(
            f"The model's output must have the batch of {len(examples[0])} as its first dimension; "
            f"its shape is {tuple(output.shape)}"
        )
    if not output.isfinite().all():
        raise StudyError("The model's output on the example inputs must be finite; it holds NaN or infinity")
    return output.shape


def _check_like_the_model(name: str, network: nn.Module, shape: torch.Size, task: Task) -> None:
    """Check that a teacher or a student gives outputs of the model's shape on the example inputs."""
    network.eval()
    with torch.no_grad():
        output = _run(f"{name}(*example_inputs)", lambda: network(*task.examples))
    if not isinstance(output, Tensor) or output.shape != shape:
        shown = f"of shape {tuple(output.shape)}" if isinstance(output, Tensor) else _kind(output)
        raise StudyError(f"`{name}` must give what the model gives, a tensor of shape {tuple(shape)}; it gave {shown}")


def _first_batch(name: str, loader: Loader) -> Batch:
    """Return a loader's first batch, after checking that it can be iterated again and again."""
    iterator = _run(f"iter({name})", lambda: iter(loader))
    if iterator is loader:
        raise StudyError(
            f"`{name}` must be iterable again and again; it is {_kind(loader)}, used up after one pass. "
            "Give a list of batches or a DataLoader"
        )
    nothing = object()
    batch = _run(f"next(iter({name}))", lambda: next(iterator, nothing))
    if batch is nothing:
        raise StudyError(f"`{name}` must give at least one batch; it is empty")
    return batch


def _check_inputs(name: str, batch: Batch, task: Task) -> None:
    """Check that a batch's inputs are like the example inputs, except for the size of the batch."""
    inputs: Sequence[Tensor] = _run(f"inputs(batch of {name})", lambda: task.inputs(batch))
    if not isinstance(inputs, tuple) or not all(isinstance(tensor, Tensor) for tensor in inputs):
        raise StudyError(
            f"`inputs(batch)` must give a tuple of tensors; for `{name}` it gave {_kind(inputs)}. "
            "Pass inputs=… where batches are not (inputs, labels)"
        )
    given, wanted = ([(tuple(t.shape[1:]), t.dtype) for t in tensors] for tensors in (inputs, task.examples))
    if given != wanted:
        raise StudyError(
            f"Batches must look like the example inputs but for the first dimension; those of `{name}` are "
            f"{_look(inputs)}, the example inputs {_look(task.examples)}. Change one of them"
        )


def _check_metric(model: nn.Module, batch: Batch, task: Task) -> None:
    """Check that the metric of one validation batch is a finite number."""
    value = _run("metric(model, [batch of validation])", lambda: task.metric(model.eval(), [batch]))
    if not isinstance(value, Real) or not math.isfinite(value):
        shown = value if isinstance(value, Real) else _kind(value)
        raise StudyError(f"`metric(model, loader)` must return a finite float; it returned {shown}")
    _check_per_example(model, batch, task, float(value))


def _check_per_example(model: nn.Module, batch: Batch, task: Task, metric: float) -> None:
    """Check that there is a finite score for each example of a batch, and that their mean is the metric."""
    if task.per_example is None:
        return
    per_example = task.per_example
    scores = _run("per_example(model, [batch of validation])", lambda: per_example(model.eval(), [batch]))
    if not isinstance(scores, Tensor) or scores.dim() != 1 or not len(scores) or not scores.isfinite().all():
        shown = f"a tensor of shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else _kind(scores)
        raise StudyError(
            f"`per_example(model, loader)` must return a finite tensor of shape (examples,); it is {shown}"
        )
    mean = float(scores.double().mean())
    if not math.isclose(mean, metric, rel_tol=1e-3, abs_tol=1e-6):
        raise StudyError(
            f"the mean of `per_example(model, loader)` must be the metric; on a batch of validation it is {mean:g} and "
            f"the metric {metric:g}. Leave `metric` out, and it is that mean"
        )


def _check_loss(model: nn.Module, batch: Batch, task: Task) -> None:
    """Check that the loss of one training batch is a finite scalar that can be differentiated."""
    model.train().requires_grad_(True)
    loss = _run("loss(model, batch of train)", lambda: task.loss(model, batch))
    if not isinstance(loss, Tensor) or loss.dim() > 0:
        shown = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else _kind(loss)
        raise StudyError(f"`loss(model, batch)` must return a scalar tensor; it returned {shown}")
    if not loss.isfinite():
        raise StudyError(f"`loss(model, batch)` must be finite on the first batch of train; it is {loss.item()}")
    if not loss.requires_grad:
        raise StudyError(
            "`loss(model, batch)` must depend on the model's parameters; it has no gradient. Do not detach it"
        )


def _check_distance(model: nn.Module, batch: Batch, task: Task) -> None:
    """Check that a distance is the name of one, or gives a finite scalar for two outputs of the network."""
    if task.distance is None:
        return
    if not callable(task.distance):
        if task.distance not in (*BUILT_IN, OFF):
            names = ", ".join(map(repr, (*BUILT_IN, OFF)))
            raise StudyError(f"`distance` must be one of {names}, or a function of your own; it is {task.distance!r}")
        return
    distance = task.distance
    with torch.no_grad():
        outputs = model.eval()(*task.inputs(batch))
    apart = _run("distance(student_outputs, teacher_outputs, 2.0)", lambda: distance(outputs + 1, outputs, 2.0))
    if not isinstance(apart, Tensor) or apart.dim() > 0 or not apart.isfinite():
        shown = str(apart.item()) if isinstance(apart, Tensor) and not apart.dim() else _kind(apart)
        if isinstance(apart, Tensor) and apart.dim():
            shown = f"a tensor of shape {tuple(apart.shape)}"
        raise StudyError(f"`distance(…)` must return a finite scalar tensor; it returned {shown}")


def _run(what: str, function: Callable[[], _T]) -> _T:
    """Call a part of the user's task and name it where it raises."""
    try:
        return function()
    except Exception as error:
        raise StudyError(f"`{what}` must run; it raised {type(error).__name__}: {error}") from error


def _kind(value: object) -> str:
    return f"a {type(value).__name__}"


def _look(tensors: Sequence[Tensor]) -> str:
    return ", ".join(f"(N, {', '.join(map(str, t.shape[1:]))}) {str(t.dtype).removeprefix('torch.')}" for t in tensors)
