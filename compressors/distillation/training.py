"""The training of one candidate: all of its phases, on one stream of batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass

from torch import Tensor, nn

from ...spaces.candidate import DISTILLATION, Candidate
from ...studies.task import Task
from ..batch_norm import folded as has_no_batch_norm
from ..batches import Endless
from . import distill
from .answers import Answers
from .schedule import Schedule

FOLDED_RATE = 0.1
"""Share of the learning rate with which a network is trained whose batch norms are folded: nothing evens steps out."""


@dataclass(frozen=True)
class Training:
    """Trains a candidate in all of its phases.

    Attributes:
        task: the network and its data.
        batches: the stream that the phases share.
        answers: keep the teacher's outputs for it; None computes them.
        epochs: passes of all phases.
        seed: random seed.
        deadline: a time of `time.monotonic` after which it gives up.
        pause: is called before each batch, and may wait.

    """

    task: Task
    batches: Endless
    answers: Answers | None
    _: KW_ONLY
    epochs: float
    seed: int
    deadline: float
    pause: Callable[[], None] | None

    def run(
        self,
        model: nn.Module,
        candidate: Candidate,
        shares: tuple[float, ...],
        phase: int,
        *,
        folded: bool = False,
        penalty: Callable[[nn.Module], Tensor] | None = None,
    ) -> None:
        """Train a network in place for one phase, which has random numbers of its own.

        Args:
            model: the network.
            candidate: has the settings of distillation.
            shares: of the passes, one for each phase.
            phase: number of this one.
            folded: whether batch norms are folded by then, all that can be.
            penalty: is added to the loss.

        """
        distill.distil(
            model,
            self.task.model if self.task.teacher is None else self.task.teacher,
            self.task,
            settings=candidate[DISTILLATION],
            rate=FOLDED_RATE if folded and has_no_batch_norm(model) else 1.0,
            epochs=self.epochs * shares[phase],
            schedule=Schedule(self.epochs, shares, phase),
            seed=(self.seed, phase),
            batches=self.batches,
            answers=self.answers,
            penalty=penalty,
            deadline=self.deadline,
            pause=self.pause,
        )
