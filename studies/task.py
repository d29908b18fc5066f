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
"""Whatever the user's loader yields; by default ``(inputs, labels)``, or a mapping that holds ``"labels"``."""

Loader = Iterable[Batch]
"""Anything that can be iterated again and again: a DataLoader, a list of batches."""


IGNORED = -100
"""The label of what neither the default loss nor the default metric counts."""


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

    Of an example with many positions, as pixels, it is the share of these. What has the label `IGNORED` is left out.
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
    """Return a model's outputs for the inputs of a batch, of which there may be several."""
    outputs: Tensor = model(*inputs) if isinstance(inputs, (tuple, list)) else model(inputs)
    return outputs


@dataclass(frozen=True)
class Mean:
    """The metric that is the mean of one score an example."""

    per_example: Callable[[nn.Module, Loader], Tensor]

    def __call__(self, model: nn.Module, loader: Loader) -> float:
        """Return the mean of the scores."""
        return float(self.per_example(model, loader).double().mean())


def have_a_batch(inputs: Sequence[Tensor]) -> bool:
    """Whether the first dimension of all inputs is the same."""
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
    """A trained network and all that is needed to compress it.

    Args:
        model: the trained network; it is never changed. What is compressed is a copy that was made plain; see
            `normalize`.
        example_inputs: a tensor, or a tuple of tensors, as the network is served: latency is measured on
            exactly this shape, batch first (usually a batch of one). A mapping for a network that takes keywords,
            and may give more than a tensor: its logits count, or its first tensor; its names are those of the
            exported inputs, and batches are ``(mapping, labels)`` or mappings that hold ``"labels"``.
        train: loader of batches to fine-tune on.
        validation: loader that the search looks at.
        test: loader that no trial sees; the front is scored on it once more at the end.
        calibration: loader for activation ranges and batch-norm statistics; by default some of `train`.
        loss: ``loss(model, batch)`` gives a scalar tensor to minimise.
        metric: ``metric(model, loader)`` gives a number to maximise. The model it is given may be the network or
            the exported file in its runtime: call it, do not look inside it.
        per_example: ``per_example(model, loader)`` gives a tensor of one score an example, in the loader's order,
            whose mean is the metric, which may be left out then. With it two models are compared on the same
            examples, which tells far smaller differences from chance. The default metric has its own.
        metric_unit: unit of the metric: ``"%"`` for a share between 0 and 1, which is printed in per cent; ``""``
            for a plain number; or a word of at most eight characters, such as ``"dB"``. The default metric is a share.
            By default another one is a share as long as all its values lie between 0 and 1.
        keep: names of layers, or of modules that hold layers, that must stay untouched.
        fit: ``fit(student, teacher, epochs)`` trains the student in place instead of our distillation; ``epochs`` may
            be a fraction.
        inputs: ``inputs(batch)`` gives the network's inputs of a batch.
        teacher: another network to learn from, with the model's inputs and outputs; by default the model itself.
        student: a smaller network, trained or not, that is compressed in the model's stead and learns from the
            teacher. The model stays the baseline that everything is compared to.
        epochs: passes over `train` that a trial may fine-tune.
        final_epochs: passes over `train` for each model of the front at the end.
        license: of the network, for the card of a model that is picked.
        description: a sentence or two on the network and its data, likewise.
        distance: of a student's outputs from its teacher's: ``distance(student_outputs, teacher_outputs, temperature)``
            gives a scalar tensor, a mean over positions; or ``"softmax"`` (over axis 1), ``"sigmoid"``, ``"mse"``, or
            ``"off"`` for none. By default it is the one that fits the loss.
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

    def __post_init__(self) -> None:
        if self.per_example is not None and self.metric is top1:
            object.__setattr__(self, "metric", Mean(self.per_example))
        if isinstance(self.example_inputs, Mapping):
            self._take_keywords(tuple(self.example_inputs))

    def _take_keywords(self, names: tuple[str, ...]) -> None:
        """Let what takes keywords and mappings be called with tensors in order."""
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
        """What gives one score an example, whose mean is the metric; None where nothing does."""
        if self.per_example is not None:
            return self.per_example
        if not self.counts_labels:
            return None
        return KeywordMetric(right, self.metric.names) if isinstance(self.metric, KeywordMetric) else right

    @property
    def counts_labels(self) -> bool:
        """Whether it is scored by the default metric."""
        return (self.metric.metric if isinstance(self.metric, KeywordMetric) else self.metric) is top1

    @property
    def unit(self) -> str | None:
        """The metric's unit; None where the values have to tell whether it is a share."""
        default = self.per_example is None and self.each is not None
        return "%" if default and self.metric_unit is None else self.metric_unit

    @property
    def base(self) -> nn.Module:
        """The network that candidates are made of: the student where there is one, else the model."""
        return self.model if self.student is None else self.student
