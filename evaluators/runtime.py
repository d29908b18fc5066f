"""The interfaces of a runtime and its engine, and what they are given and return."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ..spaces.capabilities import Capabilities

if TYPE_CHECKING:
    from torch import nn

    from ..compressors.quantization.quantize import Scales


Arrays = Sequence[NDArray[np.generic]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """What a runtime makes its own file from; it takes the part that it reads.

    Attributes:
        onnx: the canonical file (activations in INT8 with zero point 0 or in UINT8, biases in float).
        module: the float network with batch norms folded; None where there is only a file.
        quantized: names of the module's layers that compute in INT8.
        scales: what those of them round their inputs and weights to; without them a runtime finds its own.
        examples: one array an input, batch first, of the shapes that are served.
        calibration: batches of inputs, for runtimes that find ranges themselves.

    """

    onnx: bytes
    module: nn.Module | None = None
    quantized: frozenset[str] = frozenset()
    scales: Mapping[str, Scales] = field(default_factory=dict)
    examples: Arrays = ()
    calibration: Sequence[Arrays] = ()


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """One step of a built model, after the runtime's own optimiser.

    Attributes:
        name: of the ONNX node or of the tensor that it makes, where the runtime still knows it.
        kind: the runtime's name for what it does.
        bits: width of the numbers that it multiplies: 32, 16, 8, 4.
        milliseconds: of one run; None where the runtime cannot tell.
        macs: multiply-accumulates of one run; 0 for what multiplies no weights.

    """

    name: str
    kind: str
    bits: int = 32
    milliseconds: float | None = None
    macs: int = 0


def low_precision(kernels: Sequence[Kernel]) -> float:
    """Return the share of multiply-accumulates that run on numbers of fewer than 32 bits.

    >>> low_precision([Kernel(name="a", kind="conv", bits=8, macs=3), Kernel(name="b", kind="conv", macs=1)])
    0.75
    """
    total = sum(kernel.macs for kernel in kernels)
    return sum(kernel.macs for kernel in kernels if kernel.bits < 32) / total if total else 0.0


class Engine(Protocol):
    """A built model, ready to run."""

    def infer(self, inputs: Arrays) -> list[NDArray[np.generic]]:
        """Run the model once; one array an input in the model's order, batch first; all in floats as in PyTorch."""
        ...


@runtime_checkable
class DeviceEngine(Protocol):
    """An engine whose device has a clock of its own; what it tells is used instead of the host's clocks."""

    def infer(self, inputs: Arrays) -> list[NDArray[np.generic]]:
        """See `Engine.infer`."""
        ...

    def device_ns(self, inputs: Arrays, runs: int) -> list[int]:
        """Return the nanoseconds of each of some runs on inputs that are on the device already."""
        ...

    def conditions(self) -> Mapping[str, str]:
        """Return what the last times depend on: how work was given to the device, its clocks, who else used it."""
        ...


class Runtime(Protocol):
    """Something that serves models."""

    name: str
    capabilities: Capabilities

    def convert(self, source: Source) -> bytes:
        """Return the file that this runtime serves, in the layout that its kernels fuse.

        Raises:
            InfeasibleError: there is none for this network, with the reason.
        """
        ...

    def build(self, artefact: bytes, *, threads: int) -> AbstractContextManager[Engine]:
        """Build an engine from a file of `convert`, or from one that it reads as it is.

        Raises:
            InfeasibleError: the runtime refuses the model.
        """
        ...

    def kernels(self, artefact: bytes, inputs: Arrays) -> Sequence[Kernel]:
        """Return what is executed, in order, timed where the runtime has a profiler; empty where it cannot tell."""
        ...

    def describe(self) -> Mapping[str, str]:
        """Return versions and device, to be stored with every number.

        Raises:
            MissingRuntimeError: a package or a device is missing.
        """
        ...
