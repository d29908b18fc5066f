"""Fast training: the layout and the numbers in which a network is trained on this machine.

Both are decided by what the network and the processor are, not by a trial of speed: a trial on a busy machine would
decide otherwise from run to run, and trainings with one seed would differ.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from .graph import Inputs
from .quantize import Quantized


@dataclass(frozen=True)
class Format:
    """How a network computes while it is trained; its parameters and its outputs are float32 in any case.

    Attributes:
        channels_last: images and their features lie in memory pixel by pixel.
        bfloat16: products and convolutions are computed in bfloat16, by PyTorch's autocast.

    """

    channels_last: bool = False
    bfloat16: bool = False


def format_for(model: nn.Module, examples: Inputs) -> Format:
    """Return the format in which a network is trained fast on this machine; the network is not changed.

    Channels come last where there are convolutions with several channels in one group. bfloat16 is used where the
    processor has instructions for it and the network runs in it, forward and backward, with finite results; not in a
    quantized network, since its eight significant bits are no more than INT8's.
    """
    convolutions = (module for module in model.modules() if isinstance(module, nn.Conv2d))
    plain = Format(channels_last=any(module.in_channels > module.groups for module in convolutions))
    low = replace(plain, bfloat16=True)
    if not has_bfloat16() or any(isinstance(module, Quantized) for module in model.modules()):
        return plain
    return low if _runs(copy.deepcopy(model), examples, low) else plain


def has_bfloat16() -> bool:
    """Return whether the processor multiplies bfloat16 in hardware: AVX512-BF16 or AMX. Emulated, it is far slower."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # names of PyTorch's that may change
    return any(bool(check()) for name in checks if (check := getattr(torch.cpu, name, None)) is not None)


def _runs(model: nn.Module, examples: Inputs, form: Format) -> bool:
    """Return whether a copy of a network gives finite outputs and gradients in a format."""
    model.eval()  # batch norms would not take a batch of one
    with torch.random.fork_rng():
        try:
            with computing(model, form):
                outputs: Tensor = model(*examples)
                outputs.square().mean().backward()  # type: ignore[no-untyped-call]
        except RuntimeError:  # an operator without a kernel for bfloat16
            return False
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return all(bool(x.isfinite().all()) for x in (outputs, *gradients))


@contextmanager
def computing(model: nn.Module, form: Format, *, weights: bool = True) -> Iterator[None]:
    """Let a network compute in a format whenever it runs while the context lasts.

    Args:
        model: takes and gives tensors as before.
        form: what to compute in.
        weights: whether its weights are laid out likewise meanwhile; afterwards they are contiguous.

    """
    if form == Format():
        yield
        return
    entered: list[AbstractContextManager[Any]] = []

    def enter(module: nn.Module, inputs: Inputs, named: dict[str, Any]) -> tuple[Inputs, dict[str, Any]]:
        entered.append(torch.autocast("cpu", torch.bfloat16, enabled=form.bfloat16))
        entered[-1].__enter__()
        laid = tuple(_laid_out(x, form) for x in inputs)
        return laid, {name: _laid_out(x, form) for name, x in named.items()}

    def leave(module: nn.Module, inputs: Inputs, outputs: Any) -> Any:
        entered.pop().__exit__(None, None, None)
        low = isinstance(outputs, Tensor) and outputs.dtype == torch.bfloat16
        return outputs.float() if low else outputs

    hooks = (
        model.register_forward_pre_hook(enter, with_kwargs=True),
        model.register_forward_hook(leave, always_call=True),
    )
    if weights and form.channels_last:
        model.to(memory_format=torch.channels_last)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        if weights and form.channels_last:
            model.to(memory_format=torch.contiguous_format)


def _laid_out(value: Any, form: Format) -> Any:
    if form.channels_last and isinstance(value, Tensor) and value.dim() == 4:
        return value.contiguous(memory_format=torch.channels_last)
    return value
