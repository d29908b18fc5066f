"""Depth: residual branches go whole, and their shortcuts stay (Veit et al., NeurIPS 2016, section 4.1)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from torch import nn

from ...errors import InfeasibleError, gist
from ...spaces.candidate import ACTIVATION, DEPTH, Candidate
from ...spaces.capabilities import Capabilities
from ...spaces.layers import Branch, Network
from ...spaces.space import Choice, Conflict
from ...studies.networks.copied import copied
from ..modes import Shapes, shapes_in_training
from ..modules import Inputs, run
from ..technique import Supplies, Technique
from .branches import FoundBranch, find_branches
from .gone import without

KEPT, GONE = "kept", "gone"
"""The levels of a branch."""


class Depth(Technique):
    """Leaves out residual branches."""

    axis = DEPTH

    def choices(self, network: Network, capabilities: Capabilities) -> tuple[Choice, ...]:
        """Offer each branch to go."""
        names = (branch.name for branch in network.branches)
        return tuple(Choice(axis=self.axis, target=name, levels=(KEPT, GONE), neutral=KEPT) for name in names)

    def conflicts(self, network: Network, choices: Sequence[Choice]) -> Iterator[Conflict]:
        """Yield what means nothing once a branch is gone: all choices for what is inside it."""
        for branch in network.branches:
            for choice in choices:
                if choice.neutral is not None and _is_inside(choice, branch, network):
                    yield Conflict(choice=choice.name, other=f"{self.axis}:{branch.name}", beside=(GONE,))

    def apply(self, model: nn.Module, candidate: Candidate, supplies: Supplies) -> nn.Module:
        """Return a copy of the network without the branches that go.

        Raises:
            InfeasibleError: the network has no such branch.

        """
        gone = [name for name, level in candidate[self.axis].items() if level != KEPT]
        if not gone:
            return copied(model)
        found = {branch.name: branch for branch in find_branches(model, supplies.examples)}
        missing = [name for name in gone if name not in found]
        if missing:
            raise InfeasibleError(f"the network has no residual branch {missing[0]!r} to leave out", rung="build")
        return without(model, [found[name] for name in gone])


def _is_inside(choice: Choice, branch: Branch, network: Network) -> bool:
    """Return whether a choice is about a branch's layer, a branch in it, or functions that run before its last layer.

    A group whose first layer is in the branch has that layer's name, and is not pruned without it.
    """
    reached = {*network.reached(choice.axis, choice.target)}
    if choice.axis == DEPTH:
        return reached < {*branch.layers}
    if choice.axis == ACTIVATION:
        return bool(reached) and reached <= {*branch.layers[:-1]}
    return choice.target in branch.layers


def branches_of(
    model: nn.Module, examples: Inputs, kept: Collection[str]
) -> tuple[list[Branch], list[tuple[str, str]]]:
    """Return the branches that a network runs without, and why others stay.

    Args:
        model: the network; it is not changed.
        examples: its inputs, batch first.
        kept: names of layers that must stay.

    """
    left: list[tuple[str, str]] = []
    try:
        found = [branch for branch in find_branches(model, examples) if not {*kept} & {*branch.layers}]
    except Exception as error:  # the tracing of an arbitrary network may fail in any way
        return [], [("(all branches)", f"its residual branches cannot be traced: {gist(error)}")]
    if not found:
        return [], []
    tries = _Tries(model, examples)
    able = tries.that_can_go(found, left)
    return [Branch(name=branch.name, layers=branch.layers) for branch in able], left


class _Tries:
    """Leaves branches out of copies of a network to see whether these still run."""

    def __init__(self, model: nn.Module, examples: Inputs) -> None:
        self.model, self.examples = model, examples
        self.shape = run(model, examples).shape
        self.trained = self._trained(model)

    def _trained(self, model: nn.Module) -> Shapes | None:
        try:
            return shapes_in_training(model, self.examples)
        except Exception:  # a user's forward may want more of a batch than a network is served with
            return None

    def that_can_go(self, branches: Sequence[FoundBranch], left: list[tuple[str, str]]) -> list[FoundBranch]:
        """Return the branches without which the network runs, found by bisection; add the others to a list."""
        reason = self._broken(branches)
        if not reason:
            return list(branches)
        if len(branches) == 1:
            left.append((branches[0].name, f"its branch stays: {reason}"))
            return []
        middle = len(branches) // 2
        return [b for half in (branches[:middle], branches[middle:]) for b in self.that_can_go(half, left)]

    def _broken(self, branches: Sequence[FoundBranch]) -> str:
        """Return what is wrong with the network without some branches; empty if nothing is."""
        try:
            shallow = without(self.model, branches)
            outputs = run(shallow, self.examples)
        except Exception as error:  # a user's forward may fail in any way
            return f"without it the forward breaks: {gist(error)}"
        if outputs.shape != self.shape or not outputs.isfinite().all():
            return "without it the outputs are others in shape, or not finite"
        if self.trained is not None and self._trained(shallow) != self.trained:
            return "without it the network does not train as it did"
        return ""
