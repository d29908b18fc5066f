"""An exported model, called as if it were the network: what a task's metric is given to score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...compressors.pipeline import Compressed
from ...compressors.technique import Supplies
from ...errors import InfeasibleError
from ...studies.metric_units import share_shown
from ..device_lock import pause
from ..meters.isolated_engine import PATIENCE_S, engine
from ..parity import Parity, compare, tolerance
from ..portable.pieces import in_pieces
from ..runtime import Engine, Runtime, Source

PARITY_BATCHES = 2
"""Batches of calibration data on which the runtime's outputs are compared to PyTorch's."""


class Served(nn.Module):
    """Runs an engine on tensors, so that ``metric(model, loader)`` scores what will be served.

    It is in evaluation mode, and has one parameter without a number: metrics ask a model's first one where inputs have
    to be, which is on the processor.

    Args:
        engine: runs the model.
        piece: the only size of a batch that the model takes; others run in pieces, the last one filled up. None for
            any.

    """

    def __init__(self, engine: Engine, piece: int | None = None) -> None:
        super().__init__()
        self.engine = engine
        self.piece = piece
        self.place = nn.Parameter(torch.empty(0), requires_grad=False)
        self.eval()

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return the first output for inputs of shape (batch, …), in any type of float."""
        pause()
        arrays = [(x.float() if x.is_floating_point() else x).detach().cpu().numpy() for x in inputs]
        infer = self.engine.infer
        outputs = infer(arrays) if self.piece is None else in_pieces(infer, self.piece, arrays)
        if not outputs:
            raise InfeasibleError("the runtime's engine is empty: it has no outputs", rung="build")
        return torch.from_numpy(np.ascontiguousarray(outputs[0]))


def _array(x: Tensor) -> NDArray[Any]:
    """Return a tensor as an array, real numbers in float32."""
    array: NDArray[Any] = (x.float() if x.is_floating_point() else x).detach().cpu().numpy()
    return array


def source_of(compressed: Compressed, supplies: Supplies) -> Source:
    """Return what a runtime makes its own file of a compressed network from."""
    return Source(
        onnx=compressed.onnx,
        module=compressed.plain,
        quantized=compressed.quantized,
        examples=[x.numpy() for x in supplies.examples],
        calibration=[[x.numpy() for x in batch] for batch in supplies.calibration],
    )


def checked(
    compressed: Compressed, runtime: Runtime, supplies: Supplies, *, quantized: bool, patience_s: float = PATIENCE_S
) -> tuple[bytes, Parity]:
    """Return a runtime's own file of a network, which does what PyTorch does, and how far it is from that.

    Args:
        compressed: the network.
        runtime: serves it.
        supplies: gives the inputs for both.
        quantized: whether layers of it are rounded in PyTorch too.
        patience_s: seconds that the runtime has to build it; see `isolated_engine.engine`.

    Raises:
        InfeasibleError: the runtime cannot serve it, or computes something else.

    """
    artefact = runtime.convert(source_of(compressed, supplies))
    with engine(runtime, artefact, threads=1, patience_s=patience_s) as built:
        may_differ = tolerance(runtime.capabilities, quantized=quantized)
        found = parity(
            compressed.model, Served(built, supplies.piece), supplies.calibration[:PARITY_BATCHES], tolerance=may_differ
        )
    return artefact, found


def parity(model: nn.Module, served: Served, batches: Sequence[tuple[Tensor, ...]], *, tolerance: float) -> Parity:
    """Check that the runtime computes what PyTorch does, and that the outputs depend on the inputs.

    Args:
        model: in PyTorch.
        served: the same by a runtime.
        batches: of inputs.
        tolerance: see `parity.tolerance`.

    Raises:
        InfeasibleError: outputs that are not finite, the same for all inputs, or too far apart.

    """
    with torch.no_grad():
        expected = torch.cat([model(*inputs) for inputs in batches])
        actual = torch.cat([served(*inputs) for inputs in batches])
    if expected.shape != actual.shape:
        shapes = f"{tuple(actual.shape)} where PyTorch gives {tuple(expected.shape)}"
        raise InfeasibleError(f"the runtime gives outputs of shape {shapes}", rung="build")
    for outputs, source in ((expected, "PyTorch"), (actual, "the runtime")):
        if not torch.isfinite(outputs).all():
            raise InfeasibleError(f"the outputs of {source} are not finite", rung="build")
        if len(outputs) > 1 and float((outputs - outputs[:1]).abs().max()) <= 1e-6 * float(outputs.abs().max()):
            raise InfeasibleError(
                f"the outputs of {source} do not depend on the input: too much went, training diverged, or the network "
                "has learned nothing",
                rung="build",
            )
    found = compare([[expected.numpy()]], [[actual.numpy()]])
    assert found is not None
    if found.difference > tolerance:
        far = f"{share_shown(found.difference)} of their range, over {tolerance:.0%}"
        raise InfeasibleError(f"the runtime's outputs differ from PyTorch's by {far}", rung="build")
    return found
