"""An exported model that a task's metric can call like the network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ...compressors.pipeline import Compressed
from ...compressors.technique import Supplies
from ...errors import InfeasibleError
from ...studies.metric_units import share_shown
from ..device_lock import pause
from ..parity import Parity, compare, tolerance
from ..portable.pieces import in_pieces
from ..runtime import Engine, Runtime, Source
from .engines import Engines

PARITY_BATCHES = 2
"""Batches of calibration data on which the runtime's outputs are compared to PyTorch's."""


class Served(nn.Module):
    """Runs an engine on tensors, so that ``metric(model, loader)`` scores the model that will be served.

    It is in evaluation mode and has one empty parameter on the CPU: metrics ask a model's first parameter for the
    device.

    Args:
        engine: runs the model.
        piece: the model's fixed batch size; other batches run in pieces, the last one padded. None for any size.

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


def source_of(compressed: Compressed, supplies: Supplies) -> Source:
    """Return the source from which a runtime converts a compressed network."""
    return Source(
        onnx=compressed.onnx,
        module=compressed.plain,
        quantized=compressed.quantized,
        scales=compressed.scales,
        examples=[x.numpy() for x in supplies.examples],
        calibration=[[x.numpy() for x in batch] for batch in supplies.calibration],
    )


def checked(
    compressed: Compressed, runtime: Runtime, supplies: Supplies, engines: Engines, *, quantized: bool
) -> tuple[bytes, Parity]:
    """Convert a network for a runtime, check it against PyTorch, and return the file and the difference.

    Args:
        compressed: the network.
        runtime: serves it.
        supplies: has the inputs for both.
        engines: builds it, and keeps it.
        quantized: whether some layers are rounded in PyTorch too.

    Raises:
        InfeasibleError: the runtime cannot serve it, or computes something else.

    """
    artefact = runtime.convert(source_of(compressed, supplies))
    served = Served(engines.of(runtime, artefact), supplies.piece)
    may_differ = tolerance(runtime.capabilities, quantized=quantized)
    return artefact, parity(compressed.model, served, supplies.calibration[:PARITY_BATCHES], tolerance=may_differ)


def parity(model: nn.Module, served: Served, batches: Sequence[tuple[Tensor, ...]], *, tolerance: float) -> Parity:
    """Check that the runtime agrees with PyTorch, and that the outputs depend on the inputs.

    Args:
        model: the network in PyTorch.
        served: the same network in a runtime.
        batches: batches of inputs.
        tolerance: see `parity.tolerance`.

    Raises:
        InfeasibleError: the outputs are not finite, equal for all inputs, or too far apart.

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
