"""Checks training: the loss and its gradient in training mode, and the distance."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ...errors import StudyError, place
from ..distance import BUILT_IN, OFF
from ..task import Batch, Task
from .calls import called, kind
from .loaders import Seen
from .networks import answer

SKIPPED = "batches of one example are skipped in training, since batch norms cannot be trained on them"


def check_loss(network: nn.Module, seen: Seen, task: Task) -> Iterator[str]:
    """Check the loss of one training batch and its gradient, and yield notes for the task's owner.

    Args:
        network: a copy of the trained network, which may be changed.
        seen: the training data.
        task: gives the loss.

    Raises:
        StudyError: the loss is not a finite scalar, or has no useful gradient.
    """
    network.train()
    if not any(True for _ in network.parameters()):
        raise StudyError("The network must have parameters to train and to remove; it has none. Give another")
    if not any(parameter.requires_grad for parameter in network.parameters()):
        network.requires_grad_(True)
    if seen.of_one and _norms_want_more(network, seen):
        if len(seen.inputs[0]) == 1:
            raise StudyError(
                "Batch norms must be trained on more than one value for each channel; `train` has batches of one "
                "example only. Give a larger batch_size, or put the norms into evaluation mode in the network's train()"
            )
        yield f"`train`: {SKIPPED}"
    if isinstance(task.loss, nn.modules.loss._Loss):
        raise StudyError(
            f"`loss(model, batch)` must call the model itself; it is {type(task.loss).__name__}, which takes outputs "
            "and labels. Write loss=lambda model, batch: criterion(model(batch[0]), batch[1])"
        )
    returned: list[object] = []
    hook = network.register_forward_hook(lambda module, inputs, output: returned.append(output))
    try:
        loss = called("loss(model, batch of train)", lambda: task.loss(network, seen.first))
    except StudyError as error:
        if not returned or isinstance(returned[-1], Tensor):
            raise
        taken = f"In training the network returns {kind(returned[-1])}: give a loss= that takes it"
        raise StudyError(f"{error}. {taken}") from error
    finally:
        hook.remove()
    _check_scalar(loss, returned)
    _backward(network, loss, seen.first, task)
    yield from _on_gradients(network)


def _check_scalar(loss: object, returned: list[object]) -> None:
    if not isinstance(loss, Tensor) or loss.dim() > 0:
        way = "Take its mean" if isinstance(loss, Tensor) else "Return the tensor, without .item()"
        raise StudyError(f"`loss(model, batch)` must return a scalar tensor; it returned {kind(loss)}. {way}")
    if not loss.isfinite():
        raise StudyError(
            f"`loss(model, batch)` must be finite on the first batch of train; it is {loss.item()}. See whether labels "
            "fit the outputs, and whether it takes the logarithm of 0"
        )
    if not loss.requires_grad:
        outputs = [x for output in returned for x in (output if isinstance(output, (tuple, list)) else [output])]
        found = [x for x in outputs if isinstance(x, Tensor)]
        way = (
            "The network's forward runs without gradients: take torch.no_grad, inference_mode or .detach() out of it"
            if found and not any(x.requires_grad for x in found)
            else "Do not detach it"
        )
        raise StudyError(f"`loss(model, batch)` must depend on the model's parameters; it has no gradient. {way}")


def _backward(network: nn.Module, loss: Tensor, batch: Batch, task: Task) -> None:
    rule = "The gradient of `loss(model, batch)` must be computed"
    try:
        called("loss(model, batch).backward()", lambda: loss.backward(), rule=rule)  # type: ignore[no-untyped-call]
    except StudyError as error:
        where = _forward_of(network, batch, task)
        raise StudyError(f"{error}" + (f". What it goes back through is {where}" if where else "")) from error


def _forward_of(network: nn.Module, batch: Batch, task: Task) -> str:
    """Return the line of the user's forward whose gradient cannot be computed; empty if unknown."""
    with warnings.catch_warnings(record=True) as told, torch.autograd.set_detect_anomaly(True):
        warnings.simplefilter("always")
        try:
            task.loss(network, batch).backward()  # type: ignore[no-untyped-call]
        except Exception:  # as before
            return next(filter(None, (place(Exception(str(each.message))) for each in told)), "")
    return ""


def _on_gradients(network: nn.Module) -> Iterator[str]:
    wanted = {name: p for name, p in network.named_parameters() if p.requires_grad}
    reached = {name: p.grad for name, p in wanted.items() if p.grad is not None}
    if wanted and not reached:
        raise StudyError(
            "`loss(model, batch)` must depend on the model's parameters; none of them has a gradient. Compute it from "
            "what model(…) returns"
        )
    odd = [name for name, gradient in reached.items() if not gradient.isfinite().all()]
    if odd:
        raise StudyError(
            f"The gradient of `loss(model, batch)` must be finite; that of {odd[0]!r} holds NaN or infinity, though "
            "the loss is finite. See where a root or a logarithm is taken of 0: add a small number there"
        )
    without = [name for name in wanted if name not in reached]
    if sum(wanted[name].numel() for name in without) > sum(p.numel() for p in wanted.values()) / 2:
        yield (
            f"most parameters, {without[0]!r} among them, have no gradient of the loss, so they are not trained: check "
            "that the forward uses them"
        )


def _norms_want_more(network: nn.Module, seen: Seen) -> bool:
    """Return whether training fails on a single example, as batch norms do on one value per channel."""
    try:
        with torch.no_grad():
            network(*(x[:1].clone() for x in seen.inputs))
    except ValueError as error:
        return "more than 1 " in str(error)
    except Exception:  # reported when the loss is tried
        return False
    return False


def check_distance(model: nn.Module, seen: Seen, task: Task) -> None:
    """Check that a distance is a known name, or returns a finite scalar for two outputs of the network.

    Raises:
        StudyError: it is not.
    """
    if task.distance is None:
        return
    if not callable(task.distance):
        if task.distance not in (*BUILT_IN, OFF):
            names = ", ".join(map(repr, (*BUILT_IN, OFF)))
            raise StudyError(f"`distance` must be one of {names}, or a function of your own; it is {task.distance!r}")
        return
    distance = task.distance
    outputs = answer(model, seen.inputs)
    apart = called("distance(student_outputs, teacher_outputs, 2.0)", lambda: distance(outputs + 1, outputs, 2.0))
    if not isinstance(apart, Tensor) or apart.dim() > 0 or not apart.isfinite():
        shown = str(apart.item()) if isinstance(apart, Tensor) and not apart.dim() else kind(apart)
        raise StudyError(
            f"`distance(…)` must return a finite scalar tensor; it returned {shown}. Take the mean over positions"
        )
