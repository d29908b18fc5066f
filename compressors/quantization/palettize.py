"""Palettes: a layer's weights take few distinct values, so that a file can store indices into them.

K-means of a layer's weights, and training of what they share (Han et al., Deep Compression, ICLR 2016, section 3). It
changes what is stored (`compact/acz.py`), not what is run: a served model is as fast as before.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import InfeasibleError
from ...spaces.candidate import PALETTE, Candidate
from ...spaces.capabilities import Capabilities
from ...spaces.layers import Network
from ...spaces.space import Choice
from ..batch_norm import fold_batch_norm
from ..modules import LAYERS, parts
from ..technique import Supplies, Technique
from . import kmeans

FLOAT = 32
"""Bits of a layer whose weights are stored one by one."""

LEVELS = (FLOAT, 8, 6, 5, 4, 3, 2)
"""Bits of an index into a layer's palette, mild to strong; a palette has two to the power of that many weights."""


class Palettize(Technique):
    """Gives each layer a palette of weights.

    A layer that computes in integers is left as it is: its integers are a palette already, whose scale the runtime
    multiplies by.
    """

    axis = PALETTE

    def choices(self, network: Network, capabilities: Capabilities) -> tuple[Choice, ...]:
        """Offer each convolution and linear layer palette sizes, if the stored size counts."""
        if not capabilities.palettes:
            return ()
        layers = (layer for layer in network.layers if layer.shape)
        return tuple(Choice(axis=self.axis, target=layer.name, levels=LEVELS, neutral=FLOAT) for layer in layers)

    def apply(self, model: nn.Module, candidate: Candidate, supplies: Supplies) -> nn.Module:
        """Return a copy with batch norms folded and each weight of the chosen layers set to its cluster's mean.

        Raises:
            InfeasibleError: the network has no such layer, or its weights are not finite.

        """
        model = fold_batch_norm(model, supplies.examples)
        for name, bits in candidate[self.axis].items():
            for part, layer in _float_layers(model, name):
                if bits != FLOAT:
                    weight: Tensor = layer.weight  # type: ignore[assignment]  # layers have one
                    if not weight.isfinite().all():
                        raise InfeasibleError(f"the weights of layer {part!r} are not finite", rung="build")
                    weight.data = palettized(weight.data, 2 ** int(bits))
        return model

    @contextmanager
    def hold(self, model: nn.Module, candidate: Candidate) -> Iterator[None]:
        """Keep equal weights equal while the network is trained, so that palettes learn.

        A layer that has no palette yet is left to itself.
        """
        with ExitStack() as stack:
            for name, bits in candidate[self.axis].items():
                for _, layer in _float_layers(model, name):
                    stack.enter_context(_tied(layer, 2 ** int(bits)))
            yield


def palettized(weight: Tensor, size: int) -> Tensor:
    """Return a weight with at most `size` distinct values, near the original.

    Weights that are zero stay so: zero is then one of the values.

    Args:
        weight: finite, of any shape.
        size: of the palette, at least two.

    """
    values = weight.detach().cpu().numpy().reshape(-1)
    kept = values != 0
    if not kept.any():
        return weight.clone()
    palette = kmeans.centroids(values[kept], size if kept.all() else size - 1)
    found = np.zeros_like(values)
    found[kept] = palette[kmeans.nearest(values[kept], palette)]
    return torch.from_numpy(found).reshape(weight.shape).to(weight.device)


def _float_layers(model: nn.Module, name: str) -> list[tuple[str, nn.Module]]:
    """Return the layers of a target whose weights the file holds in float, with their names."""
    return [(part, layer) for part, layer in parts(model, name) if isinstance(layer, LAYERS)]


@contextmanager
def _tied(layer: nn.Module, size: int) -> Iterator[None]:
    """Keep equal weights equal if there are at most `size` distinct ones.

    Each gets the mean of their gradients: the projection on what they may do together. Deep Compression takes the sum,
    which points the same way; the mean keeps the size of the steps, and of the norm that gradients are clipped to.
    An optimizer that treats all weights alike then moves them together; what its vector instructions round differently
    is evened out before the layer computes again, and in the end.
    """
    weight: nn.Parameter = layer.weight  # type: ignore[assignment]
    values, clusters = torch.unique(weight.detach().reshape(-1), return_inverse=True)
    if len(values) > size or not weight.requires_grad:
        yield
        return
    counts, places = clusters.bincount(), torch.arange(len(clusters), device=clusters.device)
    first = torch.full_like(counts, len(clusters)).scatter_reduce_(0, clusters, places, "amin")

    def mean(gradient: Tensor) -> Tensor:
        means: Tensor = clusters.bincount(gradient.reshape(-1).double()) / counts
        return means.to(gradient.dtype)[clusters].reshape(gradient.shape)

    def even(*_: object) -> None:
        weight.data.copy_(weight.data.reshape(-1)[first][clusters].reshape(weight.shape))

    hooks = [
        weight.register_hook(mean),  # type: ignore[no-untyped-call]
        layer.register_forward_pre_hook(even),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        even()
