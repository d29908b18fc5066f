"""Checks a task once, where it enters, to report mistakes before anything is trained or measured."""

from __future__ import annotations

import difflib
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import torch
from torch import nn

from ..errors import StudyError
from .checks.calls import called
from .checks.labels import check_form, check_labels, takes_labels
from .checks.loaders import Bounds, Seen, look_at, notes_on
from .checks.networks import answer, check_examples, check_function, check_like, few
from .checks.scores import check_metric, check_odd
from .checks.training import check_distance, check_loss
from .networks.copied import copied
from .normalize import normalized
from .random_states import random_states_kept
from .task import Batch, Task

LOADERS = ("train", "validation", "test", "calibration")

_LOADER = re.compile(rf"`?\b({'|'.join(LOADERS)})\b`?")


@dataclass(frozen=True, kw_only=True)
class Valid:
    """A checked task.

    Attributes:
        task: the task with plain networks; see `normalized`.
        notes: changes, and notes for its owner, one sentence each.
    """

    task: Task
    notes: tuple[str, ...] = ()


@dataclass
class Findings:
    """The findings about a task.

    Attributes:
        task: the task with plain networks, or unchanged if something is wrong with them.
        errors: broken rules, each with the value that came and the way out.
        notes: see `Valid`.
        loaders: the findings about its loaders.
        model: a copy of the model that runs on the example inputs; None if it does not.
    """

    task: Task
    errors: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    loaders: list[Seen] = field(default_factory=list)
    model: nn.Module | None = None

    @contextmanager
    def part(self) -> Iterator[None]:
        """Record a broken rule, so that the following checks still run."""
        try:
            yield
        except StudyError as error:
            told = [_LOADER.sub("", each) for each in self.errors]  # the same error in another loader adds nothing
            if _LOADER.sub("", str(error)) not in told:
                self.errors.append(str(error))


def validate(task: Task, bounds: Bounds | None = None) -> Valid:
    """Run every part of a task once; neither the model nor a global random state is changed.

    Args:
        task: the task.
        bounds: limits for the checks of loaders.

    Raises:
        StudyError: rules of `Task` are broken; the message lists all of them.
    """
    found = examine(task, bounds)
    if len(found.errors) == 1:
        raise StudyError(found.errors[0])
    if found.errors:
        listed = "".join(f"\n{number}. {error}" for number, error in enumerate(found.errors, 1))
        raise StudyError(f"{len(found.errors)} problems in this study must be fixed:{listed}")
    return Valid(task=found.task, notes=tuple(found.notes))


def examine(task: Task, bounds: Bounds | None = None) -> Findings:
    """Return all findings about a task, including errors."""
    found, bounds = Findings(task), bounds or Bounds()
    with random_states_kept():
        for name in ("epochs", "final_epochs"):
            with found.part():
                _check_epochs(name, getattr(task, name))
        with found.part():
            _check_resolutions(task.resolutions)
        with found.part():
            _check_networks(found)
        if all(isinstance(example, torch.Tensor) for example in found.task.examples):
            _look_at_loaders(found, bounds)
        if found.model is not None:
            _try(found, found.model)
    return found


def _check_epochs(name: str, value: object) -> None:
    if not isinstance(value, (int, float)) or not value > 0:
        raise StudyError(
            f"`{name}` must be more than 0; it is {value}. It may be a fraction, such as 0.05 passes over `train`"
        )


def _check_resolutions(shares: object) -> None:
    if not isinstance(shares, (list, tuple)) or not all(isinstance(s, (int, float)) and 0 < s <= 1 for s in shares):
        raise StudyError(
            f"`resolutions` must be shares of the images' height and width, such as (0.75, 0.5); it is {shares!r}"
        )


def _check_networks(found: Findings) -> None:
    """Make the networks plain, and check that each gives what it must for the example inputs."""
    task = found.task
    rule = "`model`, `teacher` and `student` must be networks that run on the example inputs"
    found.task, notes = called("model(*example_inputs)", lambda: normalized(task), rule=rule)
    found.notes += notes
    task = found.task
    with found.part():
        _check_keep(task)
    model = copied(task.model)
    shape = check_examples(model, task)
    for name in ("teacher", "student"):
        network = getattr(task, name)
        if network is not None:
            check_like(name, copied(network), shape, task)
    found.model = model


def _check_keep(task: Task) -> None:
    """Check that each name in `keep` is a module of the network that is compressed."""
    known = [name for name, _ in task.base.named_modules()]
    if isinstance(task.keep, str):
        raise StudyError(f"`keep` must be a list of names; it is the string {task.keep!r}. Write keep=[{task.keep!r}]")
    for name in task.keep:
        if name not in known:
            close = ", ".join(repr(match) for match in difflib.get_close_matches(name, known))
            hint = f"did you mean {close}?" if close else "print model.named_modules() to see them"
            raise StudyError(f"`keep` must name modules of the model; there is none called {name!r}: {hint}")


def _look_at_loaders(found: Findings, bounds: Bounds) -> None:
    """Go through each loader, within its share of the time."""
    task, left = found.task, bounds.seconds
    given = {name: getattr(task, name) for name in LOADERS}
    given = {name: loader for name, loader in given.items() if loader is not None or name in ("train", "validation")}
    outputs: torch.Size | None = None  # of a batch, which those of other loaders are like

    def check(name: str, number: int, batch: Batch) -> None:
        nonlocal outputs
        check_form(name, number, batch, task)
        model = found.model
        if model is None or not takes_labels(name, task):
            return
        if outputs is None:
            inputs = task.inputs(batch)
            outputs = _shape(model, inputs, name)
        check_labels(name, number, batch, outputs, task)

    for done, (name, loader) in enumerate(given.items()):
        fair = max(left / (len(given) - done), bounds.seconds / 10)
        share = Bounds(fair, bounds.unknown_s, bounds.bytes // len(given))
        begun = time.monotonic()
        with found.part():
            seen = look_at(name, loader, task, share, lambda number, batch: check(name, number, batch))  # noqa: B023
            found.loaders.append(seen)
            found.notes += notes_on(seen)
        left = max(0.0, left - (time.monotonic() - begun))


def _shape(model: nn.Module, inputs: tuple[torch.Tensor, ...], name: str) -> torch.Size:
    """Return the shape of a network's outputs for a batch, from two of its examples if it takes two."""
    with suppress(StudyError):
        return called("model", lambda: answer(model, few(inputs, 2))).shape
    return called(f"model(batch of {name})", lambda: answer(model, inputs)).shape


def _try(found: Findings, model: nn.Module) -> None:
    """Run the checks that need a network and a batch, on copies."""
    task, seen = found.task, {each.name: each for each in found.loaders}
    sizes = {len(task.examples[0])} | {len(each.inputs[0]) for each in found.loaders} | {s.least for s in found.loaders}
    validation, train = seen.get("validation"), seen.get("train")
    if validation is not None:
        with found.part():
            found.notes += check_function(model, validation.inputs, task, sizes=len(sizes))
        with found.part():
            found.notes += check_metric(model, validation, task)
    for each in found.loaders:
        with found.part():
            check_odd(each, model, task)
    if train is not None:
        with found.part():
            check_distance(model, train, task)
        with found.part():
            base = model if task.student is None else copied(task.student)
            found.notes += check_loss(base, train, task)
