"""Recurrent layers while channels are pruned: their inputs may go, their hidden width stays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from ...errors import InfeasibleError
from ..modules import RECURRENT

WIDTH_STAYS = "its hidden width stays, as each of its gates reads it back"
"""Why a recurrent layer is in no group."""


class Inputs(torch_pruning.BasePruningFunc):  # type: ignore[misc]  # the library has no types
    """Tells torch-pruning how to remove a recurrent layer's input channels; its outputs stay."""

    def prune_in_channels(self, layer: nn.RNNBase, idxs: Sequence[int]) -> nn.RNNBase:
        """Remove columns of the first level's input weights, in each direction."""
        gone = set(idxs)
        kept = [channel for channel in range(layer.input_size) if channel not in gone]
        for direction in ("", "_reverse") if layer.bidirectional else ("",):
            name = f"weight_ih_l0{direction}"
            setattr(layer, name, nn.Parameter(getattr(layer, name).detach()[:, kept].contiguous()))
        layer.input_size = len(kept)
        return layer

    def prune_out_channels(self, layer: nn.RNNBase, idxs: Sequence[int]) -> nn.RNNBase:
        """Refuse."""
        raise InfeasibleError("a recurrent layer, whose hidden width stays, shares its channels", rung="build")

    def get_in_channels(self, layer: nn.RNNBase) -> int:
        """Return the channels of its inputs."""
        return layer.input_size

    def get_out_channels(self, layer: nn.RNNBase) -> int:
        """Return the channels of its outputs."""
        return layer.hidden_size * (2 if layer.bidirectional else 1)


PRUNERS = {kind: Inputs() for kind in RECURRENT}


class _OneStep(torch.autograd.Function):
    """Stands for a whole recurrent layer, so that tracing meets one operation."""

    @staticmethod
    def forward(ctx: Any, shapes: Sequence[tuple[int, ...]], x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        """Return zeros of the shapes of outputs and states."""
        return tuple(x.new_zeros(shape) for shape in shapes)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> None:
        """Refuse."""
        raise NotImplementedError("nothing is trained while a network is traced")


@contextmanager
def as_one_operation(model: nn.Module) -> Iterator[None]:
    """Trace each recurrent layer as one operation inside the context; the outputs are meaningless there.

    Otherwise PyTorch unrolls them into the operations of each step.
    """
    layers = [module for module in model.modules() if isinstance(module, RECURRENT)]
    for layer in layers:
        layer.forward = partial(_stand_in, layer)  # type: ignore[method-assign]  # for a while
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _stand_in(layer: nn.RNNBase, x: Tensor | PackedSequence, state: Any = None) -> Any:
    if isinstance(x, PackedSequence):
        return type(layer).forward(layer, x, state)
    directions = 2 if layer.bidirectional else 1
    batch = (x.shape[0 if layer.batch_first else 1],) if x.dim() == 3 else ()
    hidden = (directions * layer.num_layers, *batch)
    states = [(*hidden, layer.hidden_size)] * (2 if isinstance(layer, nn.LSTM) else 1)
    given = () if state is None else (state,) if isinstance(state, Tensor) else tuple(state)
    y, *after = _OneStep.apply([(*x.shape[:-1], directions * layer.hidden_size), *states], x, *given)
    return y, tuple(after) if len(after) > 1 else after[0]
