"""Intermediate hints: a student learns its teacher's features and attention, as one term of the loss."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ...errors import InfeasibleError
from ...studies.task import Task
from ..batch_norm import fold_batch_norm, folded
from ..modules import CONVOLUTIONS, Inputs, evaluating, run
from .attention import matrix_attention_loss, paired, recorded, spatial_attention_loss
from .features import FeatureLoss, Pair, Taps, find_points


class Hints:
    """The weighted loss between two networks' features and attention.

    Attention is that of the matrices where both networks have some of one shape, else that of spatial maps.

    Args:
        student: is trained.
        teacher: is not changed.
        inputs: of a first batch, to see what there is to compare.
        features: weight of the `FeatureLoss`; 0 leaves it out.
        attention: weight of the attention loss; 0 leaves it out.

    Attributes:
        teacher: computes what the given one does, with its batch norms folded where the student's are.

    Raises:
        InfeasibleError: there is nothing to compare for a weight that is not 0.

    """

    def __init__(
        self, student: nn.Module, teacher: nn.Module, inputs: Inputs, *, features: float, attention: float
    ) -> None:
        self.student = student
        self.teacher = _twin(teacher, student, inputs)
        self._features, self._attention = features, attention
        self._matrices: tuple[list[Tensor], list[Tensor]] = [], []
        self._lengths = (0, 0)
        self._taps = Taps(find_points(student, self.teacher, inputs) if features else ())
        self._maps = Taps(())
        if features:
            self._feature_loss = self._fit(inputs)
        if attention:
            self._look(inputs)

    def _fit(self, inputs: Inputs) -> FeatureLoss:
        with self._taps.on(self.student, self.teacher):
            self._run(inputs)
        try:
            return FeatureLoss(self._taps.points, self._taps.pairs())
        except ValueError as error:
            reason = "the networks have no layers, before their last, whose features can be compared"
            raise InfeasibleError(reason, rung="train") from error

    def _look(self, inputs: Inputs) -> None:
        """Find matrices, or maps, that both networks have."""
        with recorded() as ours:
            run(self.student, inputs)
        with recorded() as theirs:
            run(self.teacher, inputs)
        if paired(ours, theirs):
            self._lengths = len(ours), len(theirs)
            return
        self._maps = Taps(find_points(self.student, self.teacher, inputs, CONVOLUTIONS))
        with self._maps.on(self.student, self.teacher):
            self._run(inputs)
        if not _with_positions(self._maps.pairs()):
            raise InfeasibleError(
                "the networks have no attention to compare: neither matrices of the same shape that are computed by "
                "scaled_dot_product_attention, nor convolutions with more than one position",
                rung="train",
            )

    def _run(self, inputs: Inputs) -> None:
        run(self.student, inputs)
        run(self.teacher, inputs)

    def parameters(self) -> Iterable[nn.Parameter]:
        """Return the parameters to train with the student and discard afterwards."""
        return self._feature_loss.parameters() if self._features else ()

    @contextmanager
    def tapped(self) -> Iterator[None]:
        """Record features and maps inside the context."""
        networks = self.student, self.teacher
        with evaluating(self.teacher), self._taps.on(*networks), self._maps.on(*networks):
            yield

    @contextmanager
    def watched(self, model: nn.Module) -> Iterator[None]:
        """Record the attention matrices of one network inside the context."""
        side = int(model is self.teacher)
        if not self._lengths[side]:
            yield
            return
        with recorded() as found:
            yield
        self._matrices[side][:] = found[-self._lengths[side] :]

    def loss(self) -> Tensor:
        """Return the weighted loss of the last recording."""
        terms: list[Tensor] = []
        if self._features:
            terms.append(self._features * self._feature_loss(self._taps.pairs()))
        if self._attention:
            if self._lengths[0]:
                losses = [matrix_attention_loss(*pair) for pair in paired(*self._matrices)]
            else:
                losses = [spatial_attention_loss(*pair) for pair in _with_positions(self._maps.pairs())]
            terms.append(self._attention * torch.stack(losses).mean())
        return torch.stack(terms).sum()


def offers(task: Task, hint: str) -> bool:
    """Return which of ``"features"`` and ``"attention"`` can be compared between a task's networks."""
    teacher = task.model if task.teacher is None else task.teacher
    weights = {"features": 0.0, "attention": 0.0, hint: 1.0}
    try:
        Hints(task.base, teacher, task.examples, **weights)
    except InfeasibleError:
        return False
    return True


def _twin(teacher: nn.Module, student: nn.Module, inputs: Inputs) -> nn.Module:
    """Return a teacher whose batch norms are folded if the student's are, so that their layers compare."""
    return fold_batch_norm(teacher, inputs) if folded(student) and not folded(teacher) else teacher


def _with_positions(pairs: Iterable[Pair]) -> list[Pair]:
    return [pair for pair in pairs if all(x.dim() == 4 and x.shape[2:].numel() > 1 for x in pair)]
