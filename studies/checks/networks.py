"""Checks a network in evaluation mode: it returns one finite tensor, batch first, that depends on its inputs alone."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ...errors import StudyError
from ..task import Task, have_a_batch
from .calls import called, kind

NEARLY = 1e-2
"""Share of the outputs' range by which two answers to an example may differ, because sums are ordered differently."""

Inputs = tuple[Tensor, ...]


def check_examples(model: nn.Module, task: Task) -> torch.Size:
    """Check that the model runs on the example inputs and gives finite numbers, batch first; return their shape.

    Raises:
        StudyError: it does not.
    """
    examples = task.examples
    if not examples or not all(isinstance(example, Tensor) and example.dim() > 0 for example in examples):
        kinds = ", ".join(map(kind, examples)) or "an empty tuple"
        raise StudyError(
            f"`example_inputs` must be a tensor, or tensors, batch first; it is {kinds}. Give one example as it is "
            "served"
        )
    norms = _without_statistics(model)
    rule = f"`model(*example_inputs)` must run; {norms[0]}" if norms else ""
    output = called("model(*example_inputs)", lambda: answer(model, examples), rule=rule)
    if output.dim() == 0 or len(output) != len(examples[0]):
        raise StudyError(
            f"The model's output must have the batch of {len(examples[0])} as its first dimension; "
            f"its shape is {tuple(output.shape)}. Let its forward keep the batch in front"
        )
    if output.is_complex() or not output.is_floating_point():
        raise StudyError(f"The model's output must be real numbers; it is {kind(output)}. Return what it is made of")
    if not output.isfinite().all():
        raise StudyError(
            "The model's output on the example inputs must be finite; it holds NaN or infinity. Give the weights after "
            "training, and an example that the network knows"
        )
    return output.shape


def check_like(name: str, network: nn.Module, shape: torch.Size, task: Task) -> None:
    """Check that a teacher or a student gives outputs of the model's shape on the example inputs.

    Raises:
        StudyError: it does not.
    """
    output = called(f"{name}(*example_inputs)", lambda: answer(network, task.examples, f"`{name}`"))
    if output.shape != shape:
        raise StudyError(
            f"`{name}` must give what the model gives, a tensor of shape {tuple(shape)}; it gave {kind(output)}. Give "
            "one with the model's inputs and outputs"
        )


def check_function(model: nn.Module, inputs: Inputs, task: Task, *, sizes: int) -> Iterator[str]:
    """Check that the model's answer to an example depends on that example alone, and yield notes for its owner.

    Args:
        model: a copy, which may be changed.
        inputs: the inputs of a batch.
        task: gives the example inputs.
        sizes: number of different batch sizes, including that of the example inputs.

    Raises:
        StudyError: it does not.
    """
    served = len(task.examples[0])
    some = few(inputs, 2 * served)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for given in (task.examples, some):
        _check_twice(model, given, state)
    changed = _changed(model, state)
    if changed:
        model.load_state_dict(state)
        yield (
            f"the model changes {changed[0]!r} in evaluation; its answers do not depend on it, and copies keep the "
            "value that it had at first"
        )
    if not have_a_batch(inputs) or not have_a_batch(task.examples):
        return
    if sizes > 1:
        _check_neighbours(model, some, served)
    elif not _takes(model, some, served + 1):
        yield (
            f"the model takes batches of {served} only, as all of the loaders have; nothing else can be tried, and "
            "nothing else be served"
        )


def few(inputs: Inputs, most: int) -> Inputs:
    """Return the first examples of a batch; all if its inputs do not share their first dimension."""
    return tuple(x[:most] for x in inputs) if have_a_batch(inputs) else inputs


def answer(model: nn.Module, inputs: Inputs, name: str = "The model") -> Tensor:
    """Return a network's outputs in evaluation mode for a copy of inputs.

    Raises:
        StudyError: the network does not return a tensor.
    """
    with torch.no_grad():
        outputs = model.eval()(*(x.clone() for x in inputs))
    if not isinstance(outputs, Tensor):
        raise StudyError(
            f"{name} must return one tensor; it returned {kind(outputs)}. Wrap it in a module that does, or give "
            "example_inputs={name: tensor}, of which the logits count"
        )
    return outputs


