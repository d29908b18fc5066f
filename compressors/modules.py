"""Runs a network, counts its layers' parameters and MACs, and finds layers by name."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ..errors import InfeasibleError

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
"""Transposed convolutions, whose weight has its input channels first: (in, out / groups, …)."""

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)

LAYERS = (*CONVOLUTIONS, nn.Linear)
"""Module types that count as layers."""

RECURRENT = (nn.LSTM, nn.GRU)
"""Module types that count as recurrent layers."""

KINDS = ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "linear")
"""Names of `LAYERS`, in the same order."""

Inputs = tuple[Tensor, ...]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """A layer's parameters and multiply-accumulates."""

    kind: str
    params: int
    macs: int


def count(model: nn.Module, examples: Inputs) -> dict[str, Cost]:
    """Return parameters and multiply-accumulates of one example for each layer, in order of execution."""
    return costs_of(model, work(model, examples))


def costs_of(model: nn.Module, done: Mapping[str, int]) -> dict[str, Cost]:
    """Return the costs of the modules that are layers, from the counts that `work` returns."""
    counted = (*LAYERS, *RECURRENT)
    return {
        name: Cost(kind=_kind(module), params=sum(p.numel() for p in module.parameters(recurse=False)), macs=macs)
        for name, macs in done.items()
        if isinstance(module := model.get_submodule(name), counted)
    }


def work(model: nn.Module, examples: Inputs) -> dict[str, int]:
    """Return the multiply-accumulates of one example for each module that runs, in order of execution.

    A module counts what its own forward does, functions included, and not what the modules in it do. Where only one
    of several branches runs, each counts if it is a module's.
    """
    flops = FlopCounterMode(display=False, custom_mapping=_UNREGISTERED)
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # an encoder layer would compute without its modules
    try:
        with flops:
            return _work(model, examples, flops)
    except Exception:  # what a network's own code does where all its operators are looked at
        return _work(model, examples, flops)  # its modules at least, or what is wrong with it
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)


def _work(model: nn.Module, examples: Inputs, flops: FlopCounterMode) -> dict[str, int]:
    names = {module: name for name, module in model.named_modules()}
    done: dict[str, int] = {}
    open_: list[list[int]] = []  # for each module that runs: what was done when it began, and what its modules did

    def enter(module: nn.Module, _: Any) -> None:
        done.setdefault(names[module], 0)
        open_.append([flops.get_total_flops(), 0])

    def leave(module: nn.Module, _: Any, __: Any) -> None:
        begun, inside = open_.pop()
        spent = flops.get_total_flops() - begun
        done[names[module]] += max(0, spent - inside) // 2
        if open_:
            open_[-1][1] += spent

    hooks = [module.register_forward_pre_hook(enter) for module in names]
    hooks += [module.register_forward_hook(leave) for module in names]
    try:
        run(model, examples)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: macs // max(1, len(examples[0])) for name, macs in done.items()}


def _attention(query: Sequence[int], key: Sequence[int], value: Sequence[int], *_: Any, **__: Any) -> int:
    """Return the operations of attention: query-key products and attention-value products."""
    *many, targets, width = query
    return 2 * math.prod(many) * targets * key[-2] * (width + value[-1])


def _lstm(steps: Sequence[int], weight: Sequence[int], recurrent: Sequence[int], *_: Any, **__: Any) -> int:
    """Return the operations of one LSTM level in one direction, for inputs of shape (steps, batch, inputs)."""
    return 2 * steps[0] * steps[1] * (math.prod(weight) + math.prod(recurrent))


def _bilinear(first: Sequence[int], weight: Sequence[int], *_: Any, **__: Any) -> int:
    """Return the operations of a bilinear layer, for first inputs of shape (batch, inputs)."""
    return 2 * math.prod(first[:-1]) * math.prod(weight)


_UNREGISTERED = {
    torch.ops.aten._trilinear: _bilinear,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten.mkldnn_rnn_layer: _lstm,
}
"""Operators of processors that PyTorch's own counter does not know."""


def _kind(module: nn.Module) -> str:
    if isinstance(module, nn.RNNBase):
        return "recurrent"
    return next(kind for kind, layer in zip(KINDS, LAYERS, strict=True) if isinstance(module, layer))


def output_axis(layer: nn.Module) -> int:
    """Return the dimension of a layer's weight that holds its output channels."""
    return int(isinstance(layer, TRANSPOSED))


def out_channels(layer: nn.Module) -> int:
    """Return the number of a layer's output channels."""
    return int(layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels)  # type: ignore[arg-type]


def grouped(layer: nn.Module) -> Tensor:
    """Return a layer's weight as a view (groups, out / groups, in / groups, …), however it is stored."""
    weight, groups = cast(Tensor, layer.weight), int(getattr(layer, "groups", 1))
    parts = weight.view(groups, -1, *weight.shape[1:])
    return parts.transpose(1, 2) if isinstance(layer, TRANSPOSED) else parts


def shape(layer: nn.Module) -> tuple[int, ...]:
    """Return the shape (out, in / groups, …) of a layer's weight, however it is stored."""
    groups, out, *others = grouped(layer).shape
    return groups * out, *others


def stride(layer: nn.Module) -> float:
    """Return the number of input positions for each output position of a layer."""
    if not isinstance(layer, CONVOLUTIONS):
        return 1
    steps = math.prod(layer.stride)
    return 1 / steps if isinstance(layer, TRANSPOSED) else steps


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode inside the context; each module's own mode is restored afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def padded_with_zeros(model: nn.Module) -> Iterator[None]:
    """Let convolutions pad with zeros inside the context: other modes copy slices of tensors."""
    modes = [(module, module.padding_mode) for module in model.modules() if isinstance(module, CONVOLUTIONS)]
    for module, _ in modes:
        module.padding_mode = "zeros"
    try:
        yield
    finally:
        for module, mode in modes:
            module.padding_mode = mode


def run(model: nn.Module, inputs: Inputs) -> Tensor:
    """Return the outputs in evaluation mode without gradients."""
    with evaluating(model), torch.no_grad():
        outputs = model(*inputs)
    assert isinstance(outputs, Tensor)
    return outputs


def version(tensor: Tensor) -> int:
    """Return how often a tensor was changed in place; tensors of inference mode do not count."""
    return 0 if tensor.is_inference() else tensor._version


def always_called(module: nn.Module) -> None:
    """Make PyTorch's encoder layers call a module that replaces a layer; their fast path would bypass it."""
    module.register_forward_pre_hook(_as_they_are)


def _as_they_are(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Do nothing; the mere presence of a hook disables the fast path."""


def parts(model: nn.Module, name: str) -> list[tuple[str, nn.Module]]:
    """Return a layer with its name; for a factorised one, return the layers that replace it.

    Raises:
        InfeasibleError: the network has no such layer.

    """
    try:
        module = model.get_submodule(name)
    except AttributeError:
        raise InfeasibleError(f"the network has no layer {name!r}", rung="build") from None
    if isinstance(module, nn.Sequential):
        return [(f"{name}.{child}", layer) for child, layer in module.named_children()]
    return [(name, module)]


def multiplies(module: nn.Module) -> bool:
    """Whether a module computes only what its layer type does, with a weight that is its own parameter."""
    plain = next((layer for layer in LAYERS if isinstance(module, layer)), None)
    if plain is None or "weight" not in module._parameters:
        return False
    names = ("forward", "_conv_forward")
    return all(getattr(type(module), n, None) is getattr(plain, n, None) and n not in vars(module) for n in names)
