"""Trains a network in bfloat16 where the processor has instructions for it.

That is decided by what the network and the processor are, not by a trial of speed: a trial on a busy machine would
decide otherwise from run to run, and trainings with one seed would differ. Channels stay first: PyTorch 2.14's
convolutions of 1×1 with few channels write over memory that is not theirs when channels come last.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...studies.keywords import tensors_in, with_tensor
from ...studies.networks.copied import copied
from ..modules import Inputs
from ..quantization.quantize import Quantized


def trains_in_bfloat16(model: nn.Module, examples: Inputs) -> bool:
    """Return whether a network is trained in bfloat16 on this machine; the network is not changed.

    It is where it runs in it, forward and backward, with finite results; not a quantized network, since bfloat16's
    eight significant bits are no more than INT8's.
    """
    if not has_bfloat16() or any(isinstance(module, Quantized) for module in model.modules()):
        return False
    return _runs(copied(model), examples)


def has_bfloat16() -> bool:
    """Return whether the processor multiplies bfloat16 in hardware: AVX512-BF16 or AMX. Emulated, it is far slower."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # names of PyTorch's that may change
    return any(bool(check()) for name in checks if (check := getattr(torch.cpu, name, None)) is not None)


def _runs(model: nn.Module, examples: Inputs) -> bool:
    """Return whether a copy of a network gives finite outputs and gradients in bfloat16."""
    model.eval()  # batch norms would not take a batch of one
    with torch.random.fork_rng():
        try:
            with in_bfloat16(model):
                outputs: Tensor = model(*examples)
                outputs.square().mean().backward()  # type: ignore[no-untyped-call]
        except Exception:  # an operator without a kernel for bfloat16, or NumPy, which has no such numbers
            return False
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    return all(bool(x.isfinite().all()) for x in (outputs, *gradients))


@contextmanager
def in_bfloat16(model: nn.Module) -> Iterator[None]:
    """Compute a network's products and convolutions in bfloat16 inside the context.

    Its parameters stay float32, and so do its outputs.
    """
    entered: list[AbstractContextManager[Any]] = []

    def enter(module: nn.Module, inputs: Inputs) -> None:
        entered.append(torch.autocast("cpu", torch.bfloat16))
        entered[-1].__enter__()

    def leave(module: nn.Module, inputs: Inputs, outputs: Any) -> Any:
        entered.pop().__exit__(None, None, None)
        for name, tensor in tensors_in(outputs).items():
            outputs = with_tensor(outputs, name, tensor.float()) if tensor.dtype == torch.bfloat16 else outputs
        return outputs

    hooks = (
        model.register_forward_pre_hook(enter),
        model.register_forward_hook(leave, always_call=True),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
