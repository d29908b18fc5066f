"""Distances between a student's outputs and its teacher's, one for each kind of output.

All are means over examples and positions, so that larger batches and larger pictures weigh the same. Equal outputs have
the distance 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

Distance = Callable[[Tensor, Tensor, float], Tensor]
"""``distance(student_outputs, teacher_outputs, temperature)`` gives a scalar tensor."""

OFF = "off"
"""The name for no distance: a student does not learn from its teacher's outputs."""

SATURATED = 15.0
"""Beyond this logit a correct sigmoid has a gradient of 0 in float32."""


@dataclass(frozen=True)
class Softmax:
    """The divergence of the student's softened probabilities of classes from the teacher's, times temperature squared.

    The outputs are logits, or logarithms of probabilities. (Hinton et al., arXiv:1503.02531, section 2.)

    Args:
        axis: axis of the classes.
        scale: multiplies the distance.

    """

    axis: int = 1
    scale: float = 1.0

    def __call__(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Return the mean over all positions."""
        ours, theirs = (functional.log_softmax(x / temperature, self.axis) for x in (student, teacher))
        each = functional.kl_div(ours, theirs, reduction="none", log_target=True).sum(self.axis)
        return each.mean() * (self.scale * temperature**2)


@dataclass(frozen=True)
class Sigmoid:
    """The divergence of softened answers from the teacher's, for outputs that are logits of yes-no questions.

    Args:
        scale: multiplies the distance.

    """

    scale: float = 1.0

    def __call__(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Return the mean over all outputs."""
        softened = teacher / temperature
        yes = softened.sigmoid()
        ours = functional.binary_cross_entropy_with_logits(student / temperature, yes)
        least = functional.binary_cross_entropy_with_logits(softened, yes)
        return (ours - least) * (self.scale * temperature**2)


@dataclass(frozen=True)
class SquaredError:
    """The mean squared difference of the outputs, whatever the temperature.

    Args:
        scale: multiplies the distance; one over the variance of the teacher's outputs makes it 1 for a student that
            always gives their mean.

    """

    scale: float = 1.0

    def __call__(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Return the mean over all outputs."""
        return functional.mse_loss(student, teacher) * self.scale


BUILT_IN: dict[str, type[Softmax | Sigmoid | SquaredError]] = {
    "softmax": Softmax,
    "sigmoid": Sigmoid,
    "mse": SquaredError,
}
"""Distances by name."""


def where_it_counts(
    distance: Distance, student: Tensor, teacher: Tensor, temperature: float, gradient: Tensor
) -> Tensor:
    """Return a distance without the positions that the task's loss ignores, such as padding and void pixels.

    An ignored position has a gradient of exactly 0. There the student's outputs replace the teacher's, and the mean is
    over the other positions. Whole examples are never ignored: without a label there is only the teacher to learn from.

    Args:
        distance: a mean over positions.
        student: the student's outputs, batch first.
        teacher: the teacher's outputs.
        temperature: see `Distance`.
        gradient: gradient of the task's loss by the student's outputs.

    """
    if student.dim() < 3:
        return distance(student, teacher, temperature)
    counts = gradient != 0
    if isinstance(distance, Softmax):
        counts = counts.any(distance.axis, keepdim=True)
    elif isinstance(distance, Sigmoid):
        counts |= student.abs() > SATURATED
    share = counts.float().mean()
    teacher = torch.where(counts, teacher, student.detach())
    return distance(student, teacher, temperature) / share.clamp_min(torch.finfo(torch.float32).tiny)
