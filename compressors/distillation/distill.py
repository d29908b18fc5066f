"""Distillation: a compressed network learns from the data and from its teacher's outputs, features and attention."""

from __future__ import annotations

import itertools
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import AutocompressError, InfeasibleError, StudyError, in_a_line
from ...spaces.candidate import DISTILLATION, Value
from ...spaces.space import Choice
from ...studies.loss_probe import choose_distance
from ...studies.random_states import seeded
from ...studies.task import Batch, Task
from ..batches import Endless, batches_in
from ..modules import evaluating
from .answers import Answers
from .bfloat16 import in_bfloat16, trains_in_bfloat16
from .intermediate import Hints, offers
from .loss import DistillationLoss
from .schedule import Schedule

CHOICES = (
    Choice(axis=DISTILLATION, target="temperature", levels=(1.0, 2.0, 4.0, 8.0)),
    Choice(axis=DISTILLATION, target="weight", levels=(0.7, 0.9, 0.5, 0.3, 0.0)),
    Choice(axis=DISTILLATION, target="learning_rate", levels=(0.01, 0.003, 0.03)),
    Choice(axis=DISTILLATION, target="features", levels=(0.0, 0.1, 1.0)),
    Choice(axis=DISTILLATION, target="attention", levels=(0.0, 0.1, 1.0)),
)
"""The settings that a search may vary."""

ONE_VALUE = "Expected more than 1"
"""What torch says where a norm in training mode has one value for each channel."""

DEFAULTS: Mapping[str, Value] = {choice.target: choice.levels[0] for choice in CHOICES}


def choices(task: Task) -> tuple[Choice, ...]:
    """Return the settings that affect a task's training: none if the task trains with its own `fit`."""
    if task.fit is not None:
        return ()
    chosen = choose_distance(task)
    works = {
        "weight": chosen.distance is not None,
        "temperature": chosen.softened,
        **{hint: offers(task, hint) for hint in ("features", "attention")},
    }
    return tuple(choice for choice in CHOICES if works.get(choice.target, True))


def distil(
    student: nn.Module,
    teacher: nn.Module,
    task: Task,
    *,
    settings: Mapping[str, Value],
    epochs: float,
    seed: int | tuple[int, ...],
    batches: Endless | None = None,
    answers: Answers | None = None,
    rate: float = 1.0,
    schedule: Schedule | None = None,
    penalty: Callable[[nn.Module], Tensor] | None = None,
    deadline: float = math.inf,
    pause: Callable[[], None] | None = None,
) -> None:
    """Train a student in place for a number of passes over the task's training data.

    The loss is (1 − weight) · the task's + weight · the task's `distance` + features · `FeatureLoss` + attention · that
    of `attention.py`. The teacher is given what the loss gives the student.

    Args:
        student: the compressed network.
        teacher: usually the original network.
        task: gives the data, the loss, and a `fit` of its own where the user has one.
        settings: the candidate's distillation settings; absent ones take their defaults.
        epochs: passes over ``task.train``; a fraction is a part of one pass.
        seed: random seed of the training.
        batches: a stream of ``task.train`` to continue; None begins one.
        answers: keep the teacher's outputs for these batches; None computes them. Hints need the teacher itself.
        rate: multiplies the learning rate of the settings.
        schedule: the phase of a longer training that this is; None for a training of its own.
        penalty: ``penalty(student)`` is added to the loss.
        deadline: a time of `time.monotonic` after which the training gives up.
        pause: is called before each batch, and may wait.

    Raises:
        InfeasibleError: the loss is not a number any more, the deadline has passed, or there are no features or no
            attention to learn from though they have a weight.
        StudyError: the task's own `fit` raised, or no batch can be trained on.

    """
    with seeded(seed), evaluating(teacher), _before_each_batch(student, pause):
        student.train()
        if task.fit is not None:
            _fit(task.fit, student, teacher, epochs)
        else:
            chosen = {name: float(value) for name, value in {**DEFAULTS, **settings}.items()}
            chosen["learning_rate"] *= rate
            with ExitStack() as stack:
                half = trains_in_bfloat16(student, task.examples)
                if half:
                    stack.enter_context(in_bfloat16(student))
                    stack.enter_context(in_bfloat16(teacher))
                asked = teacher if answers is None else answers.of(teacher, "bfloat16" if half else "float32")
                stream = Endless(task.train) if batches is None else batches
                rates = (Schedule(epochs) if schedule is None else schedule).rates(batches_in(task.train))
                _train(student, teacher, asked, task, stream, chosen, rates, penalty, deadline)
        student.eval()


