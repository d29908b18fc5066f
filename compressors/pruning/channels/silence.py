"""Checks a group: a network without its channels must match the full one with those channels silenced.

Statistics over all channels, as of layer norms, do change with some gone. They are recorded and played back, so that
nothing else is compared than which channel is which.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

REDUCTIONS = ("mean", "var", "std", "sum", "norm", "vector_norm", "amax")
"""Functions that may make one number of all channels."""


class Statistics(TorchFunctionMode):
    """Records a network's statistics over channels, or plays them back to one with fewer channels.

    Args:
        known: recorded before, in order.

    """

    def __init__(self, known: list[tuple[torch.Size, Tensor]] | None = None) -> None:
        super().__init__()
        self.found: list[tuple[torch.Size, Tensor]] = []
        self.known = known

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Compute what the function does, except its statistics."""
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        if name in NORMS:
            return NORMS[name](self, *args, **kwargs)
        result = func(*args, **kwargs)
        if name in REDUCTIONS and isinstance(result, Tensor) and args and isinstance(args[0], Tensor):
            return self.taken(args[0], result)
        return result

    def taken(self, x: Tensor, statistic: Tensor) -> Tensor:
        """Return a statistic of a tensor, or the recorded one of the tensor with all channels."""
        self.found.append((x.shape, statistic))
        if self.known is None or len(self.found) > len(self.known):
            return statistic
        shape, before = self.known[len(self.found) - 1]
        return before if shape != x.shape and before.shape == statistic.shape else statistic

    def layer_norm(
        self, x: Tensor, shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any
    ) -> Tensor:
        """Normalise over the last dimensions."""
        dims = tuple(range(-len(shape), 0))
        mean, deviation = self._moments(x, dims, eps)
        return _affine((x - mean) / deviation, weight, bias)

    def rms_norm(self, x: Tensor, shape: Any, weight: Any = None, eps: float | None = None) -> Tensor:
        """Divide by the root of the mean square over the last dimensions."""
        square = x.square().mean(tuple(range(-len(shape), 0)), keepdim=True)
        scale = self.taken(x, (square + (torch.finfo(x.dtype).eps if eps is None else eps)).sqrt())
        return _affine(x / scale, weight, None)

    def group_norm(
        self, x: Tensor, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any
    ) -> Tensor:
        """Normalise over groups of channels and all positions."""
        apart = x.reshape(len(x), groups, -1)
        mean, deviation = self._moments(apart, (-1,), eps)
        here = (1, -1, *[1] * (x.dim() - 2))
        scale, shift = (None if p is None else p.reshape(here) for p in (weight, bias))
        return _affine(((apart - mean) / deviation).reshape(x.shape), scale, shift)

    def local_response_norm(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
        """Return the input unchanged, since a channel's neighbours differ."""
        return x

    def normalize(self, x: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, **_: Any) -> Tensor:
        """Divide by a norm along a dimension."""
        return x / self.taken(x, x.norm(p, dim, keepdim=True).clamp_min(eps))

    def _moments(self, x: Tensor, dims: tuple[int, ...], eps: float) -> tuple[Tensor, Tensor]:
        mean = self.taken(x, x.mean(dims, keepdim=True))
        return mean, self.taken(x, (x.var(dims, correction=0, keepdim=True) + eps).sqrt())


NORMS: Mapping[str, Any] = {
    name: getattr(Statistics, name)
    for name in ("layer_norm", "rms_norm", "group_norm", "local_response_norm", "normalize")
}


def _affine(x: Tensor, scale: Tensor | None, shift: Tensor | None) -> Tensor:
    x = x if scale is None else x * scale
    return x if shift is None else x + shift


@contextmanager
def silent(graph: Any, groups: Iterable[Any]) -> Iterator[None]:
    """Silence the channels of some groups inside the context: no layer reads them.

    Args:
        graph: the network's dependencies; see `dependency_groups.dependency_graph`.
        groups: what would go, whole layers or parts of them; see `dependency_groups.channel_group`.

    """
    before: list[tuple[Tensor, Tensor]] = []
    try:
        for dep, idxs in (item for group in groups for item in group):
            if not graph.is_out_channel_pruning_fn(dep.handler):
                before += [(weight, weight.detach().clone()) for weight in _reading(dep.target.module)]
                _mute(dep.target.module, torch.tensor(list(idxs)))
        yield
    finally:
        with torch.no_grad():
            for weight, values in reversed(before):
                weight.copy_(values)


def _reading(layer: nn.Module) -> list[Tensor]:
    """Return the weights by which a layer reads its inputs."""
    if isinstance(layer, nn.RNNBase):
        return [p for name, p in layer.named_parameters() if name.startswith("weight_ih_l0")]
    return [layer.weight] if isinstance(layer, (nn.modules.conv._ConvNd, nn.Linear)) else []


@torch.no_grad()
def _mute(layer: nn.Module, channels: Tensor) -> None:
    groups = cast(int, getattr(layer, "groups", 1))
    for weight in _reading(layer):
        if getattr(layer, "transposed", False):
            weight[channels] = 0
        elif groups == 1:
            weight[:, channels] = 0
        else:
            apart = weight.view(groups, -1, *weight.shape[1:])
            apart[channels // weight.shape[1], :, channels % weight.shape[1]] = 0


def same(actual: Tensor, expected: Tensor) -> bool:
    """Whether two networks' outputs agree, up to the order of summation."""
    if actual.shape != expected.shape:
        return False
    actual, expected = actual.double(), expected.double()
    scale = float(expected.abs().max()) if expected.numel() else 0.0
    return torch.allclose(actual, expected, rtol=1e-3, atol=1e-4 * scale, equal_nan=True)
