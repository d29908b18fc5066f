"""Replaces batch norms that synchronise several processes by plain ones."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .baked import outputs_of

NORMS: dict[int, type[nn.Module]] = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
"""Plain norms, by the dimensions of their inputs."""


def with_plain_norms(network: nn.Module, examples: tuple[Tensor, ...]) -> list[str]:
    """Replace SyncBatchNorm by the batch norm of what it is given, in place; return what was done, in words."""
    found = {m: name for name, m in network.named_modules() if isinstance(m, nn.SyncBatchNorm)}
    if not found:
        return []
    dims: dict[nn.Module, int] = {}
    hooks = [m.register_forward_pre_hook(lambda m, x: dims.__setitem__(m, x[0].dim())) for m in found]
    outputs_of(network, examples)
    for hook in hooks:
        hook.remove()
    places = list(network.named_modules(remove_duplicate=False))
    made: dict[nn.Module, nn.Module] = {norm: _plain(norm, dims.get(norm, 4)) for norm in found}
    for name, module in places:
        if module in made and name:
            network.set_submodule(name, made[module])
    return [f"SyncBatchNorm became BatchNorm in {', '.join(list(found.values())[:3])}{' …' if len(found) > 3 else ''}"]


def _plain(norm: Any, dims: int) -> nn.Module:
    kind: Any = NORMS.get(dims, nn.BatchNorm2d)
    plain: nn.Module = kind(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    for name, value in (*norm._parameters.items(), *norm._buffers.items()):
        setattr(plain, name, value)
    return plain.train(norm.training)
