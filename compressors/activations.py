"""Exchanges activation functions for cheaper ones, to which training adapts the network.

Runtimes fuse a ReLU into the layer before it, and on integers it is only where a range begins. SiLU, GELU and
hard-swish are operators of their own there, most of them in float between layers in INT8. Hard-swish and hard-sigmoid
are the piecewise forms of SiLU and of the sigmoid that gates channels (Howard et al., MobileNetV3, ICCV 2019).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import nn

from ..errors import InfeasibleError
from ..spaces.candidate import ACTIVATION, Candidate
from ..spaces.capabilities import Capabilities
from ..spaces.layers import Activations, Network
from ..spaces.space import Choice
from ..studies.networks.copied import copied
from .activation_functions import FUNCTIONS, SIGMOID, functions_of
from .modules import Inputs, always_called
from .technique import Supplies, Technique
from .tied import put

KEEP, HARD, RELU = "keep", "hard", "relu"
"""Levels: what the network has; piecewise forms of it; ReLU, with the piecewise form for gates."""

CHEAPER: Mapping[str, Mapping[str, Callable[[], nn.Module]]] = {
    KEEP: {},
    HARD: {"silu": nn.Hardswish, SIGMOID: nn.Hardsigmoid},
    RELU: {**dict.fromkeys(FUNCTIONS, nn.ReLU), SIGMOID: nn.Hardsigmoid},
}
"""What takes the place of each function at a level."""

MOST = 12
"""Functions are exchanged block by block where there are at most so many blocks, otherwise stage by stage."""


class Exchange(Technique):
    """Gives the activation functions of a block or a stage their cheaper forms."""

    axis = ACTIVATION

    def choices(self, network: Network, capabilities: Capabilities) -> tuple[Choice, ...]:
        """Offer each block or stage the levels that change one of its functions."""
        return tuple(
            Choice(axis=self.axis, target=each.name, levels=levels(each.functions), neutral=KEEP)
            for each in network.activations
        )

    def apply(self, model: nn.Module, candidate: Candidate, supplies: Supplies) -> nn.Module:
        """Return a copy with the chosen functions exchanged.

        Raises:
            InfeasibleError: there is nothing to exchange at a place, or no such level.

        """
        model, chosen = copied(model), candidate[self.axis]
        known = functions_of(model, supplies.examples).modules if chosen else {}
        modules = dict(model.named_modules(remove_duplicate=False))
        for place, level in chosen.items():
            if level not in CHEAPER:
                raise InfeasibleError(f"activation must be one of {', '.join(CHEAPER)}, got {level!r}", rung="build")
            inside = [name for name in known if _inside(name, place)]
            if not inside and place not in modules:  # functions may be gone with their branch
                raise InfeasibleError(f"the network has no activation function to exchange in {place!r}", rung="build")
            exchanges = CHEAPER[str(level)]
            for name in inside:
                if known[name] in exchanges:
                    cheaper = exchanges[known[name]]()
                    always_called(cheaper)
                    put(model, name, cheaper)
        return model


def levels(functions: Sequence[str]) -> tuple[str, ...]:
    """Return the levels that change one of some functions, each in another way than the one before.

    >>> levels(["silu", "sigmoid"]), levels(["gelu"]), levels(["sigmoid"])
    (('keep', 'hard', 'relu'), ('keep', 'relu'), ('keep', 'hard'))
    """
    changes = {level: [exchanges.get(name) for name in functions] for level, exchanges in CHEAPER.items()}
    found = [KEEP]
    for level, change in changes.items():
        if change != changes[found[-1]]:
            found.append(level)
    return tuple(found)


def exchangeable(
    model: nn.Module, examples: Inputs, keep: Callable[[str], bool]
) -> tuple[tuple[Activations, ...], list[tuple[str, str]]]:
    """Return what can be exchanged, by block or stage; and which modules call functions out of reach, and why.

    Args:
        model: it is not changed.
        examples: its inputs, batch first.
        keep: tells by a module's name whether it must stay untouched.

    """
    found = functions_of(model, examples)
    inside = {place: [name for name in found.modules if _inside(name, place)] for place in places([*found.modules])}
    for place, members in list(inside.items()):
        if any(map(keep, members)):  # the others one by one
            inside |= {name: [name] for name in inside.pop(place) if not keep(name)}
    groups = tuple(
        Activations(
            name=place,
            functions=tuple(dict.fromkeys(found.modules[name] for name in members)),
            layers=tuple(dict.fromkeys(found.layers[name] for name in members if found.layers[name])),
        )
        for place, members in inside.items()
    )
    why = "it calls {} as a function, which stays; as a module it could be exchanged for a cheaper one"
    bare = [(name or "(its forward)", why.format(kind)) for name, kind in found.bare.items() if not keep(name)]
    return groups, bare


def places(names: Sequence[str], most: int = MOST) -> list[str]:
    """Return the modules that hold some others, each in one of them, as deep down as there are at most so many.

    >>> places(["stem.act", "stages.0.0.act", "stages.0.1.act", "stages.1.0.act"], most=3)
    ['stem', 'stages.0', 'stages.1']
    >>> places(["block.0", "block.1.act", "2"])
    ['block', '2']
    """
    paths = [name.split(".") for name in names]
    holders = [path[:-1] or path for path in paths]
    depths = range(1, max(map(len, holders), default=0) + 1)
    by_depth = [list(dict.fromkeys(".".join(path[:depth]) for path in holders)) for depth in depths]
    apart = [found for found in by_depth[1:] if len(found) <= most and not _overlap(found)]
    few = by_depth[:1] + apart
    return next((found for found in few if len(found) == len(few[-1])), [])


def _overlap(places: Sequence[str]) -> bool:
    return any(_inside(one, other) for one in places for other in places if one != other)


def _inside(name: str, place: str) -> bool:
    return name == place or name.startswith(f"{place}.")
