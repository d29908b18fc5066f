"""Checks labels for the default loss and metric, which take integer labels from 0 on and one output per class."""

from __future__ import annotations

import torch
from torch import Tensor

from ...errors import StudyError
from ..keywords import KeywordMetric
from ..task import IGNORED, Batch, Task, cross_entropy, halves
from .calls import called, dtype, kind
from .loaders import SCORED

RULE = (
    "The default metric counts integer labels of shape (N,), or (N, positions…), from 0 to classes − 1, against "
    "outputs of shape (N, classes), or (N, classes, positions…)"
)


def takes_labels(name: str, task: Task) -> bool:
    """Return whether the default metric, or the default loss in training, reads the labels of a loader."""
    return (name in SCORED and task.counts_labels) or (name == "train" and task.loss is cross_entropy)


def check_form(name: str, number: int, batch: Batch, task: Task) -> None:
    """Check that the default loss and metric find labels in a batch.

    Raises:
        StudyError: they do not.
    """
    if not takes_labels(name, task):
        return
    rule = (
        f"The default loss and metric take batches (inputs, labels), or mappings that hold 'labels'; batch {number} of"
    )
    if isinstance(batch, dict):
        if "labels" not in batch:
            raise StudyError(
                f"{rule} `{name}` has {', '.join(map(repr, batch))}. Call them 'labels', or give loss= and metric="
            )
        if not isinstance(task.metric, KeywordMetric):
            raise StudyError(
                f"{rule} `{name}` is a mapping, and `example_inputs` is none. Give example_inputs={{name: tensor}} "
                "where the network takes keywords, else inputs=, loss= and metric= that know the mapping"
            )
    elif not isinstance(batch, (tuple, list)) or len(batch) != 2:
        made = f"has {len(batch)} items" if isinstance(batch, (tuple, list)) else f"is {kind(batch)}"
        raise StudyError(f"{rule} `{name}` {made}. Give a loader of pairs, or inputs=, loss= and metric= of your own")


def check_labels(name: str, number: int, batch: Batch, outputs: torch.Size, task: Task) -> None:
    """Check that a batch's labels are classes that the default metric, or the default loss in training, can count.

    Args:
        name: the loader's name.
        number: the batch's number.
        batch: the batch.
        outputs: shape of the network's outputs for any batch.
        task: tells the metric and the loss.

    Raises:
        StudyError: they are not.
    """
    if not takes_labels(name, task):
        return
    scored = name in SCORED
    labels = called(f"labels of batch {number} of {name}", lambda: halves(batch)[1])
    if not scored and isinstance(labels, Tensor) and labels.is_floating_point():
        return  # probabilities of classes, which cross-entropy takes; the loss itself is tried
    rule = RULE if scored else RULE.replace("metric counts", "loss takes")
    wrong = _wrong(labels, outputs)
    if wrong:
        came, out = wrong
        raise StudyError(f"{rule}; in batch {number} of `{name}`, counted from 0, {came}. {out}")


def _wrong(labels: object, outputs: torch.Size) -> tuple[str, str] | None:
    """Return what is wrong with the labels, and the way out; None if nothing is."""
    own = "Give metric= (and loss=) of your own"
    else_own = f"{own[0].lower()}{own[1:]}"
    if not isinstance(labels, Tensor):
        return f"the labels are {kind(labels)}", f"Make them a tensor, or: {else_own}"
    shown = f"the labels are {kind(labels)}, and the outputs have shape (N, {', '.join(map(str, outputs[1:]))})"
    if len(outputs) < 2 or outputs[1] == 1:
        return shown, f"{own}: for a yes or no, count where (model(x) > 0) == (y > 0.5)"
    if labels.shape[1:] == outputs[1:]:  # a number for each class
        return shown, f"Give labels.argmax(1) where one of them is 1; {else_own} where several may be"
    if labels.is_floating_point() or labels.is_complex():
        return shown, f"Make them classes by .long(), or where they are numbers: {else_own}"
    if labels.shape[1:] != outputs[2:]:
        if labels.dim() == len(outputs) and labels.shape[1] == 1:
            return shown, "Give labels.squeeze(1)"
        if len(outputs) == 3 and labels.shape[1:] == outputs[1:2]:
            return shown, f"Let the network give its classes on axis 1, as by .transpose(1, 2). {own}"
        return shown, own
    counted = labels[labels != IGNORED]
    low, high = (int(counted.min()), int(counted.max())) if counted.numel() else (0, 0)
    if low < 0 or high >= outputs[1]:
        return (
            f"{dtype(labels)} labels go from {low} to {high}, and the outputs have {outputs[1]} classes",
            f"Write {IGNORED} for what must not count, such as void pixels, or give metric= (and loss=) of your own",
        )
    return None
