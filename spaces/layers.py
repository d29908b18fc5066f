"""The parts of a network that a candidate can choose for, as data without torch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from .candidate import ACTIVATION, DEPTH, PRUNING_RATIO, RESOLUTION

INPUT = "input"
"""The target of what happens to the network's first input."""

WORK = "of all multiply-accumulates"
"""Ends the reason why a part is left alone that does work which no technique changes."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One module that can be compressed.

    Attributes:
        name: the module's qualified name.
        kind: what PyTorch calls its like: ``"conv2d"``, ``"conv_transpose1d"``, ``"linear"``; or ``"recurrent"``.
        params: number of weights and biases.
        macs: multiply-accumulates of one example.
        in_groups: names of the groups whose channels it reads.
        out_group: name of the group its output channels belong to, or None where they must stay.
        shape: of its weight, (out, in / groups, …), however it is stored; empty where the layer does more than multiply
            its inputs with it, or another module has that weight too.
        groups: of channels that do not mix.
        stride: positions of its inputs for each position of its outputs; below 1 where it is transposed.
        stored: whether the exported file multiplies by its weight as it is, so that it can be held in another way.

    """

    name: str
    kind: str
    params: int
    macs: int
    in_groups: tuple[str, ...] = ()
    out_group: str | None = None
    shape: tuple[int, ...] = ()
    groups: int = 1
    stride: float = 1
    stored: bool = True

    @property
    def transposed(self) -> bool:
        """Whether it is a transposed convolution."""
        return self.kind.startswith("conv_transpose")


@dataclass(frozen=True, kw_only=True)
class Group:
    """Layers whose channels must be pruned together (a dependency group), named by its first layer.

    Attributes:
        name: qualified name of the group's root layer.
        channels: number of output channels of the root layer.
        members: qualified names of all layers that lose channels with the root.
        granularity: so many of the root's channels go at a time: those of an attention's head, or one of each group of
            a norm, as what reads them wants it.
        scaled: whether batch norms scale its channels.

    """

    name: str
    channels: int
    members: tuple[str, ...]
    granularity: int = 1
    scaled: bool = True


@dataclass(frozen=True, kw_only=True)
class Branch:
    """Modules whose result is added to a shortcut around them (a residual branch), and that may go whole.

    Attributes:
        name: qualified name of the last of them that multiplies.
        layers: qualified names of all layers in them.

    """

    name: str
    layers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Activations:
    """Activation functions of a block or a stage, which are exchanged together.

    Attributes:
        name: qualified name of the module that holds them, or that is the only one.
        functions: which functions they are, such as ``"silu"``; each once.
        layers: qualified names of the layers that run before them.

    """

    name: str
    functions: tuple[str, ...]
    layers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Network:
    """What was found in a network.

    Attributes:
        layers: what can be compressed.
        groups: what can be pruned.
        branches: what can go whole.
        activations: what can be exchanged for cheaper functions.
        resolutions: shares of its images' height and width at which it works, mild to strong, besides all of them.
        left_alone: names of parts that some technique, or none, reaches, and why.
        macs: multiply-accumulates of one example, of layers and all else.
        unreached: those of them that no technique changes, for no wish of the task's.

    """

    layers: tuple[Layer, ...]
    groups: tuple[Group, ...]
    left_alone: tuple[tuple[str, str], ...] = ()
    macs: int = 0
    unreached: int = 0
    branches: tuple[Branch, ...] = ()
    activations: tuple[Activations, ...] = ()
    resolutions: tuple[float, ...] = ()

    def reached(self, axis: str, target: str) -> tuple[str, ...]:
        """Return the names of the layers that a choice changes: a group's, a branch's, or the target itself.

        Of a group these are the layers that lose output channels, and those that read them; of activation functions
        the layers before them; of the images all layers.
        """
        return self._parts.get((axis, target), (target,))

    @cached_property
    def _parts(self) -> dict[tuple[str, str], tuple[str, ...]]:
        """The layers of each target that is no layer, by axis and name."""
        parts = {(DEPTH, branch.name): branch.layers for branch in self.branches}
        parts |= {(ACTIVATION, each.name): each.layers for each in self.activations}
        parts[RESOLUTION, INPUT] = tuple(layer.name for layer in self.layers)
        for group in self.groups:
            has = (x.name for x in self.layers if group.name in (*x.in_groups, x.out_group))
            parts[PRUNING_RATIO, group.name] = tuple(has)
        return parts

    @property
    def beyond(self) -> str:
        """Return a warning and the way out if no technique reaches more than half of the work; empty otherwise."""
        if self.unreached <= 0.5 * self.macs:
            return ""
        parts = [f"{name} ({why})" for name, why in self.left_alone if why.endswith(WORK)]
        return (
            f"{self.unreached / self.macs:.0%} of the network's multiply-accumulates are where no technique reaches: "
            f"{'; '.join(parts[:3])}{'; …' if len(parts) > 3 else ''}. A front gains on the rest alone: write these "
            "parts as Conv2d and Linear modules where they can be, or give a network that is smaller there"
        )
