"""A task: a trained network with its data, its loss and its metric. Plain callables, no base class."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .distance import Distance
from .keywords import KeywordInputs, KeywordMetric, Keywords

Batch = Any
"""An item of the user's loader; by default ``(inputs, labels)``, or a mapping with ``"labels"``."""

Loader = Iterable[Batch]
"""Anything that can be iterated repeatedly, such as a DataLoader or a list of batches."""


IGNORED = -100
"""The label that the default loss and metric ignore."""


def cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    """Return the mean cross-entropy of ``model(inputs)`` against integer labels, for batches ``(inputs, labels)``."""
    inputs, labels = halves(batch)
    wanted = labels if labels.is_floating_point() else labels.long()
    return functional.cross_entropy(_answers(model, inputs), wanted, ignore_index=IGNORED)


def top1(model: nn.Module, loader: Loader) -> float:
    """Return the share of examples whose largest output is their label, between 0 and 1."""
    return float(right(model, loader).double().mean())


def right(model: nn.Module, loader: Loader) -> Tensor:
    """Return 1 for each example whose largest output is its label, else 0; shape (examples,).

    For an example with many positions, such as pixels, it is the share of these. The label `IGNORED` is left out.
    """
    found = []
    with torch.no_grad():
        for inputs, labels in map(halves, loader):
            same = (_answers(model, inputs).argmax(1) == labels).unsqueeze(-1).flatten(1)
            counted = (labels != IGNORED).unsqueeze(-1).flatten(1)
            hits, of = (same & counted).sum(1), counted.sum(1)
            found.append((hits / of)[of > 0])
    return torch.cat(found)


def _answers(model: nn.Module, inputs: Any) -> Tensor:
    """Return a model's outputs for one or several inputs of a batch."""
    outputs: Tensor = model(*inputs) if isinstance(inputs, (tuple, list)) else model(inputs)
    return outputs


@dataclass(frozen=True)
class Mean:
    """The metric that is the mean of one score per example."""

    per_example: Callable[[nn.Module, Loader], Tensor]

    def __call__(self, model: nn.Module, loader: Loader) -> float:
        """Return the mean of the scores."""
        return float(self.per_example(model, loader).double().mean())


def have_a_batch(inputs: Sequence[Tensor]) -> bool:
    """Return whether all inputs have the same first dimension."""
    return len({len(x) for x in inputs}) == 1


def halves(batch: Batch) -> tuple[Any, Tensor]:
    """Return a batch's inputs and labels."""
    inputs, labels = (batch, batch["labels"]) if isinstance(batch, Mapping) else batch
    return inputs, labels


def first_item(batch: Batch) -> tuple[Tensor, ...]:
    """Return the network's inputs of a batch ``(inputs, labels)``, one or several, or of a bare tensor."""
    inputs = batch[0] if isinstance(batch, (tuple, list)) else batch
    return tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)


