"""The space: every choice that a candidate makes, generated from a network and a runtime's capabilities."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property

from .candidate import Candidate, Value


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One thing that may vary.

    Attributes:
        axis: what kind of choice it is; see `Candidate`.
        target: the group, layer or setting that it is about.
        levels: the values on offer, ordered from the mildest to the strongest.
        neutral: the value that leaves the network as it is and that a candidate therefore leaves out;
            None for settings.
        needs: the axis that a setting is about: a candidate with nothing there leaves the setting out. Empty for
            settings that every candidate states.

    """

    axis: str
    target: str
    levels: tuple[Value, ...]
    neutral: Value | None = None
    needs: str = ""

    @property
    def name(self) -> str:
        """The choice's name as a parameter of an Optuna study."""
        return f"{self.axis}:{self.target}"


@dataclass(frozen=True, kw_only=True)
class Conflict:
    """A level that cannot be built beside some levels of another choice; the next milder one takes its place there.

    Attributes:
        choice: the choice's name.
        other: the name of the other choice.
        beside: values of the other choice.
        level: the value; None for a choice that means nothing there, and takes its first level.

    """

    choice: str
    other: str
    beside: tuple[Value, ...]
    level: Value | None = None


Levels = Mapping[str, int]
"""A candidate as a point of the space: for each choice's name the index of its level."""


@dataclass(frozen=True)
class Space:
    """All choices, and the two-way street between candidates and points.

    Attributes:
        choices: what may vary.
        conflicts: which levels do not go together; those of choices that the space lacks mean nothing.

    >>> space = Space((Choice(axis="bits", target="conv1", levels=(32, 8), neutral=32),))
    >>> space.candidate({"bits:conv1": 1})["bits"]["conv1"]
    8
    >>> space.levels(Candidate())
    {'bits:conv1': 0}
    """

    choices: tuple[Choice, ...]
    conflicts: tuple[Conflict, ...] = ()

    @cached_property
    def sizes(self) -> dict[str, int]:
        """Number of levels of each choice."""
        return {choice.name: len(choice.levels) for choice in self.choices}

    @cached_property
    def clashes(self) -> list[tuple[int, int, int, list[int]]]:
        """The conflicts in numbers, the strongest levels first: a choice, its level, the other, levels of the other."""
        places = {choice.name: i for i, choice in enumerate(self.choices)}
        found = []
        for conflict in self.conflicts:
            if {conflict.choice, conflict.other} <= places.keys():
                mine, other = places[conflict.choice], places[conflict.other]
                levels = self.choices[mine].levels
                beside = [i for i, value in enumerate(self.choices[other].levels) if value in conflict.beside]
                if conflict.level in levels[1:] and beside:
                    found.append((mine, levels.index(conflict.level), other, beside))
        return sorted(found, key=lambda clash: -clash[1])

    @cached_property
    def moot(self) -> list[tuple[list[int], int, list[int]]]:
        """The choices that mean nothing beside a choice's levels: these choices, that choice, and its levels."""
        places = {choice.name: i for i, choice in enumerate(self.choices)}
        found: dict[tuple[str, tuple[Value, ...]], list[int]] = {}
        for conflict in self.conflicts:
            if conflict.level is None and {conflict.choice, conflict.other} <= places.keys():
                found.setdefault((conflict.other, conflict.beside), []).append(places[conflict.choice])
        return [
            (mine, places[other], [i for i, v in enumerate(self.choices[places[other]].levels) if v in beside])
            for (other, beside), mine in found.items()
        ]

    @cached_property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits that change when any choice does."""
        text = json.dumps([asdict(choice) for choice in self.choices])
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def candidate(self, levels: Levels) -> Candidate:
        """Return the candidate at a point, without conflicts; choices that are not named take their first level."""
        row = [levels.get(choice.name, 0) for choice in self.choices]
        for others in [mine for mine, other, beside in self.moot if row[other] in beside]:
            for mine in others:
                row[mine] = 0
        for mine, level, other, beside in self.clashes:
            if row[mine] == level and row[other] in beside:
                row[mine] -= 1
        axes: dict[str, dict[str, Value]] = {}
        for choice, level in zip(self.choices, row, strict=True):
            value = choice.levels[level]
            if value != choice.neutral:
                axes.setdefault(choice.axis, {})[choice.target] = value
        for choice in self.choices:
            if choice.needs and choice.needs not in axes:
                axes.get(choice.axis, {}).pop(choice.target, None)
        return Candidate(axes)

    def levels(self, candidate: Candidate) -> dict[str, int]:
        """Return the point of a candidate.

        Raises:
            ValueError: the candidate holds a value that the space does not offer.

        """
        known = {(choice.axis, choice.target) for choice in self.choices}
        for axis, targets in candidate.axes.items():
            for target in targets:
                if (axis, target) not in known:
                    raise ValueError(f"the space has no choice {axis}:{target}")
        return {choice.name: self._level(choice, candidate) for choice in self.choices}

    @staticmethod
    def _level(choice: Choice, candidate: Candidate) -> int:
        default = choice.levels[0] if choice.neutral is None else choice.neutral
        value = candidate[choice.axis].get(choice.target, default)
        if value not in choice.levels:
            raise ValueError(f"{choice.name} must be one of {choice.levels}, got {value!r}")
        return choice.levels.index(value)

    def at(self, pick: Callable[[Choice], int]) -> Candidate:
        """Return the candidate for which every choice takes the level that ``pick`` gives it."""
        return self.candidate({choice.name: pick(choice) for choice in self.choices})

    def on(self, axis: str) -> Iterable[Choice]:
        """Yield the choices of one axis."""
        return (choice for choice in self.choices if choice.axis == axis)
