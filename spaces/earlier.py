"""What spaces were in earlier versions, whose runs are resumed with the choices that they were started with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from .candidate import ACTIVATION, DEPTH, RESOLUTION, Value
from .space import Choice, Space

LATER_AXES = frozenset({ACTIVATION, DEPTH, RESOLUTION})
"""Axes that version 0.1 had not."""

EARLIER_LEVELS: Mapping[str, tuple[Value, ...]] = {}
"""The levels of choices that had others in version 0.1, by the choice's name; none for a choice that it had not."""


def as_started(space: Space, fingerprint: str) -> Space | None:
    """Return the space with a fingerprint: the given one, or what it was in version 0.1; None if neither has it."""
    return next((each for each in (space, _earlier(space)) if each.fingerprint == fingerprint), None)


def _earlier(space: Space) -> Space:
    """Return what version 0.1 offered of a space."""
    before = (_with_levels(choice) for choice in space.choices if choice.axis not in LATER_AXES)
    return replace(space, choices=tuple(choice for choice in before if choice.levels))


def _with_levels(choice: Choice) -> Choice:
    return replace(choice, levels=EARLIER_LEVELS.get(choice.name, choice.levels))
