"""Resolution: a network computes on smaller images, which it makes of those that it is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from ..errors import InfeasibleError, gist
from ..spaces.candidate import RESOLUTION, Candidate
from ..spaces.capabilities import Capabilities
from ..spaces.layers import INPUT, Network
from ..spaces.space import Choice
from ..studies.networks.copied import copied
from .modules import Inputs, run
from .technique import Supplies, Technique

WHOLE = 1.0
"""The level at which images stay as they are."""


class Shrink(Technique):
    """Makes the images smaller before the first layer; the network's file still takes them in their own size."""

    axis = RESOLUTION

    def choices(self, network: Network, capabilities: Capabilities) -> tuple[Choice, ...]:
        """Offer the shares of height and width at which the network works, mild to strong."""
        levels = (WHOLE, *network.resolutions)
        return (Choice(axis=self.axis, target=INPUT, levels=levels, neutral=WHOLE),) if network.resolutions else ()

    def apply(self, model: nn.Module, candidate: Candidate, supplies: Supplies) -> nn.Module:
        """Return a copy that shrinks the first of its inputs.

        Raises:
            InfeasibleError: it is no input that can be shrunk.

        """
        model = copied(model)
        for target, share in candidate[self.axis].items():
            if target != INPUT:
                raise InfeasibleError(f"the network has no {target!r} to shrink, only its {INPUT!r}", rung="build")
            if share != WHOLE:
                if not are_images(supplies.examples):
                    raise InfeasibleError("the network's first input is no batch of images to shrink", rung="build")
                height, width = (max(1, round(size * float(share))) for size in supplies.examples[0].shape[2:])
                model.register_forward_pre_hook(_Shrunk(height, width))
        return model


@dataclass(frozen=True)
class _Shrunk:
    """Shrinks a network's first input, (N, channels, height, width), in front of its forward."""

    height: int
    width: int

    def __call__(self, model: nn.Module, inputs: Inputs) -> Inputs:
        images, *others = inputs
        return functional.interpolate(images, size=(self.height, self.width), mode="bilinear"), *others


def are_images(inputs: Sequence[Tensor]) -> bool:
    """Return whether the first of some inputs is a batch of images, (N, channels, height, width)."""
    return inputs[0].dim() == 4 and inputs[0].is_floating_point()


def resolutions_of(
    model: nn.Module, examples: Inputs, wanted: Sequence[float]
) -> tuple[tuple[float, ...], list[tuple[str, str]]]:
    """Return the shares of height and width at which a network works, mild to strong, and why it does not at others.

    Args:
        model: it is not changed.
        examples: its inputs, batch first.
        wanted: the shares that its task allows.

    """
    found: list[float] = []
    left: list[tuple[str, str]] = []
    if not wanted:
        return (), []
    if not are_images(examples):
        return (), [(INPUT, "its resolution stays: it is no batch of images, (N, channels, height, width)")]
    expected = run(model, examples)
    for share in sorted({*map(float, wanted)} - {WHOLE}, reverse=True):
        supplies = Supplies(examples=examples, calibration=())
        try:
            outputs = run(Shrink().apply(model, Candidate({RESOLUTION: {INPUT: share}}), supplies), examples)
        except Exception as error:  # a user's forward may fail in any way
            left.append((INPUT, f"its resolution cannot be {share:g} of its own: {gist(error)}"))
            continue
        if outputs.shape == expected.shape and outputs.isfinite().all():
            found.append(share)
        else:
            left.append(
                (
                    INPUT,
                    f"its resolution cannot be {share:g} of its own: the outputs are others in shape, or not finite",
                )
            )
    return tuple(found), left
