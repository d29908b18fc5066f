"""The interface of a technique: what it offers, and how it changes a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from ..spaces.candidate import Value
from ..spaces.capabilities import Capabilities
from ..spaces.layers import Network
from ..spaces.space import Choice


@dataclass(frozen=True, kw_only=True)
class Supplies:
    """What a technique may use besides the network.

    Attributes:
        examples: the network's inputs as it is served, batch first.
        calibration: inputs of a few batches of real data.

    """

    examples: tuple[Tensor, ...]
    calibration: Sequence[tuple[Tensor, ...]]


class Technique(Protocol):
    """One way to make a network cheaper. A new technique is a new file and one line in `pipeline.py`."""

    axis: str
    """The candidate's axis that this technique reads."""

    def choices(self, network: Network, capabilities: Capabilities) -> tuple[Choice, ...]:
        """Return what may vary in a network on a runtime."""
        ...

    def apply(self, model: nn.Module, chosen: Mapping[str, Value], supplies: Supplies) -> nn.Module:
        """Return the network with what was chosen; the given network is not changed.

        Raises:
            InfeasibleError: the network cannot be built that way.

        """
        ...
