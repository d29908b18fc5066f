"""Checks each loader in one pass, within limits: shapes, types, finite numbers, labels, and whether the pass ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from ...errors import StudyError
from ..task import Batch, Loader, Task
from .calls import called, dtype, kind, look

MOST_ODD = 4
"""Batches with infinite numbers or NaN that are kept for a closer look."""

SCORED = ("validation", "test")
"""Loaders whose batches are all used, whatever their length says."""

BEGIN_AGAIN = "Give a list of batches or a DataLoader"


@dataclass(frozen=True)
class Bounds:
    """Limits for the checks of all loaders together.

    Attributes:
        seconds: total seconds, divided among the loaders.
        unknown_s: seconds within which a loader without a length must end.
        bytes: total bytes of tensors.
    """

    seconds: float = 5.0
    unknown_s: float = 15.0
    bytes: int = 2**29


@dataclass
class Seen:
    """The findings of one pass over a loader.

    Attributes:
        name: the loader's name.
        length: its own number of batches in a pass; None if it has none.
        batches: checked batches.
        whole: whether these are all.
        examples: in these.
        least: examples of the smallest batch.
        labels: the type and range of labels; empty where batches have none.
        first: a batch, of more than one example where there is one.
        inputs: of that batch.
        odd: batches with numbers that are not finite, by their number, and where.
    """

    name: str
    length: int | None
    batches: int = 0
    whole: bool = False
    examples: int = 0
    least: int = 0
    labels: str = ""
    first: Batch = None
    inputs: tuple[Tensor, ...] = ()
    odd: dict[int, tuple[Batch, str]] = field(default_factory=dict)
    _low: float = float("inf")
    _high: float = float("-inf")

    @property
    def of_one(self) -> bool:
        """Whether a batch has a single example."""
        return self.least == 1

    def add(self, number: int, batch: Batch, inputs: tuple[Tensor, ...]) -> None:
        """Add a batch."""
        size = len(inputs[0])
        if not self.batches or (len(self.inputs[0]) == 1 and size > 1):
            self.first, self.inputs = batch, inputs
        self.least = size if not self.batches else min(self.least, size)
        self.batches += 1
        self.examples += size
        labels = labels_of(batch)
        if labels is not None and labels.numel():
            if not labels.is_complex():
                self._low, self._high = min(self._low, float(labels.min())), max(self._high, float(labels.max()))
            self.labels = f"{dtype(labels)} from {self._low:g} to {self._high:g}"
        for where, tensors in (("inputs", inputs), ("labels", () if labels is None else (labels,))):
            if len(self.odd) < MOST_ODD and number not in self.odd and not all(map(_finite, tensors)):
                self.odd[number] = batch, where


def labels_of(batch: Batch) -> Tensor | None:
    """Return the labels of a batch ``(inputs, labels)``, or of a mapping that holds them; None if it has none."""
    if isinstance(batch, dict):
        labels = batch.get("labels")
    else:
        labels = batch[1] if isinstance(batch, (tuple, list)) and len(batch) == 2 else None
    return labels if isinstance(labels, Tensor) else None


def look_at(
    name: str, loader: Loader, task: Task, bounds: Bounds, check: Callable[[int, Batch], None] = lambda n, b: None
) -> Seen:
    """Go through a loader, within the limits.

    Args:
        name: the loader's name.
        loader: the loader.
        task: gives a batch's inputs and the example inputs.
        bounds: limits for this loader.
        check: is called with the number of each batch, from 0 on, and the batch; it may raise a `StudyError`.

    Raises:
        StudyError: a batch is not as it must be, or the loader does not end, or is used up after one pass.
    """
    seen = Seen(name, _length(loader))
    within_s = bounds.unknown_s if seen.length is None else bounds.seconds
    begun, held = time.monotonic(), 0
    for number, batch in _batches(name, loader):
        inputs = _inputs(name, number, batch, task)
        check(number, batch)
        seen.add(number, batch, inputs)
        held += sum(x.numel() * x.element_size() for x in inputs)
        late = time.monotonic() - begun > within_s or (held > bounds.bytes and seen.length is not None)
        if late or (seen.length is not None and seen.batches > seen.length):
            break
    else:
        seen.whole = True
    if not seen.batches:
        raise StudyError(f"`{name}` must give at least one batch; it is empty. {BEGIN_AGAIN} that holds some")
    if seen.whole:
        if name == "train" and seen.length is not None and seen.length > 2 * seen.batches:
            raise StudyError(
                "len(train) must tell the batches of a pass, since epochs are counted by it; it is "
                f"{seen.length:,}, and a pass gives {seen.batches:,}. Fix its __len__, or leave it out"
            )
        _check_again(name, loader)
    elif name != "calibration" and (seen.length is None or (seen.batches > seen.length and name in SCORED)):
        _refuse_endless(seen, time.monotonic() - begun)
    elif _last(loader) == 1:
        seen.least = 1
    return seen


def notes_on(seen: Seen) -> Iterator[str]:
    """Yield notes on a loader for its owner."""
    if seen.length is not None and (seen.batches > seen.length or (seen.whole and seen.batches != seen.length)):
        gives = f"{seen.batches:,}" if seen.whole else "more"
        yield (
            f"`{seen.name}`: len() says {seen.length:,} batches and a pass gives {gives}; passes are counted by len()"
        )
    elif seen.length is not None and seen.batches < seen.length:
        yield (
            f"`{seen.name}`: {seen.batches:,} of {seen.length:,} batches were looked at before the search; what is "
            "wrong in the others shows later"
        )


def _length(loader: Loader) -> int | None:
    try:
        return len(loader)  # type: ignore[arg-type]
    except Exception:  # a DataLoader has a __len__ whatever it is over
        return None


def _last(loader: Loader) -> int | None:
    """Return the size of a pass's last batch without loading it; None if unknown."""
    if not isinstance(loader, DataLoader) or loader.drop_last or not loader.batch_size:
        return None
    try:
        return len(loader.sampler) % loader.batch_size or loader.batch_size  # type: ignore[arg-type]
    except TypeError:
        return None


