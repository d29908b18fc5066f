"""Replaces weights that are computed from others, such as weight norms, by plain weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

TRAINED_PLAIN = "training continues with plain weights"


def bake(network: nn.Module) -> list[str]:
    """Let the weights of a network be what they are in evaluation now, in place; return what was done, in words."""
    network.eval()
    done: dict[str, list[str]] = {}
    for name, module in network.named_modules():
        for kind, tensor in (*_parametrizations(module), *_old_hooks(module)):
            done.setdefault(kind, []).append(f"{name}.{tensor}" if name else tensor)
    return [_said(kind, tensors) for kind, tensors in done.items()]


def _parametrizations(module: nn.Module) -> list[tuple[str, str]]:
    """Remove what `torch.nn.utils.parametrize` has put on a module; return kinds and names of its tensors."""
    if not parametrize.is_parametrized(module):
        return []
    own = type(module)  # that of the original, too: what is removed from it would be gone there
    module.__class__ = type(own.__name__, own.__bases__, dict(vars(own)))
    found = []
    held: Any = module.parametrizations
    for tensor, chain in list(held.items()):
        originals = list(chain.parameters(recurse=False))
        kinds = " and ".join(type(each).__name__.lstrip("_") for each in chain)
        parametrize.remove_parametrizations(module, tensor)
        _own(module, tensor, originals)
        found.append((kinds, tensor))
    for key, hook in list(module._load_state_dict_pre_hooks.items()):
        if "_weight_norm_compat_hook" in getattr(
            getattr(hook, "hook", hook), "__qualname__", ""
        ):  # reads old files; it cannot be pickled
            del module._load_state_dict_pre_hooks[key]
    return found


def _old_hooks(module: nn.Module) -> list[tuple[str, str]]:
    """Remove masks, and norms of weights that are hooks; return kinds and names of the module's tensors."""
    found = []
    for hook in list(module._forward_pre_hooks.values()):
        if isinstance(hook, prune.BasePruningMethod):
            tensor, source = hook._tensor_name, f"{hook._tensor_name}_orig"
            kind, remove = "masks", prune.remove
        elif isinstance(hook, WeightNorm):
            tensor, source = hook.name, f"{hook.name}_v"
            kind, remove = "WeightNorm", remove_weight_norm
        elif isinstance(hook, SpectralNorm):
            tensor, source = hook.name, f"{hook.name}_orig"
            kind, remove = "SpectralNorm", remove_spectral_norm
        else:
            continue
        original = getattr(module, source)
        remove(module, tensor)  # type: ignore[no-untyped-call]
        _own(module, tensor, [original])
        found.append((kind, tensor))
    return found


def _own(module: nn.Module, name: str, originals: Sequence[Tensor]) -> None:
    """Give a computed tensor its own memory, and make it a parameter if its originals are, trained if they are."""
    tensor = getattr(module, name).detach().clone()
    parameters = [each for each in originals if isinstance(each, nn.Parameter)]
    if not parameters:
        setattr(module, name, tensor)
        return
    module._buffers.pop(name, None)
    setattr(module, name, nn.Parameter(tensor, any(each.requires_grad for each in parameters)))


def _said(kind: str, tensors: list[str]) -> str:
    some = ", ".join(tensors[:3]) + (f" and {len(tensors) - 3} more" if len(tensors) > 3 else "")
    if kind == "masks":
        return (
            f"masks of torch.nn.utils.prune are part of {some} now; the zeros stay only where `sparsity` holds them, "
            f"and {TRAINED_PLAIN}"
        )
    return f"{kind} is computed once and for all in {some}; {TRAINED_PLAIN}"


def outputs_of(network: nn.Module, examples: tuple[Tensor, ...]) -> Tensor | None:
    """Return the seeded outputs in evaluation mode; None if the network fails, which another check reports."""
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            outputs = network.eval()(*examples)
    except Exception:  # a user's forward may fail in any way
        return None
    return outputs.clone() if isinstance(outputs, Tensor) else None
