"""Structured pruning: whole channels go, and the shapes shrink."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence

import torch_pruning
from torch import Tensor, nn

from ..errors import InfeasibleError
from ..spaces.candidate import PRUNING_RATIO, Candidate
from ..spaces.capabilities import Capabilities
from ..spaces.layers import Group, Network
from ..spaces.space import Choice
from .graph import channel_group, dependency_graph
from .technique import Supplies, Technique

STEPS = 8
"""A group is offered at up to this many widths, evenly apart."""


class Prune(Technique):
    """Removes the channels of least magnitude from each dependency group."""

    axis = PRUNING_RATIO

    def choices(self, network: Network, capabilities: Capabilities) -> tuple[Choice, ...]:
        """Offer each group the ratios that leave a multiple of channels which the runtime likes."""
        offers = ((group, ratios(group, capabilities.channel_multiple)) for group in network.groups)
        return tuple(
            Choice(axis=self.axis, target=group.name, levels=levels, neutral=0.0)
            for group, levels in offers
            if len(levels) > 1
        )

    def apply(self, model: nn.Module, candidate: Candidate, supplies: Supplies) -> nn.Module:
        """Return a copy of the network with the candidate's share of each group's channels removed."""
        modules = dict(model.named_modules())
        widths = {}
        for name, ratio in candidate[self.axis].items():
            if name not in modules:
                raise InfeasibleError(f"the network has no group {name!r} to prune", rung="build")
            channels = int(modules[name].weight.shape[0])
            widths[name] = max(1, round(channels * (1 - float(ratio))))
        return remove_channels(model, widths, supplies.examples)


def schedule(candidate: Candidate) -> Sequence[Candidate]:
    """Return what to prune, one after the other with training in between; together they are the candidate."""
    return [candidate]


def penalty(candidate: Candidate) -> Callable[[nn.Module], Tensor] | None:
    """Return what is added to the loss of the unpruned network, so that channels become small before they go."""
    return None


def ratios(group: Group, multiple: int) -> tuple[float, ...]:
    """Return the distinct pruning ratios of a group, mild to strong, starting with 0.

    >>> ratios(Group(name="conv1", channels=32, members=("conv1",)), multiple=8)
    (0.0, 0.25, 0.5, 0.75)
    """
    widths = {group.channels}
    for step in range(1, STEPS):
        width = round(group.channels * (1 - step / STEPS) / multiple) * multiple
        if multiple <= width < group.channels:
            widths.add(width)
    return tuple(1 - width / group.channels for width in sorted(widths, reverse=True))


def remove_channels(model: nn.Module, widths: Mapping[str, int], examples: tuple[Tensor, ...]) -> nn.Module:
    """Return a copy of a network whose groups keep only their most important channels.

    Importance is the L2 magnitude over all layers of a group (Fang et al., DepGraph, CVPR 2023, section 3.3).

    Args:
        model: the network; it is not changed.
        widths: for the root layer of each group, how many output channels it keeps.
        examples: inputs to trace the network with, batch first.

    """
    training = model.training
    model = copy.deepcopy(model)
    if widths:
        graph = dependency_graph(model, examples)
        importance = torch_pruning.importance.GroupMagnitudeImportance(p=2)
        modules = dict(model.named_modules())
        for name, width in widths.items():
            root = modules[name]
            channels = int(root.weight.shape[0])
            scores = importance(channel_group(graph, root, list(range(channels))))
            least = scores.argsort(stable=True)[: channels - width].tolist()
            if least:
                channel_group(graph, root, sorted(least)).prune()
    model.train(training)
    return model