def _batches(name: str, loader: Loader) -> Iterator[tuple[int, Batch]]:
    """Yield batches with their numbers; a list's last batch comes second, because its size may differ."""
    iterator = called(f"iter({name})", lambda: iter(loader))
    if iterator is loader:
        raise StudyError(
            f"`{name}` must be iterable again and again; it is {kind(loader)}, used up after one pass. {BEGIN_AGAIN}"
        )
    if isinstance(loader, (list, tuple)) and type(loader) in (list, tuple) and len(loader) > 1:
        numbers = [0, len(loader) - 1, *range(1, len(loader) - 1)]
        yield from ((number, loader[number]) for number in numbers)
        return
    number, nothing = 0, object()
    try:
        while True:
            rule = f"`{name}` must give each batch of a pass; batch {number}, counted from 0, did not come"
            what = f"next(iter({name}))" if not number else f"batch {number} of {name}"
            batch = called(what, lambda: next(iterator, nothing), rule=rule if number else "")
            if batch is nothing:
                return
            yield number, batch
            number += 1
    finally:
        iterator = iter(())  # ends a loader's processes


def _inputs(name: str, number: int, batch: Batch, task: Task) -> tuple[Tensor, ...]:
    """Return a batch's inputs, after checking that only their batch size differs from the example inputs."""
    where = f"batch of {name}" if not number else f"batch {number} of {name}"
    inputs: Any = called(f"inputs({where})", lambda: task.inputs(batch))
    if not isinstance(inputs, tuple) or not inputs or not all(isinstance(x, Tensor) and x.dim() for x in inputs):
        given = (
            f"a {type(inputs).__name__} of {', '.join(map(kind, inputs))}"
            if isinstance(inputs, tuple)
            else kind(inputs)
        )
        raise StudyError(
            f"`inputs(batch)` must give a tuple of tensors; for `{name}`, whose batch {number} is {_form(batch)}, it "
            f"gave {given}. Pass inputs=… where batches are not (inputs, labels), and loss=… and metric=… with it"
        )
    if [(x.shape[1:], x.dtype) for x in inputs] != [(x.shape[1:], x.dtype) for x in task.examples]:
        those = f"those of `{name}`" if not number else f"the inputs of batch {number} of `{name}`, counted from 0,"
        raise StudyError(
            f"Batches must look like the example inputs except for the first dimension; {those} are {look(inputs)}, "
            f"the example inputs {look(task.examples)}. Change one of them"
        )
    odd = [x for x in inputs if x.layout is not torch.strided or x.device.type != "cpu"]
    if odd:
        is_what = f"on {odd[0].device}" if odd[0].device.type != "cpu" else str(odd[0].layout).removeprefix("torch.")
        raise StudyError(
            f"Inputs must be dense tensors on the CPU; one of batch {number} of `{name}`, counted from 0, is "
            f"{is_what}. Leave .to(device) out of the loader, or give inputs=… that makes them so"
        )
    if not len(inputs[0]):
        raise StudyError(
            f"Each batch must hold an example; batch {number} of `{name}`, counted from 0, holds none. Leave it out"
        )
    return inputs


def _form(batch: Batch) -> str:
    """Return a batch's structure in words."""
    if isinstance(batch, dict):
        return f"a mapping with {', '.join(map(repr, batch)) or 'nothing'}"
    if isinstance(batch, (tuple, list)):
        return f"a {type(batch).__name__} of {', '.join(map(kind, batch)) or 'nothing'}"
    return kind(batch)


def _finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point() and not tensor.is_complex():
        return True
    dense = tensor.detach() if tensor.layout is torch.strided else tensor.detach().to_dense()
    return bool(dense.isfinite().all())


def _check_again(name: str, loader: Loader) -> None:
    """Check that there is a second pass; lists and map-style datasets always have one."""
    if isinstance(loader, (list, tuple)):
        return
    if isinstance(loader, DataLoader) and not isinstance(loader.dataset, IterableDataset):
        return
    nothing = object()
    if called(f"next(iter({name})) for a second pass", lambda: next(iter(loader), nothing)) is nothing:
        raise StudyError(
            f"`{name}` must be iterable again and again; {kind(loader)} came, of which a second pass gives no batch. "
            f"{BEGIN_AGAIN}, or let __iter__ start again"
        )


def _refuse_endless(seen: Seen, seconds: float) -> None:
    """Report that a pass does not end.

    Raises:
        StudyError: always.
    """
    says = "and does not tell its length" if seen.length is None else f"though len() says {seen.length:,}"
    why = "epochs are counted by it" if seen.name == "train" else "all of it is scored"
    raise StudyError(
        f"A pass over `{seen.name}` must end, since {why}; after {seconds:.0f} s and {seen.batches:,} batches it had "
        f"not, {says}. Give it a __len__ that tells the batches of a pass, and let __iter__ end there, or give a "
        "DataLoader over a finite set"
    )
