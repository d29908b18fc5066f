"""Runtimes: one file each. A runtime builds an engine from a model file and infers; the clock is outside it.

A name may have a variant after a colon, for what concerns a whole model: ``openvino:bf16``, ``pytorch:compile``.
What concerns single layers is in the model file. A runtime of the user's own is the path of a Python file with
`VARIANTS`: ``my_runtime.py``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ...errors import MissingRuntimeError, UsageError
from ...spaces.capabilities import Capabilities

if TYPE_CHECKING:
    from torch import nn

Arrays = Sequence[NDArray[np.generic]]

RUNTIMES = ("onnxruntime", "openvino", "pytorch", "litert", "mnn", "tensorrt", "fake")
"""Names of the runtimes; each is a module of this package with its `VARIANTS`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """What a runtime makes its own file from; it takes the part that it reads.

    Attributes:
        onnx: the canonical file (INT8 with zero point 0, biases in float).
        module: the float network with batch norms folded; None where there is only a file.
        quantized: names of the module's layers that compute in INT8.
        examples: one array an input, batch first, of the shapes that are served.
        calibration: batches of inputs, for runtimes that find ranges themselves.

    """

    onnx: bytes
    module: nn.Module | None = None
    quantized: frozenset[str] = frozenset()
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


def load(name: str) -> Runtime:
    """Return a runtime by name.

    Raises:
        UsageError: no such runtime, or no such variant of it.
    """
    family, _, variant = name.partition(":")
    if family.endswith(".py"):
        runtime = _of_file(Path(family).resolve()).get(variant)
        if runtime is None:
            raise UsageError(f"--runtime {family} must have the variant {variant!r} in its VARIANTS; it has not.")
        runtime.name = f"{Path(family).resolve()}:{variant}".rstrip(":")  # so that other processes find it
        return runtime
    if family not in RUNTIMES:
        offered = ", ".join(runtime for runtime in RUNTIMES if runtime != "fake")
        raise UsageError(f"--runtime must be one of: {offered}; got {name!r}.")
    variants = variants_of(family)
    if variant not in variants or name.endswith(":"):
        offered = ", ".join(f"{family}:{known}" if known else family for known in variants)
        raise UsageError(f"--runtime {family} must be one of: {offered}; got {name!r}.")
    return variants[variant]


def variants_of(family: str) -> Mapping[str, Runtime]:
    """Return the variants of a runtime by name; the empty name is the default."""
    variants: Mapping[str, Runtime] = import_module(f".{family}", __package__).VARIANTS
    return variants


@cache
def _of_file(path: Path) -> Mapping[str, Runtime]:
    """Return the variants in a user's file."""
    spec = spec_from_file_location(f"autocompress_runtime_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise UsageError(
            f"--runtime must be a runtime's name or a Python file with VARIANTS; {str(path)!r} is no file."
        )
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    variants: Mapping[str, Runtime] | None = getattr(module, "VARIANTS", None)
    if not variants:
        raise UsageError(f"a runtime's file must define VARIANTS, runtimes by name; {str(path)!r} does not.")
    return variants


def needed(package: str, *, runtime: str, extra: str) -> Any:
    """Return a module that a runtime needs.

    Raises:
        MissingRuntimeError: it is not installed.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise MissingRuntimeError(
            f"--runtime {runtime} needs the package {package.partition('.')[0]}, which cannot be imported ({error}): "
            f"pip install 'autocompress[{extra}]'"
        ) from error


def plain(name: str) -> str:
    """Return a runtime's name as a part of a file's name.

    >>> plain("openvino:bf16"), plain("/home/me/My_Runtime.py")
    ('openvino-bf16', 'my-runtime-py')
    """
    return re.sub(r"[^a-z0-9]+", "-", Path(name).name.lower())


def cache_key(runtime: Runtime, artefact: bytes, **options: object) -> str:
    """Return what tells a built engine from all others: file, runtime, versions, device, options."""
    what = {"runtime": runtime.name, **runtime.describe(), **options}
    return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode() + artefact).hexdigest()
