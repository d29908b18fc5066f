"""Prunes the channels of norms that torch-pruning does not know."""

from __future__ import annotations

from collections.abc import Sequence

import torch_pruning
from torch import nn


class RmsNorm(torch_pruning.BasePruningFunc):  # type: ignore[misc]  # the library has no types
    """Removes channels from a norm over the last dimension."""

    def prune_out_channels(self, layer: nn.RMSNorm, idxs: Sequence[int]) -> nn.RMSNorm:
        """Remove scales."""
        gone, (*others, width) = set(idxs), layer.normalized_shape
        kept = [channel for channel in range(width) if channel not in gone]
        if layer.weight is not None:
            layer.weight = self._prune_parameter_and_grad(layer.weight, kept, len(others))
        layer.normalized_shape = (*others, len(kept))
        return layer

    prune_in_channels = prune_out_channels

    def get_out_channels(self, layer: nn.RMSNorm) -> int:
        """Return the last dimension that it normalises over."""
        return layer.normalized_shape[-1]

    get_in_channels = get_out_channels


PRUNERS = {nn.RMSNorm: RmsNorm()}
