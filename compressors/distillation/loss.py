"""The distillation loss: the task's own, the distance to the teacher's outputs, and intermediate hints."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import blaming
from ...studies.distance import where_it_counts
from ...studies.keywords import first_tensor, tensors_in
from ...studies.loss_probe import distance_of
from ...studies.task import Batch, Task
from .intermediate import Hints


@dataclass(frozen=True)
class _Call:
    """What the task's loss gave the student, and the tensors that came back: several where there are heads to train."""

    inputs: tuple[Any, ...]
    named: Mapping[str, Any]
    outputs: list[Tensor]

    def like(self, target: Tensor) -> Tensor:
        """Return the outputs to compare with the teacher's: the first of the same shape, if any."""
        return next((each for each in self.outputs if each.shape == target.shape), self.outputs[0])


class DistillationLoss:
    """(1 − weight) · the task's loss + weight · the distance + the hints' loss.

    The teacher is given exactly what the task's loss gives the student, which may be a mixture of images, or two views
    of each; the distance is the mean over these calls.

    Args:
        student: is trained.
        teacher: is called with what the student is given, and returns what holds a tensor; hints have one of their own.
        task: gives the loss and the distance.
        settings: of a candidate's distillation, complete.
        hints: from the inside of the teacher; None where there are none.

    """

    def __init__(
        self,
        student: nn.Module,
        teacher: Callable[..., Any],
        task: Task,
        settings: Mapping[str, float],
        hints: Hints | None,
    ) -> None:
        self._student, self._task, self._hints = student, task, hints
        self._teacher = teacher if hints is None else hints.teacher
        self._distance = distance_of(task) if settings["weight"] else None
        self._weight = 0.0 if self._distance is None else settings["weight"]
        self._temperature = settings["temperature"]
        self._calls: list[_Call] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Record the student's inputs and what hints need inside the context."""

        def keep(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
            outputs = [each for each in tensors_in(output).values() if each.requires_grad]
            if outputs:
                self._calls.append(_Call(inputs, named, outputs))

        hook = self._student.register_forward_hook(keep, with_kwargs=True)
        try:
            with nullcontext() if self._hints is None else self._hints.tapped():
                yield
        finally:
            hook.remove()

    def __call__(self, batch: Batch) -> Tensor:
        """Return the loss of one batch, a scalar."""
        self._calls.clear()
        with self._recorded(self._student), blaming("loss"):
            own = self._task.loss(self._student, batch)
        if not self._calls or (self._hints is None and not self._weight):
            return own
        with torch.no_grad(), self._recorded(self._teacher):
            targets = [first_tensor(self._teacher(*call.inputs, **call.named)) for call in self._calls]
        loss = own if not self._weight else (1 - self._weight) * own + self._weight * self._apart(own, targets)
        return loss if self._hints is None else loss + self._hints.loss()

    def _apart(self, own: Tensor, targets: list[Tensor]) -> Tensor:
        """Return the mean distance of the calls that the task's loss depends on."""
        assert self._distance is not None
        outputs = [call.like(target) for call, target in zip(self._calls, targets, strict=True)]
        gradients = torch.autograd.grad(own, outputs, retain_graph=True, allow_unused=True)
        with blaming("distance"):
            apart = [
                where_it_counts(self._distance, ours, theirs, self._temperature, gradient)
                for ours, theirs, gradient in zip(outputs, targets, gradients, strict=True)
                if gradient is not None
            ]
        return torch.stack(apart).mean() if apart else own.new_zeros(())

    def _recorded(self, model: Any) -> Any:
        return nullcontext() if self._hints is None else self._hints.watched(model)
