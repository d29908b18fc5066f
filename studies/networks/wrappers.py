"""Removes wrappers of a network or its parts, which only pass calls through."""

from __future__ import annotations

from typing import Any

from torch import nn

from .copied import copied

WRAPPERS = {
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "AveragedModel": "module",
    "ModelEmaV2": "module",
    "ModelEmaV3": "module",
    "EMA": "ema_model",
    "_FabricModule": "_original_module",
    "OptimizedModule": "_orig_mod",
}
"""Classes of PyTorch, timm, ema-pytorch and Lightning that wrap a network, and the attribute that holds it."""


def unwrapped(network: nn.Module) -> tuple[nn.Module, list[str]]:
    """Return a copy of a network without wrappers at any depth, and the removed wrappers in words."""
    found = [(name, module) for name, module in network.named_modules() if inner(module) is not None]
    memo: dict[int, Any] = {}
    for _, wrapper in reversed(found):  # the inner ones first
        memo[id(wrapper)] = copied(inner(wrapper), memo)
    said = [f"{_kind(module)} was taken off{_where(without_wrappers(network, name))}" for name, module in found]
    if any(module._compiled_call_impl is not None for module in network.modules()):
        said.append("torch.compile was taken off")
    plain = copied(network, memo)
    for name, module in plain.named_modules():
        if is_compiled(module, vars(module).get("forward")):
            del module.forward
            said.append(f"torch.compile was taken off{_where(name)}")
    return plain, said


def without_wrappers(network: nn.Module, name: str) -> str:
    """Return the name of a module after its wrappers are removed; an unknown name is not changed.

    >>> without_wrappers(nn.DataParallel(nn.Sequential(nn.ReLU())), "module.0")
    '0'
    """
    module, found = network, []
    for part in name.split(".") if name else ():
        child = module._modules.get(part)
        if child is None:
            return name
        if inner(module) is None:
            found.append(part)
        module = child
    return ".".join(found)


def is_compiled(module: nn.Module, forward: object) -> bool:
    """Return whether a replacement of a module's forward is the same forward, compiled."""
    same = getattr(forward, "__qualname__", None) == type(module).forward.__qualname__
    return same and hasattr(forward, "_torchdynamo_orig_callable")


def inner(module: nn.Module) -> Any:
    """Return the module in a wrapper; None for anything else."""
    held = next((WRAPPERS[cls.__name__] for cls in type(module).__mro__ if cls.__name__ in WRAPPERS), None)
    return None if held is None else module._modules.get(held)


def _kind(wrapper: nn.Module) -> str:
    return "torch.compile" if type(wrapper).__name__ == "OptimizedModule" else type(wrapper).__name__


def _where(name: str) -> str:
    return f" of {name!r}" if name else ""
