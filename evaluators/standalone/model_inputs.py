"""What a model takes: names, shapes and types of its inputs, and random arrays that fit them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...errors import UsageError
from ..runtime import Arrays

SHAPE = re.compile(r"([1-9]\d*(?:x[1-9]\d*)*)(?::(\w+))?")
FLOATS = ("float32", "float64", "float16")
TYPES = (*FLOATS, "int64", "int32", "int16", "int8", "uint8", "bool")


@dataclass(frozen=True, kw_only=True)
class Input:
    """One input of a model.

    Attributes:
        name: in the file.
        shape: its dimensions; None for a free one.
        dtype: name of its NumPy type; None where nobody said.

    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str | None = None

    def __str__(self) -> str:
        dims = "×".join("?" if dim is None else str(dim) for dim in self.shape)
        return " ".join(filter(None, (self.name, dims, self.dtype)))

    def admits(self, other: Input) -> bool:
        """Whether arrays of another's shape and type can be fed to it."""
        return (
            len(self.shape) == len(other.shape)
            and all(mine in (None, theirs) for mine, theirs in zip(self.shape, other.shape, strict=True))
            and (self.dtype is None or other.dtype in (None, self.dtype))
        )


def parse_input(text: str) -> Input:
    """Return what ``--input`` says of one input.

    >>> str(parse_input("x=1x3x224x224")), str(parse_input("ids=1x128:int64"))
    ('x 1×3×224×224', 'ids 1×128 int64')
    """
    name, _, rest = text.rpartition("=")
    match = SHAPE.fullmatch(rest)
    if not name or match is None:
        raise UsageError(
            f"--input must be NAME=SHAPE or NAME=SHAPE:TYPE, such as x=1x3x224x224 or ids=1x128:int64; got {text!r}."
        )
    if match[2] not in (None, *TYPES):
        raise UsageError(f"--input {name} must have one of the types {', '.join(TYPES)}; got {match[2]!r}.")
    return Input(name=name, shape=tuple(map(int, match[1].split("x"))), dtype=match[2])


def settle(inputs: Sequence[Input], given: Mapping[str, Input], batch: int | None) -> tuple[Input, ...]:
    """Return inputs without free dimensions: as given, else the batch first, else 1.

    Args:
        inputs: what the file declares; empty where its format does not tell.
        given: what the user says, by name.
        batch: examples at a time; None takes what is there.

    Raises:
        UsageError: what was given does not fit the file, or is missing.

    """
    inputs = inputs or list(given.values())
    if not inputs:
        raise UsageError(
            "A file of this format does not tell its inputs: give each of them, in the model's order, as "
            "--input NAME=SHAPE, such as --input x=1x3x224x224."
        )
    unknown = sorted(given.keys() - {value.name for value in inputs})
    if unknown:
        offered = ", ".join(value.name for value in inputs)
        raise UsageError(f"--input must name an input of the model: {offered}; got {', '.join(unknown)}.")
    return tuple(_settle(value, given.get(value.name, value), batch) for value in inputs)


def _settle(value: Input, given: Input, batch: int | None) -> Input:
    if not value.admits(given):
        raise UsageError(f"--input must fit the model's own {value}; got {given}.")
    shape = given.shape
    if batch is not None and shape:
        if shape[0] not in (None, batch):
            raise UsageError(
                f"--batch sets the free first dimension of every input; {value.name} has {shape[0]} there, got {batch}."
            )
        shape = (batch, *shape[1:])
    settled = replace(value, shape=tuple(dim or 1 for dim in shape), dtype=value.dtype or given.dtype or "float32")
    if settled.dtype not in TYPES:
        raise UsageError(f"Inputs must have one of the types {', '.join(TYPES)}; the model has {value}.")
    return settled


def arrays(inputs: Sequence[Input], seed: int) -> Arrays:
    """Return random arrays: normal ones for floats, zeros and ones for whole numbers, which are safe as indices."""
    random = np.random.default_rng(seed)
    made = []
    for value in inputs:
        shape = [dim or 1 for dim in value.shape]
        numbers = random.standard_normal(shape) if value.dtype in FLOATS else random.integers(0, 2, shape)
        made.append(numbers.astype(value.dtype))
    return made
