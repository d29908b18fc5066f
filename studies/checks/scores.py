"""Checks the metric: it returns the same finite number each time, for a model that can only be called."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import StudyError
from ..metric_units import SHARE, WORD
from ..task import Batch, Loader, Task
from .calls import called, kind
from .loaders import Seen
from .networks import answer


class _Called(nn.Module):
    """A model like an exported file: it can be called, and has none of the network's attributes.

    Args:
        model: gives the answers.
        change: changes them.
    """

    def __init__(self, model: nn.Module, change: Callable[[Tensor], Tensor] = torch.clone) -> None:
        super().__init__()
        self._inside, self._change = model, change

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return what the model gives, changed."""
        with torch.no_grad():
            return self._change(self._inside(*inputs))


class _One:
    """A loader of one batch, with the other attributes of another loader, such as its `dataset`.

    Args:
        loader: the other loader.
        batch: the batch.
    """

    def __init__(self, loader: Loader, batch: Batch) -> None:
        self._loader, self._batches = loader, [batch]

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._batches)

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> Batch:
        return self._batches[index]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


def check_metric(model: nn.Module, seen: Seen, task: Task) -> Iterator[str]:
    """Check the metric of one validation batch, and yield notes for the task's owner.

    Raises:
        StudyError: it is not a finite number, does more with the model than call it, or has a unit that does not fit.
    """
    batch, words = _One(task.validation, seen.first), "metric(model, [batch of validation])"
    value: object = called(words, lambda: task.metric(model.eval(), batch))
    value = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
    if not isinstance(value, Real) or not math.isfinite(value):
        shown = value if isinstance(value, Real) else kind(value)
        raise StudyError(
            f"`metric(model, loader)` must return a finite float; it returned {shown}. Return float(…) of what is to "
            "be maximised"
        )
    _check_unit(task, float(value))
    if not task.counts_labels:
        yield from _on_calls(model, batch, float(value), task)
    _check_per_example(model, batch, task, float(value))


def _check_unit(task: Task, value: float) -> None:
    """Check that a metric's unit can stand after a number, and that only a share is in per cent."""
    unit = task.metric_unit
    if unit is not None and not (isinstance(unit, str) and re.fullmatch(rf"{WORD}|%|", unit)):
        raise StudyError(
            '`metric_unit` must be "%" for a share, "" for a plain number, or a word of at most eight characters that '
            f'begins with a letter, such as "dB"; it is {unit!r}'
        )
    if unit == SHARE and not 0 <= value <= 1:
        raise StudyError(
            f'`metric_unit="%"` is for a share between 0 and 1; on a batch of validation the metric is {value:g}. '
            'Divide what is in per cent by 100, or give metric_unit=""'
        )


def _on_calls(model: nn.Module, batch: Loader, value: float, task: Task) -> Iterator[str]:
    """Check a user's own metric with models that are not the network."""
    rule = (
        "`metric(model, loader)` must only call the model, because it also gets the exported file, which has no other "
        "attributes"
    )
    again = called("metric(file, [batch])", lambda: task.metric(_Called(model).eval(), batch), rule=rule)
    if not math.isclose(float(again), value, rel_tol=1e-3, abs_tol=1e-6):
        yield (
            f"the metric of one batch of validation is {value:g} once and {float(again):g} once, for the same outputs: "
            "differences of that size mean nothing. Seed its random numbers"
        )
        return
    others = (torch.zeros_like, torch.randn_like, torch.neg)
    try:
        found = [float(called("metric", lambda: task.metric(_Called(model, o).eval(), batch))) for o in others]  # noqa: B023
    except StudyError:  # made-up answers may be none that a metric takes
        return
    if all(each == value for each in found):
        yield (
            f"the metric of one batch of validation is {value:g} whatever the model answers: check that it uses the "
            "model that it gets"
        )


def _check_per_example(model: nn.Module, batch: Loader, task: Task, metric: float) -> None:
    """Check that there is a finite score for each example of a batch, and that their mean is the metric."""
    if task.per_example is None:
        return
    per_example = task.per_example
    scores = called("per_example(model, [batch of validation])", lambda: per_example(model.eval(), batch))
    if not isinstance(scores, Tensor) or scores.dim() != 1 or not len(scores) or not scores.isfinite().all():
        raise StudyError(
            f"`per_example(model, loader)` must return a finite tensor of shape (examples,); it is {kind(scores)}. "
            "Return one score for each example, in the loader's order"
        )
    mean = float(scores.double().mean())
    if not math.isclose(mean, metric, rel_tol=1e-3, abs_tol=1e-6):
        raise StudyError(
            f"the mean of `per_example(model, loader)` must be the metric; on a batch of validation it is {mean:g} and "
            f"the metric {metric:g}. Leave `metric` out, and it is that mean"
        )


def check_odd(seen: Seen, model: nn.Module, task: Task) -> None:
    """Check that batches with NaN or infinity do no harm, because the network, loss or metric leaves these out.

    Raises:
        StudyError: they do harm.
    """
    for number, (batch, where) in seen.odd.items():
        which = f"batch {number} of {seen.name}"
        if where == "inputs":
            inputs, result = task.inputs(batch), "what the model gives for it"
            found: object = called(f"model({which})", lambda: answer(model, inputs))  # noqa: B023
        elif seen.name == "train":
            result = "its loss"
            found = called(f"loss(model, {which})", lambda: task.loss(model.train(), batch))  # noqa: B023
        elif seen.name in ("validation", "test"):
            result = "its metric"
            found = called(f"metric(model, [{which}])", lambda: task.metric(model.eval(), [batch]))  # noqa: B023
        else:
            continue
        if not bool(torch.as_tensor(found).isfinite().all()):
            raise StudyError(
                f"{where.capitalize()} must be finite numbers; those of batch {number} of `{seen.name}`, counted from "
                f"0, hold NaN or infinity, and so does {result}. Leave such examples out, or replace the numbers"
            )
