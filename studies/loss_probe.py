"""Finds the distance that fits a network's outputs, from the task's own loss.

The loss gets made-up outputs in place of the network's, and its gradient shows what they mean to it:

- Classes, if adding a constant to all of them changes nothing: the gradient sums to 0 along their axis.
- Answers to yes-no questions, if each output's gradient follows its sigmoid; or if an output far on the right side has
  no gradient, and one on the wrong side a bounded one.
- Numbers otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from .distance import BUILT_IN, OFF, Distance, Sigmoid, Softmax, SquaredError
from .keywords import tensors_in, with_tensor
from .networks.copied import copied
from .random_states import seeded
from .task import Task

NEARLY = 1e-2
"""Share of the largest gradient below which a gradient counts as 0."""

FAR, NEAR = 30.0, 3.0
"""A logit at which a sigmoid is flat, and one at which it is not."""

LOOKED_AT = 4
"""Most batches that are tried: a loss may fail on a batch of a single example."""

MOST = 4.0
"""Largest growth of a bounded gradient while the outputs grow tenfold."""


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The distance that a student learns by.

    Attributes:
        distance: the distance; None for no distance.
        name: its name in words, such as ``softmax over axis 1``.
        why: why it was chosen.
        softened: whether a temperature changes it.

    """

    distance: Distance | None
    name: str
    why: str
    softened: bool = False

    def __str__(self) -> str:
        return f"{self.name}, since {self.why}"


def choose_distance(task: Task) -> Chosen:
    """Return the distance of a task: the one that it names or gives, otherwise the one that fits its loss.

    Neither the network nor any random state is changed.
    """
    given = task.distance
    if task.fit is not None:
        return Chosen(distance=None, name=OFF, why="the task trains with its own `fit`")
    if given == OFF:
        return Chosen(distance=None, name=OFF, why="the task says so")
    if isinstance(given, (Softmax, Sigmoid, SquaredError)):
        return _told(given, "the task says so")
    probe = _Probe(task)
    if isinstance(given, str):
        return _told(probe.scaled(BUILT_IN[given]()), "the task says so")
    if given is not None:
        return Chosen(distance=given, name="its own", why="the task gives it", softened=probe.softened(given))
    if not probe.used:
        return Chosen(distance=None, name=OFF, why="the loss does not depend on what a call of the network returns")
    return probe.choice()


def distance_of(task: Task) -> Distance | None:
    """Return the distance of a task; its loss is probed only if the task gives none."""
    given = task.distance
    return choose_distance(task).distance if given is None or isinstance(given, str) else given


def _told(distance: Softmax | Sigmoid | SquaredError, why: str) -> Chosen:
    """Return a built-in distance with its name."""
    name = next(name for name, kind in BUILT_IN.items() if isinstance(distance, kind))
    if isinstance(distance, Softmax):
        name += f" over axis {distance.axis}"
    if distance.scale != 1:
        name += f", times {distance.scale:.2g}"
    return Chosen(distance=distance, name=name, why=why, softened=not isinstance(distance, SquaredError))