def _check_twice(model: nn.Module, inputs: Inputs, state: dict[str, Tensor]) -> None:
    given = tuple(x.clone() for x in inputs)
    with torch.no_grad():
        first = called("model(*inputs)", lambda: model.eval()(*given))
    if not all(torch.equal(x, y) for x, y in zip(given, inputs, strict=True) if x.isfinite().all()):
        raise StudyError(
            "The model must not change its inputs; in evaluation it changed the values of the tensor it was given in "
            "place. Let it begin on a new one, as by x = x - mean in place of x -= mean, or inplace=False"
        )
    second = called("model(*inputs) for a second time", lambda: answer(model, inputs))
    apart = _apart(first, second)
    if apart > NEARLY:
        changed = _changed(model, state)
        why = (
            f"It changes {changed[0]!r} meanwhile: keep that for training"
            if changed
            else "Let what is random, as F.dropout(x, training=self.training), be off in evaluation"
        )
        raise StudyError(
            "The model must give the same answer to the same inputs in evaluation; two calls differ by "
            f"{apart:.0%} of the outputs' range. {why}"
        )


def _check_neighbours(model: nn.Module, inputs: Inputs, served: int) -> None:
    """Check that an example has the same answer in the served batch and in another one."""
    whole = called(f"model(*inputs) for a batch of {len(inputs[0])}", lambda: answer(model, inputs))
    rows = [i % len(inputs[0]) for i in range(served)]
    if rows == list(range(len(inputs[0]))):  # the same batch: another is put together
        rows = [0] * served if served > 1 else [0, 0]
    other = called(f"model(*inputs) for a batch of {len(rows)}", lambda: answer(model, tuple(x[rows] for x in inputs)))
    if whole.shape[1:] != other.shape[1:] or len(other) != len(rows):
        raise StudyError(
            f"The model's output must be like that of the example except for the batch; it is {kind(whole)} for a "
            f"batch of {len(inputs[0])}, and {kind(other)} for one of {len(rows)}. Let its forward keep the batch apart"
        )
    apart = _apart(whole[rows], other)
    if apart > NEARLY:
        mixed = "See where its forward mixes examples, as by a reshape or a mean over the batch"
        way = next(iter(_without_statistics(model)), mixed)
        raise StudyError(
            "The model must answer an example alike whatever else is in its batch, since batches are scored of other "
            f"sizes than are served; one of {len(inputs[0])} and one of {len(rows)} differ by {apart:.0%} of the "
            f"outputs' range. {way}"
        )


def _without_statistics(model: nn.Module) -> list[str]:
    """Return sentences on the batch norms that take their statistics from the batch in evaluation too."""
    return [
        f"{name!r} has no running statistics (track_running_stats=False): train it with them, or use GroupNorm"
        for name, module in model.named_modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None
    ]


def _takes(model: nn.Module, inputs: Inputs, size: int) -> bool:
    rows = [i % len(inputs[0]) for i in range(size)]
    try:
        return len(called("model", lambda: answer(model, tuple(x[rows] for x in inputs)))) == size
    except StudyError:
        return False


def _changed(model: nn.Module, state: dict[str, Tensor]) -> list[str]:
    """Return the names of weights and buffers that are others than they were."""
    now = model.state_dict()
    return [
        name for name, tensor in state.items() if not torch.equal(now[name], tensor) and bool(tensor.isfinite().all())
    ]


def _apart(one: object, other: object) -> float:
    """Return the largest difference of outputs as a share of their range; infinite where they cannot be compared."""
    if not isinstance(one, Tensor) or not isinstance(other, Tensor) or one.shape != other.shape:
        return float("inf")
    scale = float(one.abs().max()) if one.numel() else 0.0
    return float((one - other).abs().max()) / max(scale, 1e-6) if one.numel() else 0.0
