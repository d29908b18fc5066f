"""A task: a trained network with its data, its loss and its metric. Plain callables, no base class."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Batch = Any
"""Whatever the user's loader yields; by default ``(inputs, labels)``."""

Loader = Iterable[Batch]
"""Anything that can be iterated again and again: a DataLoader, a list of batches."""


def cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    """Return the mean cross-entropy of ``model(inputs)`` against integer labels, for batches ``(inputs, labels)``."""
    inputs, labels = batch
    return functional.cross_entropy(model(inputs), labels)


def top1(model: nn.Module, loader: Loader) -> float:
    """Return the share of examples whose largest output is their label, between 0 and 1."""
    right = total = 0
    with torch.no_grad():
        for inputs, labels in loader:
            right += int((model(inputs).argmax(1) == labels).sum())
            total += len(labels)
    return right / total


def first_item(batch: Batch) -> tuple[Tensor, ...]:
    """Return the network's inputs of a batch ``(inputs, labels)``, or of a batch that is a bare tensor."""
    inputs = batch[0] if isinstance(batch, (tuple, list)) else batch
    return inputs if isinstance(inputs, tuple) else (inputs,)


@dataclass(frozen=True)
class Task:
    """A trained network and all that is needed to compress it.

    Args:
        model: the trained network; it is never changed.
        example_inputs: a tensor, or a tuple of tensors, as the network is served: latency is measured on
            exactly this shape, batch first (usually a batch of one).
        train: loader of batches to fine-tune on.
        validation: loader that the search looks at.
        test: loader that no trial sees; the front is scored on it once more at the end.
        calibration: loader for activation ranges and batch-norm statistics; by default the start of `train`.
        loss: ``loss(model, batch)`` gives a scalar tensor to minimise.
        metric: ``metric(model, loader)`` gives a number to maximise. The model it is given may be the network or
            the exported file in its runtime: call it, do not look inside it.
        keep: names of layers, or of modules that hold layers, that must stay untouched.
        fit: ``fit(student, teacher, epochs)`` trains the student in place instead of our distillation.
        inputs: ``inputs(batch)`` gives the network's inputs of a batch.
        teacher: another network to learn from, with the model's inputs and outputs; by default the model itself.
        student: a smaller network, trained or not, that is compressed in the model's stead and learns from the
            teacher. The model stays the baseline that everything is compared to.
        epochs: passes over `train` that a trial may fine-tune.
        final_epochs: passes over `train` for each model of the front at the end.
    """

    model: nn.Module
    example_inputs: Tensor | Sequence[Tensor]
    train: Loader
    validation: Loader
    test: Loader | None = None
    calibration: Loader | None = None
    loss: Callable[[nn.Module, Batch], Tensor] = cross_entropy
    metric: Callable[[nn.Module, Loader], float] = top1
    keep: Sequence[str] = ()
    fit: Callable[[nn.Module, nn.Module, float], None] | None = None
    inputs: Callable[[Batch], tuple[Tensor, ...]] = first_item
    teacher: nn.Module | None = None
    student: nn.Module | None = None
    epochs: float = 1.0
    final_epochs: float = 3.0

    @property
    def examples(self) -> tuple[Tensor, ...]:
        """The example inputs as a tuple."""
        return (self.example_inputs,) if isinstance(self.example_inputs, Tensor) else tuple(self.example_inputs)

    @property
    def base(self) -> nn.Module:
        """The network that candidates are made of: the student where there is one, else the model."""
        return self.model if self.student is None else self.student
