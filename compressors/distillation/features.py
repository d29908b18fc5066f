"""Intermediate features as hints: a student's layers learn to compute what its teacher's do.

(Romero et al., FitNets, ICLR 2015, section 2.2; here as one term of the loss, at several points at once.)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..modules import LAYERS, Inputs, run

POINTS = 4
"""The most points at which two networks are compared."""

RIDGE = 1e-3
"""Strength of the ridge with which an adapter is fitted before it is trained, as a share of the features' power."""

Pair = tuple[Tensor, Tensor]
"""An output of the student and the teacher's at the same point."""


@dataclass(frozen=True)
class Point:
    """Qualified names of two modules whose outputs are compared."""

    student: str
    teacher: str


def spread(length: int, most: int = POINTS) -> list[int]:
    """Return at most `most` evenly spaced positions of a sequence, the last one included.

    >>> spread(8), spread(2), spread(0)
    ([1, 3, 5, 7], [0, 1], [])
    """
    count = min(length, most)
    return [-(-(i + 1) * length // count) - 1 for i in range(count)]


def as_deep(position: int, length: int, other: int) -> int:
    """Return the position at the same relative depth in a sequence of another length.

    >>> [as_deep(i, 4, 8) for i in range(4)], [as_deep(i, 4, 2) for i in range(4)]
    ([1, 3, 5, 7], [0, 0, 1, 1])
    """
    return -(-(position + 1) * other // length) - 1


def find_points(
    student: nn.Module, teacher: nn.Module, inputs: Inputs, kinds: tuple[type[nn.Module], ...] = LAYERS
) -> list[Point]:
    """Return where two networks can be compared, in order of execution.

    Layers of the same name are paired if most of the teacher's have one in the student, whatever module it is there;
    else layers at the same relative depth. The layer that computes the outputs is no point.

    Args:
        student: may be pruned, factorised and quantized.
        teacher: has layers.
        inputs: of both, batch first; shapes may differ between their features.
        kinds: of the layers.

    """
    theirs = called(teacher, inputs, kinds)
    ours = called(student, inputs)
    names = theirs[:-1] if theirs and theirs[-1] == called(teacher, inputs, LAYERS)[-1] else theirs
    shared = [name for name in names if name in ours]
    if 2 * len(shared) > len(names):
        return [Point(shared[i], shared[i]) for i in spread(len(shared))]
    own = called(student, inputs, kinds)
    own = own[:-1] if own and own[-1] == called(student, inputs, LAYERS)[-1] else own
    if not own:
        return []
    return [Point(own[as_deep(i, len(names), len(own))], names[i]) for i in spread(len(names))]


def called(model: nn.Module, inputs: Inputs, kinds: tuple[type[nn.Module], ...] = (nn.Module,)) -> list[str]:
    """Return the names of modules of certain types that return a tensor, in the order in which they first finish."""
    order: dict[str, None] = {}
    with _hooked({name: m for name, m in model.named_modules() if name and isinstance(m, kinds)}, order.__setitem__):
        run(model, inputs)
    return list(order)


@contextmanager
def _hooked(modules: Mapping[str, nn.Module], keep: Any) -> Iterator[None]:
    """Call ``keep(name, output)`` with each output of some modules inside the context."""

    def hook(name: str) -> Any:
        return lambda module, _, output: keep(name, _as_image(module, output)) if isinstance(output, Tensor) else None

    hooks = [module.register_forward_hook(hook(name)) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()


def _as_image(layer: nn.Module, output: Tensor) -> Tensor:
    """Return a convolution's output as (batch, channels, height, width), and anything else unchanged."""
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor) or weight.dim() != output.dim() or output.dim() not in (3, 5):
        return output
    return output.unsqueeze(2) if output.dim() == 3 else output.flatten(2, 3)


@dataclass
class Taps:
    """Records the outputs of two networks at some points; the last run counts.

    What convolutions make in one dimension or in three is recorded as if it were an image.
    """

    points: Sequence[Point]
    _ours: dict[str, Tensor] = field(default_factory=dict)
    _theirs: dict[str, Tensor] = field(default_factory=dict)

    @contextmanager
    def on(self, student: nn.Module, teacher: nn.Module) -> Iterator[None]:
        """Record inside the context."""
        ours = {point.student: student.get_submodule(point.student) for point in self.points}
        theirs = {point.teacher: teacher.get_submodule(point.teacher) for point in self.points}
        with _hooked(ours, self._ours.__setitem__), _hooked(theirs, self._theirs.__setitem__):
            yield

    def pairs(self) -> list[Pair]:
        """Return the recorded pairs, one for each point; the teacher's have no gradients."""
        return [(self._ours[point.student], self._theirs[point.teacher].detach()) for point in self.points]


class FeatureLoss(nn.Module):
    """The mean over some points of the squared error, relative to the variance of the teacher's features.

    Where widths differ, or the points are no namesakes, an adapter maps the student's features to the teacher's: one
    linear map of the channels, fitted to the first features by ridge regression and to be trained with the student.
    Where resolutions differ, the finer one is averaged.

    Args:
        points: where features come from.
        pairs: features of one batch there: (batch, channels, height, width), (batch, channels) or
            (batch, positions, channels); see `Taps`.

    Raises:
        ValueError: no pair can be compared.

    """

    def __init__(self, points: Sequence[Point], pairs: Sequence[Pair]) -> None:
        super().__init__()
        self.adapters = nn.ModuleDict()
        for number, (point, (student, teacher)) in enumerate(zip(points, pairs, strict=True)):
            if student.dim() != teacher.dim() or student.dim() < 2:
                continue
            ours, theirs = _rows(*same_resolution(student.detach(), teacher.detach()))
            same = point.student == point.teacher and ours.shape == theirs.shape
            self.adapters[str(number)] = nn.Identity() if same else _fitted(ours, theirs)
        if not self.adapters:
            raise ValueError("the features must have the same number of dimensions at one point at least")

    def forward(self, pairs: Sequence[Pair]) -> Tensor:
        """Return the loss, a scalar; 1 is that of a student whose features are the teacher's mean."""
        losses = []
        for number, adapter in self.adapters.items():
            ours, theirs = _rows(*same_resolution(*pairs[int(number)]))
            losses.append(functional.mse_loss(adapter(ours), theirs) / theirs.var(correction=0).clamp_min(1e-8))
        return torch.stack(losses).mean()


def same_resolution(student: Tensor, teacher: Tensor) -> Pair:
    """Average-pool the finer of two features of equal dimensions to the resolution of the other."""
    if student.dim() == 4:
        height, width = map(min, student.shape[2:], teacher.shape[2:])
        first, second = (functional.adaptive_avg_pool2d(x, (height, width)) for x in (student, teacher))
        return first, second
    if student.dim() == 3 and student.shape[1] != teacher.shape[1]:
        length = min(student.shape[1], teacher.shape[1])
        first, second = (functional.adaptive_avg_pool1d(x.mT, length).mT for x in (student, teacher))
        return first, second
    return student, teacher


def _rows(student: Tensor, teacher: Tensor) -> Pair:
    """Return features as rows of float channels, one row for each position."""
    moved = (x.movedim(1, -1) if x.dim() == 4 else x for x in (student, teacher))
    ours, theirs = (x.reshape(-1, x.shape[-1]).float() for x in moved)
    return ours, theirs


def _fitted(ours: Tensor, theirs: Tensor) -> nn.Linear:
    """Return the ridge-regression map from one to the other."""
    with torch.random.fork_rng():  # its first weights are thrown away
        adapter = nn.Linear(ours.shape[1], theirs.shape[1], device=ours.device)
    center, target = ours.mean(0), theirs.mean(0)
    x, y = ours - center, theirs - target
    power = (x.square().sum() / x.shape[1]).clamp_min(1e-8)
    ridge = RIDGE * power * torch.eye(x.shape[1], device=x.device)
    with torch.no_grad():
        adapter.weight.copy_(torch.linalg.solve(x.T @ x + ridge, x.T @ y).T)
        adapter.bias.copy_(target - adapter.weight @ center)
    return adapter
