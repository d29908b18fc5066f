"""Puts networks and their inputs into float32 on the CPU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree


def to_float32(network: nn.Module) -> list[str]:
    """Take a network to float32 on the CPU, in place; return what was done, in words."""
    said = []
    devices = {tensor.device.type for tensor in (*network.parameters(), *network.buffers())} - {"cpu"}
    if devices:
        network.cpu()
        where = ", ".join(sorted(devices))
        said.append(f"a copy on the CPU is compressed; it was on {where}. Labels have to be on the CPU too")
    counts = Counter(p.dtype for p in network.parameters() if p.dtype != torch.float32)
    if counts:
        network.float()
        kinds = ", ".join(f"{count} in {str(dtype).removeprefix('torch.')}" for dtype, count in counts.items())
        said.append(f"it is compressed in float32; of its parameters there were {kinds}")
    return said


def other_floats(*tensors: Tensor) -> bool:
    """Return whether some tensors hold real numbers that are not float32, or are not on the CPU."""
    return any(x.device.type != "cpu" or (x.is_floating_point() and x.dtype != torch.float32) for x in tensors)


def as_float32(value: Any) -> Any:
    """Return a tensor of real numbers in float32, any tensor on the CPU, and anything else unchanged."""
    if not isinstance(value, Tensor):
        return value
    return value.to("cpu", torch.float32) if value.is_floating_point() else value.cpu()


def take_any_float(network: nn.Module) -> None:
    """Let a network take inputs in any type of float, in place."""
    network.register_forward_pre_hook(_cast, with_kwargs=True)


def _cast(module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return pytree.tree_map(as_float32, (args, named))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class FloatInputs:
    """The inputs of a batch, those that are real numbers in float32."""

    inputs: Callable[[Any], tuple[Tensor, ...]]

    def __call__(self, batch: Any) -> tuple[Tensor, ...]:
        """Return a batch's inputs; anything that is not a tuple is returned unchanged."""
        found = self.inputs(batch)
        return tuple(map(as_float32, found)) if isinstance(found, tuple) else found