def _fit(
    fit: Callable[[nn.Module, nn.Module, float], None], student: nn.Module, teacher: nn.Module, epochs: float
) -> None:
    """Run the user's own training; report what it raises as an error of the study."""
    try:
        fit(student, teacher, epochs)
    except (AutocompressError, MemoryError, OSError):
        raise
    except Exception as error:
        raise StudyError(
            f"`fit(student, teacher, {epochs:g})` must train the student; it raised {in_a_line(error)}. "
            "Epochs may be a fraction of a pass"
        ) from error


@contextmanager
def _before_each_batch(student: nn.Module, pause: Callable[[], None] | None) -> Iterator[None]:
    """Call a function before each of the student's batches, also in the user's own training."""
    hook = student.register_forward_pre_hook(lambda *call: None if pause is None else pause())
    try:
        yield
    finally:
        hook.remove()


def _train(
    student: nn.Module,
    teacher: nn.Module,
    asked: Callable[..., Any],
    task: Task,
    batches: Iterator[Batch],
    settings: Mapping[str, float],
    rates: Sequence[float],
    penalty: Callable[[nn.Module], Tensor] | None,
    deadline: float,
) -> None:
    steps, hints = len(rates), None
    if settings["features"] or settings["attention"]:
        first = next(batches)
        batches = itertools.chain([first], batches)
        hints = Hints(
            student, teacher, task.inputs(first), features=settings["features"], attention=settings["attention"]
        )
    trained = [p for p in student.parameters() if p.requires_grad]
    trained += [] if hints is None else hints.parameters()
    optimizer = _optimizer(trained)
    largest = [settings["learning_rate"] * group["lr"] for group in optimizer.param_groups]
    taught = DistillationLoss(student, asked, task, settings, hints)
    with taught.watching():
        losses = _losses(taught, batches, batches_in(task.train))
        for step, (rate, loss) in enumerate(zip(rates, losses, strict=False)):
            if time.monotonic() > deadline:
                raise InfeasibleError(f"its time was over at training step {step} of {steps}", rung="train")
            loss = loss if penalty is None else loss + penalty(student)
            if not torch.isfinite(loss):
                raise InfeasibleError(f"the loss became {loss.item()} at training step {step} of {steps}", rung="train")
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(trained, 1.0)  # one odd batch moves Adam's averages no further than others do
            for group, most in zip(optimizer.param_groups, largest, strict=True):
                group["lr"] = rate * most
            optimizer.step()


def _losses(taught: DistillationLoss, batches: Iterator[Batch], most: int) -> Iterator[Tensor]:
    """Yield the loss of each batch that a network can be trained on.

    A norm has no variance of one value a channel, as that of a batch of one example, and torch refuses to train on it.

    Args:
        taught: gives the loss.
        batches: the training data.
        most: batches of a pass; of two passes there is one that can be trained on.

    Raises:
        StudyError: there is none.
    """
    refused = 0
    for batch in batches:
        try:
            loss = taught(batch)
        except ValueError as error:
            refused += 1
            if ONE_VALUE not in str(error):
                raise
            if refused >= 2 * most:  # the last of a pass may be followed by the first of the next
                raise StudyError(
                    f"batches of `train` must have more than one example where norms are trained; none of its {most} "
                    f"has: {error}. Give larger batches, or a network without norms"
                ) from error
        else:
            refused = 0
            yield loss


def _optimizer(trained: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    """Return AdamW with one group for all parameters of about one size; their rates are relative to it.

    So one rate fits all widths (Shazeer and Stern, Adafactor, ICML 2018, section 8). Norms, biases and learned steps do
    not decay.
    """
    groups: defaultdict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    for parameter in trained:
        groups[_scale(parameter), 0.01 if parameter.dim() > 1 else 0.0].append(parameter)
    return torch.optim.AdamW(
        ({"params": alike, "lr": scale, "weight_decay": decay} for (scale, decay), alike in groups.items()),
        fused=all(p.device.type == "cpu" for p in trained) or None,  # one pass over the weights instead of ten
    )


def _scale(parameter: Tensor) -> float:
    """Return a parameter's magnitude, to about a tenth."""
    magnitude = max(1e-2, parameter.detach().square().mean().sqrt().item())
    return float(2.0 ** (round(4 * math.log2(magnitude)) / 4))