@dataclass(frozen=True)
class Task:
    """A trained network and everything needed to compress it.

    Args:
        model: the trained network. It is never changed: a plain copy is compressed; see `normalize`.
        example_inputs: a tensor, or a tuple of tensors, in exactly the shape to serve and time, batch first (usually a
            batch of one). A network that takes keywords takes a mapping: its names are those of the exported inputs,
            batches are ``(mapping, labels)`` or mappings with ``"labels"``, and of several outputs the logits count,
            or else the first tensor.
        train: loader of batches to fine-tune on.
        validation: loader to score candidates on during the search.
        test: loader that no trial sees; the final evaluation scores the front on it.
        calibration: loader for activation ranges and batch-norm statistics; by default a part of `train`.
        loss: ``loss(model, batch)`` returns a scalar tensor to minimise.
        metric: ``metric(model, loader)`` returns a number to maximise. The model may be the network or the exported
            file in its runtime, so only call it.
        per_example: ``per_example(model, loader)`` returns one score per example, in the loader's order. Their mean is
            the metric, which may then be left out. The scores let two models be compared on the same examples, which
            shows far smaller differences. The default metric has its own.
        metric_unit: unit of the metric: ``"%"`` for a share between 0 and 1, which is printed in per cent; ``""`` for a
            plain number; or a word of at most eight characters, such as ``"dB"``. The default metric is a share.
            Another metric is taken for a share as long as all its values lie between 0 and 1.
        keep: names of layers, or of modules with layers, that must not be changed.
        fit: ``fit(student, teacher, epochs)`` trains the student in place, instead of the built-in distillation;
            ``epochs`` may be a fraction.
        inputs: ``inputs(batch)`` returns the network's inputs of a batch.
        teacher: another network to learn from, with the model's inputs and outputs; by default the model itself.
        student: a smaller network, trained or not, to compress instead of the model; it learns from the teacher. The
            model stays the baseline that everything is compared to.
        resolutions: shares of the images' height and width at which the network may work, such as ``(0.75, 0.5)``. Its
            file still takes the whole images, and shrinks them first. The first input must be images, (N, channels,
            height, width).
        epochs: passes over `train` per trial, at most.
        final_epochs: passes over `train` for the final training of each model.
        license: license of the network, for the model card.
        description: a sentence or two on the network and its data, for the model card.
        distance: the distance between a student's outputs and its teacher's, by which it learns:
            ``distance(student_outputs, teacher_outputs, temperature)`` returns a scalar tensor, a mean over positions.
            Or one of ``"softmax"`` (over axis 1), ``"sigmoid"``, ``"mse"`` and ``"off"``. By default it is the one that
            fits the loss.
    """

    model: nn.Module
    example_inputs: Tensor | Sequence[Tensor] | Mapping[str, Tensor]
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
    license: str = ""
    description: str = ""
    distance: Distance | str | None = None
    per_example: Callable[[nn.Module, Loader], Tensor] | None = None
    metric_unit: str | None = None
    resolutions: Sequence[float] = ()

    def __post_init__(self) -> None:
        if self.per_example is not None and self.metric is top1:
            object.__setattr__(self, "metric", Mean(self.per_example))
        if isinstance(self.example_inputs, Mapping):
            self._take_keywords(tuple(self.example_inputs))

    def _take_keywords(self, names: tuple[str, ...]) -> None:
        """Wrap networks and functions that take keywords or mappings, so that they take tensors in order."""
        changed: dict[str, Any] = {}
        for field in ("model", "teacher", "student"):
            network = getattr(self, field)
            if isinstance(network, nn.Module) and not isinstance(network, Keywords):
                changed[field] = Keywords(network, names).train(network.training)
        if not isinstance(self.metric, KeywordMetric):
            changed["metric"] = KeywordMetric(self.metric, names)
        if self.per_example is not None and not isinstance(self.per_example, KeywordMetric):
            changed["per_example"] = KeywordMetric(self.per_example, names)
        if self.inputs is first_item:
            changed["inputs"] = KeywordInputs(names)
        if not isinstance(self.keep, str) and isinstance(self.model, nn.Module):
            known = dict(changed.get("model", self.model).named_modules())
            changed["keep"] = tuple(name if name in known else f"network.{name}" for name in self.keep)
        for field, value in changed.items():
            object.__setattr__(self, field, value)

    @property
    def examples(self) -> tuple[Tensor, ...]:
        """The example inputs as a tuple."""
        given = self.example_inputs
        if isinstance(given, Tensor):
            return (given,)
        return tuple(given.values()) if isinstance(given, Mapping) else tuple(given)

    @property
    def each(self) -> Callable[[nn.Module, Loader], Tensor] | None:
        """The function that returns one score per example, whose mean is the metric; None if there is none."""
        if self.per_example is not None:
            return self.per_example
        if not self.counts_labels:
            return None
        return KeywordMetric(right, self.metric.names) if isinstance(self.metric, KeywordMetric) else right

    @property
    def counts_labels(self) -> bool:
        """Whether the task has the default metric."""
        return (self.metric.metric if isinstance(self.metric, KeywordMetric) else self.metric) is top1

    @property
    def unit(self) -> str | None:
        """The metric's unit; None if its values decide whether it is a share."""
        default = self.per_example is None and self.each is not None
        return "%" if default and self.metric_unit is None else self.metric_unit

    @property
    def base(self) -> nn.Module:
        """The network that is compressed: the student if there is one, otherwise the model."""
        return self.model if self.student is None else self.student