class _Probe:
    """A task's loss on its first batch that can be trained on, as a function of the network's outputs.

    Attributes:
        used: whether the loss depends on what the network returns.

    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._model = copied(task.base).train().requires_grad_(False)
        self._given: list[Any] = []  # by the network, which runs once: later calls are answered from here
        kept = self._model.register_forward_hook(lambda module, inputs, output: self._given.append(output))
        self._batch: Any = None
        real: list[tuple[Tensor, Tensor]] = []
        with seeded(0):
            for self._batch in islice(task.train, LOOKED_AT):
                self._given.clear()
                real = self.at(lambda outputs: outputs)
                if real:
                    break
        kept.remove()
        self._model.forward = self._repeat
        self.used = any(bool(gradient.any()) for _, gradient in real)
        self._real = [outputs.detach() for outputs, _ in real]

    def _repeat(self, *inputs: Any, **named: Any) -> Any:
        self._asked += 1
        return self._given[self._asked - 1]

    def at(self, values: Callable[[Tensor], Tensor]) -> list[tuple[Tensor, Tensor]]:
        """Return made-up outputs and the loss's gradient by them, for each call of the network that it depends on.

        There are none if the loss raises, as it may for outputs that no network returns.
        """
        self._asked = 0
        made: list[Tensor] = []

        def replaced(module: nn.Module, inputs: object, output: Any) -> Any:
            name, first = next(iter(tensors_in(output).items()), (None, None))
            if first is None or not first.is_floating_point():
                return output
            made.append(values(first.detach()).requires_grad_())
            return with_tensor(output, name, made[-1].clone())  # which a loss may change in place

        hook = self._model.register_forward_hook(replaced)
        try:
            with seeded(0), torch.enable_grad():
                loss = self._task.loss(self._model, self._batch)
                gradients = torch.autograd.grad(loss, made, allow_unused=True)
        except Exception:  # a user's loss may raise anything
            return []
        finally:
            hook.remove()
        return [(outputs, found) for outputs, found in zip(made, gradients, strict=True) if found is not None]

    def choice(self) -> Chosen:
        """Return the distance that fits the outputs."""
        axis = self._softmax_axis()
        if axis is not None:
            return _told(self.scaled(Softmax(axis)), "adding a constant to all classes does not change the loss")
        if self._is_sigmoid():
            return _told(self.scaled(Sigmoid()), "the loss takes each output for the logit of a yes or no")
        axis = self._log_axis()
        if axis is not None:
            return _told(Softmax(axis), "the outputs are logarithms of probabilities")
        return _told(self.scaled(SquaredError()), "the loss takes the outputs for numbers, not for logits")

    def _softmax_axis(self) -> int | None:
        """Return the axis along which the loss's gradients sum to 0, and stay bounded."""
        found, wide = self.at(torch.randn_like), self.at(lambda outputs: 10 * torch.randn_like(outputs))
        if not found or _largest(wide) > MOST * _largest(found) or not _largest(found) > 0:
            return None
        if all(abs((x * g).sum()) <= NEARLY * (x * g).abs().sum() for x, g in (*found, *wide)):
            return None  # only directions count, as for a correlation
        axes = range(1, found[0][0].dim())
        return next((axis for axis in axes if all(_sums_to_none(gradient, axis) for _, gradient in found)), None)

    def _is_sigmoid(self) -> bool:
        """Return whether the loss sees each output through a sigmoid."""
        points = [
            [g for _, g in self.at(lambda outputs, at=at: torch.full_like(outputs, at))]  # type: ignore[misc]
            for at in (-FAR, -NEAR, NEAR, FAR)
        ]
        if not all(points) or len(set(map(len, points))) > 1:
            return False
        return all(_follows_sigmoid(*calls) for calls in zip(*points, strict=True))

    def _log_axis(self) -> int | None:
        """Return the axis along which the network's outputs are logarithms of probabilities."""

        def sums_to_one(axis: int) -> bool:
            return all(bool((x.float().logsumexp(axis).abs() < NEARLY).all()) for x in self._real)

        return next((a for a in range(1, self._real[0].dim()) if self._real[0].shape[a] > 1 and sums_to_one(a)), None)

    def scaled(self, distance: Softmax | Sigmoid | SquaredError) -> Softmax | Sigmoid | SquaredError:
        """Return a distance whose gradient at an untrained network is as large as the loss's.

        So the weight of soft labels means the same for a loss that is a sum, or of numbers in the thousands.
        """
        if not self._real:
            return distance
        if isinstance(distance, SquaredError):
            scale = self._scale_of_numbers()
        else:
            pull = sum(float(g.abs().sum()) for _, g in self.at(torch.zeros_like))
            classes = self._real[0].shape[distance.axis] if isinstance(distance, Softmax) else 2
            usual = 2 * (1 - 1 / classes) if isinstance(distance, Softmax) else 0.5  # of a mean cross-entropy
            scale = pull / usual if classes > 1 else 1.0
        usable = scale > 0 and math.isfinite(scale)
        return replace(distance, scale=float(f"{scale:.2g}") if usable else 1.0)

    def _scale_of_numbers(self) -> float:
        """Return the factor that makes the gradient of the squared error from the teacher as large as the loss's."""
        teacher = copied(self._task.model if self._task.teacher is None else self._task.teacher).eval()
        with torch.no_grad():
            targets = teacher(*self._task.inputs(self._batch))
        mean = float(targets.mean())
        pull = sum(float(g.abs().sum()) for _, g in self.at(lambda outputs: torch.full_like(outputs, mean)))
        scale = pull / max(2 * float((targets - mean).abs().mean()), 1e-8)
        return scale if scale > 0 and math.isfinite(scale) else 1 / max(float(targets.var(correction=0)), 1e-8)

    def softened(self, distance: Distance) -> bool:
        """Return whether a temperature changes a distance."""
        if not self._real:
            return True
        with seeded(0):
            student, teacher = (torch.randn_like(self._real[0]) for _ in range(2))
            return not torch.equal(*(distance(student, teacher, temperature) for temperature in (1.0, 4.0)))


def _largest(found: list[tuple[Tensor, Tensor]]) -> float:
    return max((float(gradient.abs().max()) for _, gradient in found), default=math.inf)


def _sums_to_none(gradient: Tensor, axis: int) -> bool:
    """Return whether a gradient sums to 0 along an axis, everywhere."""
    most = gradient.abs().sum(axis).max()
    return gradient.shape[axis] > 1 and bool((gradient.sum(axis).abs() <= NEARLY * most).all())


def _follows_sigmoid(low: Tensor, below: Tensor, above: Tensor, high: Tensor) -> bool:
    """Return whether gradients at four logits are those of a loss of their sigmoids."""
    most = torch.stack([low.abs(), below.abs(), above.abs(), high.abs()]).max()
    if not 0 < most < math.inf:
        return False
    near, rise = 1 / (1 + math.exp(-NEAR)), high - low
    lines = (below - low - rise * (1 - near), above - low - rise * near)
    if rise.abs().max() > 0 and all(line.abs().max() <= NEARLY * rise.abs().max() for line in lines):
        return True
    little = NEARLY * most
    bounded = max(low.abs().max(), high.abs().max()) <= MOST * max(below.abs().max(), above.abs().max())
    sided = bool((torch.minimum(low.abs(), high.abs()) <= little).all())
    return bool(bounded) and sided and bool((high >= -little).all()) and bool((low <= little).all())
