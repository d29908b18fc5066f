"""Refuses networks that cannot be compressed, with the reason and the way out."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from types import FunctionType, MethodType

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from ...errors import StudyError
from .wrappers import inner, is_compiled

FLOAT_AGAIN = "Give the float network from before it was quantized"

FOREIGN = {
    "torch.ao.": f"has layers that are quantized, or simulate it. {FLOAT_AGAIN}",
    "torchao.": f"has layers that are quantized, or simulate it. {FLOAT_AGAIN}",
    "bitsandbytes.": f"has layers that are quantized. {FLOAT_AGAIN}",
    "peft.": "has adapters beside its weights. Add them to these first: model = model.merge_and_unload()",
    "torch.distributed.": "has its weights in shards. Load a full state dict into the network that was wrapped",
}
"""Packages whose modules store weights in their own formats, with what they are and the way out."""

HARMLESS = ("torch.ao.quantization.stubs", "torch.ao.nn.intrinsic.modules", "torch.ao.nn.quantizable")
"""Modules of these packages that compute in float."""

SOURCE = "Give the nn.Module that it was made from"


def must_be_network(name: str, value: object) -> nn.Module:
    """Return a network of a task.

    Args:
        name: the task's name for it.
        value: the given value.

    Raises:
        StudyError: it is not a network, or its layers or weights cannot be compressed.

    """
    if not isinstance(value, nn.Module):
        rule = f"`{name}` must be a torch.nn.Module" + ("" if name == "model" else ", or None")
        raise StudyError(f"{rule}; it is a {type(value).__name__}{_way_out(value)}")
    for reason in _reasons(value):
        raise StudyError(f"`{name}` must be a plain network of PyTorch, in float; {reason}")
    return value


def _way_out(value: object) -> str:
    """Return what something that is not a network is, and the way out."""
    if isinstance(value, type) and issubclass(value, nn.Module):
        return f": the class {value.__name__} itself. Make a network of it, {value.__name__}(…), and load its weights"
    if isinstance(value, Mapping):
        held = [str(key) for key, each in value.items() if not isinstance(each, Tensor)]
        what = "a state dict" if value and not held else "a checkpoint" if held else "empty"
        return f", {what}. Build the network, give it the weights by load_state_dict, and give the network"
    if isinstance(value, str | PurePath):
        return f", {str(value)!r}. Load the network that it names, and give that"
    if type(value).__name__ == "ExportedProgram":
        return f". {SOURCE}"
    return ". Give the trained network itself"


def _reasons(network: nn.Module) -> Iterator[str]:
    """Yield the reasons against compressing a network."""
    for name, module in network.named_modules():
        here, kind = repr(name) if name else "it", type(module).__name__
        if isinstance(module, torch.jit.ScriptModule):
            yield f"{here} is a TorchScript program ({kind}), whose layers are gone. {SOURCE}"
        if kind in ("InterpreterModule", "UnflattenedModule") or _is_program(module):
            yield f"{here} is an exported program ({kind}), whose layers are gone. {SOURCE}"
        origin = f"{type(module).__module__}."
        for prefix, said in FOREIGN.items():
            if origin.startswith(prefix) and not origin.startswith(HARMLESS):
                yield f"it {said} ({here} is a {kind} of {origin[:-1]})"
        forward = vars(module).get("forward")
        taken_off = inner(module) is not None or is_compiled(module, forward)
        if isinstance(forward, FunctionType) and _holds_network(forward) and not taken_off:
            yield (
                f"the forward of {here} was set on the object, to a function that holds on to this very network "
                f"({forward.__qualname__}): a copy would compute with its weights. Define forward in the class"
            )
    tensors = [*network.named_parameters(), *network.named_buffers()]
    for name, tensor in tensors:
        reason = _why_not(tensor, trained=isinstance(tensor, nn.Parameter))
        if reason:
            yield f"{name!r} {reason}"


def _is_program(module: nn.Module) -> bool:
    """Return whether a module is a graph of PyTorch's operators instead of layers."""
    if not isinstance(module, torch.fx.GraphModule):
        return False
    return any(node.op == "call_function" and isinstance(node.target, OpOverload) for node in module.graph.nodes)


def _holds_network(value: object) -> bool:
    """Return whether a function's closure holds a network or a method of one, which copies would share."""
    if isinstance(value, functools.partial):
        return _holds_network(value.func) or any(map(_holds_network, value.args))
    if isinstance(value, MethodType):
        return isinstance(value.__self__, nn.Module)
    if isinstance(value, FunctionType):
        cells = [cell for cell in value.__closure__ or () if _filled(cell)]
        return any(_holds_network(cell.cell_contents) for cell in cells if cell.cell_contents is not value)
    return isinstance(value, nn.Module)


def _filled(cell: object) -> bool:
    try:
        cell.cell_contents  # type: ignore[attr-defined]  # noqa: B018
    except ValueError:
        return False
    return True


def _why_not(tensor: Tensor, *, trained: bool) -> str | None:
    """Return why a network's tensor cannot be compressed; None if it can."""
    if is_lazy(tensor):
        return "has no shape yet, so that the network is not trained. Call it once on its inputs, and train it"
    if tensor.is_meta:
        return "has a shape and no values: it is on the device 'meta'. Load the weights"
    if tensor.is_quantized:
        return f"is quantized ({tensor.dtype}). {FLOAT_AGAIN}"
    if is_traceable_wrapper_subclass(tensor):
        return f"is a {type(tensor).__name__}, which holds its values in a way of its own. Give a float tensor"
    if trained and not tensor.is_floating_point():
        kind = str(tensor.dtype).removeprefix("torch.")
        return f"is a parameter of type {kind}, and weights are real numbers. Make it a buffer, or two real parameters"
    return None
