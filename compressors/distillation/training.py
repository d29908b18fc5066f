"""The training of one candidate: all of its phases, on one stream of batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor, nn

from ...spaces.candidate import DISTILLATION, Candidate
from ...studies.task import Task
from ..batch_norm import folded as has_no_batch_norm
from ..batches import Endless
from ..modules import Inputs, run
from . import distill
from .answers import Answers
from .schedule import Schedule

FOLDED_RATE = 0.1
"""Share of the learning rate with which a network is trained whose batch norms are folded: nothing evens steps out."""

GENTLEST = 0.1
"""The least share of the learning rate with which a network is trained that answers as the original does."""


@dataclass(frozen=True)
class Training:
    """Trains a candidate in all of its phases.

    Attributes:
        task: the network and its data.
        batches: the stream that the phases share.
        answers: keep the teacher's outputs for it; None computes them.
        compared: inputs that tell how far the network's outputs are from the original's.
        epochs: passes of all phases.
        seed: random seed.
        deadline: a time of `time.monotonic` after which it gives up.
        pause: is called before each batch, and may wait.

    """

    task: Task
    batches: Endless
    answers: Answers | None
    compared: Sequence[Inputs]
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
            rate=self._rate(model, folded=folded, penalised=penalty is not None),
            epochs=self.epochs * shares[phase],
            schedule=Schedule(self.epochs, shares, phase),
            seed=(self.seed, phase),
            batches=self.batches,
            answers=self.answers,
            penalty=penalty,
            deadline=self.deadline,
            pause=self.pause,
        )

    def _rate(self, model: nn.Module, *, folded: bool, penalised: bool) -> float:
        """Return the share of the learning rate with which a phase begins."""
        if folded and has_no_batch_norm(model):
            return FOLDED_RATE
        return 1.0 if penalised or self.task.fit else rate_for(model, self.task.model, self.compared)


def rate_for(model: nn.Module, original: nn.Module, batches: Sequence[Inputs]) -> float:
    """Return the share of the learning rate with which a network is trained, by what it has lost.

    It is the mean squared change of the outputs over their variance, between `GENTLEST` and 1: steps that teach a
    network that has lost much make one worse that has lost little.

    Args:
        model: the network.
        original: what it was made of, or its teacher.
        batches: inputs of both; without any the share is 1.
    """
    before, after = ([run(network, inputs) for inputs in batches] for network in (original, model))
    if not before or [x.shape for x in before] != [x.shape for x in after]:
        return 1.0
    outputs, others = torch.cat(before).float(), torch.cat(after).float()
    changed = ((others - outputs).square().mean() / outputs.var()).nan_to_num(1.0)
    return float(torch.clamp(changed, GENTLEST, 1.0))
