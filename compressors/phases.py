"""The phases to a candidate: which techniques are applied, in what order, and which training follows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from ..spaces.candidate import PRUNING_RATIO, Candidate
from .activations import Exchange
from .batch_norm import estimate_batch_norm
from .depth.depth import Depth
from .lowrank.factorize import Factorize
from .pruning import prune
from .pruning.sparsify import Sparsify
from .quantization.palettize import Palettize
from .quantization.quantize import Quantize
from .refit import LayerOutputs, refit
from .resolution import Shrink
from .technique import Supplies, Technique

SHRINK, EXCHANGE, SHALLOW, PRUNE, FACTORIZE = Shrink(), Exchange(), Depth(), prune.Prune(), Factorize()

SHAPES: tuple[Technique, ...] = (SHRINK, EXCHANGE, SHALLOW, PRUNE, FACTORIZE, Sparsify())
"""Techniques that change shapes, in order; what they leave is trained with its batch norms in place."""

AT_ONCE = (SHRINK, EXCHANGE, SHALLOW)
"""Those of them that come before all training: what is gone needs none, and what is new all of it."""

REFITTED = (EXCHANGE, SHALLOW, PRUNE, FACTORIZE)
"""Those of them after which the layers that are left are refitted."""

NUMBERS: tuple[Technique, ...] = (Quantize(), Palettize())
"""Techniques that change how numbers are held, in order; batch norms are folded before them."""

TECHNIQUES = (*SHAPES, *NUMBERS)

SHAPES_SHARE = 0.8
"""Share of the training that a network gets before its numbers change, where both change."""

PENALTY_SHARE = 0.3
"""Share of the training of shapes that makes channels small before they are pruned, where that is asked for."""


@dataclass(frozen=True, kw_only=True)
class Phase:
    """Techniques that are applied in sequence, and the training that follows.

    Attributes:
        techniques: what is applied, in order.
        candidate: what they are to do.
        share: of all training, between 0 and 1.
        folded: whether batch norms are folded by then, all that can be.
        penalty: is added to the loss; see `prune.penalty`.

    """

    techniques: tuple[Technique, ...]
    candidate: Candidate
    share: float
    folded: bool = False
    penalty: Callable[[nn.Module], Tensor] | None = None

    @property
    def refitted(self) -> bool:
        """Whether a refit comes last, which estimates the statistics of batch norms, too."""
        return bool(self.techniques) and self.techniques[-1] in REFITTED


def phases(candidate: Candidate, model: nn.Module, examples: tuple[Tensor, ...], *, small: bool = False) -> list[Phase]:
    """Return the phases to a candidate: exchange functions, regularise, prune in steps, factorise, quantize.

    Each is trained.

    What has its shapes already is trained in float too before its numbers change: a student, which may never have been
    trained, and what others were pruned to.

    Args:
        candidate: what to reach.
        model: the network before anything is done to it; it is not changed.
        examples: its inputs, batch first.
        small: whether the network has shapes of its own already, as a student and an inherited one have.

    """
    shapes = tuple(t for t in SHAPES if candidate[t.axis])
    numbers = tuple(t for t in NUMBERS if candidate[t.axis])
    if not shapes and not numbers:
        return [Phase(techniques=(), candidate=candidate, share=1.0)]
    found: list[Phase] = []
    if SHALLOW in shapes:
        model = SHALLOW.apply(model, candidate, Supplies(examples=examples, calibration=()))
    if shapes:
        left = SHAPES_SHARE if numbers else 1.0
        penalty = prune.penalty(candidate, model, examples) if candidate[PRUNING_RATIO] else None
        if penalty is not None:
            found.append(Phase(techniques=(), candidate=candidate, share=PENALTY_SHARE * left, penalty=penalty))
            left *= 1 - PENALTY_SHARE
        pruned = bool(candidate[PRUNING_RATIO])
        *partial, _ = schedule = prune.schedule(candidate, model, examples) if pruned else [candidate]
        share = left / len(schedule)
        found += [Phase(techniques=(PRUNE,), candidate=step, share=share) for step in partial]
        last = Candidate({**candidate.axes, PRUNING_RATIO: schedule[-1][PRUNING_RATIO]})
        found.append(Phase(techniques=tuple(t for t in shapes if t not in AT_ONCE), candidate=last, share=share))
        at_once = tuple(t for t in shapes if t in AT_ONCE)
        found[0] = replace(found[0], techniques=(*at_once, *found[0].techniques))
    if small and not shapes:
        found.append(Phase(techniques=(), candidate=candidate, share=SHAPES_SHARE))
    if numbers:
        share = 1.0 - sum(phase.share for phase in found)
        found.append(Phase(techniques=numbers, candidate=candidate, share=share, folded=True))
    return found


def applied(
    model: nn.Module,
    techniques: Sequence[Technique],
    candidate: Candidate,
    supplies: Supplies,
    original: LayerOutputs | None = None,
) -> nn.Module:
    """Return a network with some techniques applied; one refit follows all those that change shapes.

    Args:
        model: the network; it is not changed.
        techniques: in order.
        candidate: what they are to do.
        supplies: what they may use.
        original: what the layers of the network give; None finds it.

    Raises:
        InfeasibleError: the network cannot be built that way.

    """
    supplies = replace(supplies, kept={})
    if SHRINK in techniques and candidate[SHRINK.axis]:
        model, original = SHRINK.apply(model, candidate, supplies), None
        estimate_batch_norm(model, supplies.calibration)
    before = model
    refitted: list[Technique] = [technique for technique in techniques if technique in REFITTED]
    for technique in refitted:
        model = technique.apply(model, candidate, supplies)
    if refitted and not supplies.rough:
        refit(model, original or LayerOutputs(before, supplies.statistics or supplies.calibration), supplies.kept)
    for technique in techniques:
        if technique not in (SHRINK, *refitted):
            model = technique.apply(model, candidate, supplies)
    return model
