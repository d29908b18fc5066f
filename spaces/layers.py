"""The parts of a network that a candidate can choose for, as data without torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One module that can be compressed.

    Attributes:
        name: the module's qualified name.
        kind: ``"conv"``, ``"linear"`` or ``"recurrent"``.
        params: number of weights and biases.
        macs: multiply-accumulates of one example.
        in_groups: names of the groups whose channels it reads.
        out_group: name of the group its output channels belong to, or None where they must stay.
        shape: of its weight, (out, in / groups, …); empty where it does more than multiply its inputs with it.
        groups: of channels that do not mix.
        stride: positions of its inputs for each position of its outputs.

    """

    name: str
    kind: str
    params: int
    macs: int
    in_groups: tuple[str, ...] = ()
    out_group: str | None = None
    shape: tuple[int, ...] = ()
    groups: int = 1
    stride: int = 1


@dataclass(frozen=True, kw_only=True)
class Group:
    """Layers whose channels must be pruned together (a dependency group), named by its first layer.

    Attributes:
        name: qualified name of the group's root layer.
        channels: number of output channels of the root layer.
        members: qualified names of all layers that lose channels with the root.
        granularity: the root's channels go in so many at a time: those of an attention's head.

    """

    name: str
    channels: int
    members: tuple[str, ...]
    granularity: int = 1


@dataclass(frozen=True, kw_only=True)
class Network:
    """What was found in a network: its layers, its groups, and what is left alone and why."""

    layers: tuple[Layer, ...]
    groups: tuple[Group, ...]
    left_alone: tuple[tuple[str, str], ...] = ()
