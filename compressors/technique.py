"""The interface of a technique: what it offers, and how it changes a network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor, nn

from ..spaces.candidate import PRUNING_RATIO, Candidate, Value
from ..spaces.capabilities import SYMMETRIC, Capabilities, Integers
from ..spaces.layers import Network
from ..spaces.space import Choice, Conflict
from ..studies.task import Batch, cross_entropy
from .refit import LayerOutputs


@dataclass(frozen=True, kw_only=True)
class Supplies:
    """What a technique may use in addition to the network.

    Attributes:
        examples: the network's inputs as it is served, batch first.
        calibration: inputs of a few batches of real data, for the ranges of activations.
        statistics: the same and more of them, for the statistics of batch norms.
        batches: small batches of training data, for gradients.
        loss: ``loss(model, batch)``, for the same.
        onnx: whether the network must have an ONNX file.
        way: how it is exported, where that is known.
        rough: whether the network is only timed, so that nothing need be refined for its accuracy.
        original: what the layers of the task's network give, for the refit of smaller ones.
        kept: a technique that removes outputs of layers enters which of them each has kept.
        integers: that all of its runtimes take.

    """

    examples: tuple[Tensor, ...]
    calibration: Sequence[tuple[Tensor, ...]]
    statistics: Sequence[tuple[Tensor, ...]] = ()
    batches: Sequence[Batch] = ()
    loss: Callable[[nn.Module, Batch], Tensor] = cross_entropy
    onnx: bool = True
    way: Way | None = None
    rough: bool = False
    original: LayerOutputs | None = None
    kept: dict[str, Sequence[int]] = field(default_factory=dict)
    integers: Integers = SYMMETRIC

    @property
    def piece(self) -> int | None:
        """The only size of a batch that the network's file takes; None for any."""
        return len(self.examples[0]) if self.way is not None and self.way.fixed else None


class Technique(Protocol):
    """One way to make a network cheaper. A new technique is a new file and one line in `phases.py`."""

    axis: str
    """The candidate's axis on which it is chosen; a candidate with nothing there is not touched by it."""

    def choices(self, network: Network, capabilities: Capabilities) -> tuple[Choice, ...]:
        """Return the choices for a network on a runtime, all on the technique's axis, the neutral level first."""
        ...

    def settings(self) -> tuple[Choice, ...]:
        """Return the technique's settings, as choices on axes of its own, the default first."""
        return ()

    def conflicts(self, network: Network, choices: Sequence[Choice]) -> Iterable[Conflict]:
        """Return which of its levels cannot be built beside levels of other choices, given all choices of a space."""
        return ()

    def apply(self, model: nn.Module, candidate: Candidate, supplies: Supplies) -> nn.Module:
        """Return the network with the candidate applied; the given network is not changed.

        Raises:
            InfeasibleError: the network cannot be built that way.

        """
        ...

    def hold(self, model: nn.Module, candidate: Candidate) -> AbstractContextManager[None]:
        """Keep a network's structure, such as its zeros, while it is trained in place."""
        return nullcontext()


@dataclass(frozen=True)
class Way:
    """How a network is exported.

    Attributes:
        traced: by PyTorch's newer exporter.
        fixed: with the examples' batch, the only one that the file takes then.

    """

    traced: bool = False
    fixed: bool = False


def undivided(
    axis: str, level: Value, multiple: int, network: Network, choices: Sequence[Choice]
) -> Iterator[Conflict]:
    """Yield where a layer cannot take a level since pruning would leave it inputs that are no multiple of a number.

    Args:
        axis: of the level.
        level: what needs a multiple of inputs.
        multiple: of so many.
        network: says which layers read which groups of channels.
        choices: of the whole space.
    """
    offered = {choice.name: choice for choice in choices}
    channels = {group.name: group.channels for group in network.groups}
    for layer in network.layers:
        choice = offered.get(f"{axis}:{layer.name}")
        if choice is None or level not in choice.levels:
            continue
        for group in layer.in_groups:
            pruning = offered.get(f"{PRUNING_RATIO}:{group}")
            if pruning is None:
                continue
            # a channel is as many inputs each, where all are of one group; otherwise it is one at least
            each = layer.shape[1] / channels[group] if len(layer.in_groups) == 1 else 1 / layer.groups
            gone = {ratio: round(channels[group] * float(ratio)) * each for ratio in pruning.levels}
            beside = tuple(ratio for ratio, inputs in gone.items() if inputs % multiple)
            yield Conflict(choice=choice.name, level=level, other=pruning.name, beside=beside)
