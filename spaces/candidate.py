"""A candidate: one complete choice of how to compress a network, as plain data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

Value = float | int | str
"""What a choice may be: a ratio, a number of bits, a name."""

ACTIVATION, DEPTH, PRUNING_RATIO, RANK = "activation", "depth", "pruning_ratio", "rank"
SPARSITY, BITS, PALETTE, RESOLUTION = "sparsity", "bits", "palette", "resolution"
"""The axes: how cheap the activation functions of a block or a stage get; whether a residual branch stays; the share of
a group's channels that goes; of a layer the share of its rank that stays, the share of its weights that are zero, the
bits of its numbers, the bits of an index into a palette of weights; the share of the images' height and width."""

PRUNING, FACTORIZATION, QUANTIZATION, DISTILLATION = "pruning", "factorization", "quantization", "distillation"
"""The axes of settings: how channels are chosen, layers factorised, ranges found, and how what is left is trained."""

SETTINGS = frozenset({PRUNING, FACTORIZATION, QUANTIZATION, DISTILLATION})

Json = Mapping[str, Mapping[str, Value]]


@dataclass(frozen=True)
class Candidate:
    """What each technique does to each part of the network; absent parts stay as they are.

    The first key is the *axis* (``"pruning_ratio"``, ``"bits"``, ``"distillation"``), the second the
    *target* on that axis (a group, a layer, a setting). The unchanged network is ``Candidate()``.

    >>> half = Candidate({"pruning_ratio": {"conv1": 0.5}, "bits": {"conv1": 8}})
    >>> half["pruning_ratio"]["conv1"]
    0.5
    >>> half == Candidate.from_json(half.to_json()) and hash(half) == hash(Candidate.from_json(half.to_json()))
    True
    """

    axes: Json = field(default_factory=dict)

    def __post_init__(self) -> None:
        kept = {
            axis: MappingProxyType(dict(sorted(targets.items())))
            for axis, targets in sorted(self.axes.items())
            if targets
        }
        object.__setattr__(self, "axes", MappingProxyType(kept))

    def __getitem__(self, axis: str) -> Mapping[str, Value]:
        """Return what the candidate chooses on an axis: target to value, empty where nothing changes."""
        return self.axes.get(axis, MappingProxyType({}))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Candidate) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash(self.to_json())

    def __reduce__(self) -> tuple[type[Candidate], tuple[dict[str, dict[str, Value]]]]:
        return Candidate, (self.to_dict(),)

    def to_dict(self) -> dict[str, dict[str, Value]]:
        """Return plain nested dictionaries, sorted by name."""
        return {axis: dict(targets) for axis, targets in self.axes.items()}

    def to_json(self) -> str:
        """Return the canonical JSON text; equal candidates have equal texts."""
        return json.dumps(self.to_dict(), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Candidate:
        """Read a candidate back from `to_json`."""
        return cls(json.loads(text))

    @property
    def compresses(self) -> bool:
        """Whether the candidate changes the network at all; settings alone change nothing.

        >>> Candidate({"bits": {"conv1": 8}}).compresses, Candidate({"distillation": {"loss": 1.0}}).compresses
        (True, False)
        """
        return any(axis not in SETTINGS for axis in self.axes)

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits that name the candidate, the same in every process."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:12]
