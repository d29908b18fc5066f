"""PyTorch itself: TorchScript, the eager interpreter, `torch.compile` and packages compiled ahead of time."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import InfeasibleError, MissingRuntimeError, gist
from ...spaces.capabilities import Capabilities
from ..runtime import Arrays, Engine, Kernel, Source
from ..scratch import private_folder
from .host import describe_host

if TYPE_CHECKING:
    from torch import nn

    from .pytorch_programs import Program

READS = {"": (".pt", ".ts")}
"""Endings of the files that a variant reads; all others read ``.pt2``."""

COMPILED = ("compile", "aoti")
"""Variants that need a C++ compiler."""


class PyTorch:
    """Serves float networks on the CPU.

    Args:
        variant: ``""`` is a traced TorchScript file, frozen when it is built; ``eager`` an exported program, run one
            operation at a time; ``bf16`` the same in bfloat16; ``compile`` the same compiled when it is built;
            ``aoti`` a package that is compiled when it is converted, for the examples' shapes and this processor.
    """

    def __init__(self, variant: str = "") -> None:
        self.name = f"pytorch:{variant}" if variant else "pytorch"
        self.variant = variant
        self.precision = "bfloat16" if variant == "bf16" else "float32"
        self.capabilities = Capabilities(
            runtime=self.name,
            bits=(32,),
            reads=READS.get(variant, (".pt2",)),
            opset=None,
            free_batch=variant != "aoti",
            rounds=variant == "bf16",
        )

    def convert(self, source: Source) -> bytes:
        """Trace, export or compile the float network.

        Raises:
            InfeasibleError: it has layers in INT8, there is no network but a file, or it cannot be exported.
        """
        if source.quantized:
            reason = "PyTorch has no INT8 kernels for this network: its quantized layers would be served in float."
            raise InfeasibleError(reason, rung="build")
        if source.module is None:
            ending = self.capabilities.reads[0]
            raise InfeasibleError(f"PyTorch serves no ONNX file: give a {self._file} file ({ending}).", rung="build")
        self._import()
        try:
            return self._converted(source.module, source.examples)
        except Exception as error:  # exporters fail in any way
            raise InfeasibleError(f"PyTorch cannot write the network: {gist(error)}.", rung="build") from error

    @contextmanager
    def build(self, artefact: bytes, *, threads: int) -> Iterator[Engine]:
        """Load a file and optimise it; the number of threads is the process's again afterwards.

        Raises:
            InfeasibleError: PyTorch refuses the model.
        """
        self._import()
        from .pytorch_programs import threads_restored

        with threads_restored():
            try:
                engine = self._built(artefact, threads)
            except InfeasibleError:
                raise
            except Exception as error:  # loaders and compilers fail in any way
                raise InfeasibleError(f"PyTorch cannot load the model: {gist(error)}.", rung="build") from error
            yield engine

    def kernels(self, artefact: bytes, inputs: Arrays) -> Sequence[Kernel]:
        """Return a program's operations, named by the layers; compiled ones and TorchScript's have no profiler."""
        if self.variant not in ("eager", "bf16"):
            return ()
        from . import pytorch_programs as programs

        with self.build(artefact, threads=1) as engine:
            engine.infer(inputs)
            return programs.timed(programs.read(artefact), programs.tensors(inputs, self._dtype()))

    def describe(self) -> Mapping[str, str]:
        """Return versions, device and precision, to be stored with every number."""
        module = self._import()
        compiler = {"compiler": str(_compiler())} if self.variant in COMPILED else {}
        precision = {f"{self.name} precision": self.precision}
        return {"torch": str(module.__version__), **compiler, **precision, **describe_host()}

    @property
    def _file(self) -> str:
        return "TorchScript" if self.variant == "" else "packaged" if self.variant == "aoti" else "torch.export"

    def _converted(self, module: nn.Module, examples: Arrays) -> bytes:
        from . import pytorch_programs as programs

        if self.variant == "":
            return programs.trace(module, examples)
        if self.variant == "aoti":
            return programs.package(module, examples)
        return programs.write(programs.export(module, examples, dtype=self._dtype()))

    def _built(self, artefact: bytes, threads: int) -> Program:
        from . import pytorch_programs as programs

        if self.variant == "":
            return programs.Program(programs.script(artefact), threads)
        if self.variant == "aoti":
            function, batch = programs.unpack(artefact)
            return programs.Program(function, threads, batch=batch)
        program = programs.read(artefact)
        if programs.dtype_of(program) != self._dtype():
            reason = f"--runtime {self.name} serves programs in {self.precision}; this one is in another type."
            raise InfeasibleError(reason, rung="build")
        batch = programs.batch_of(program)
        if self.variant != "compile":
            return programs.Program(programs.flat(program), threads, dtype=self._dtype(), batch=batch)
        engine = programs.Program(programs.compiled(program), threads, batch=batch)
        engine.infer([x.numpy() for x in programs.examples_of(program)])
        return engine

    def _dtype(self) -> Any:
        return getattr(self._import(), self.precision)

    def _import(self) -> Any:
        if self.variant in COMPILED and _compiler() is None:
            raise MissingRuntimeError(
                f"--runtime {self.name} needs a C++ compiler, and there is none: apt-get install g++, or set CXX"
            )
        if self.variant in COMPILED:
            _private_cache()
        import torch

        return torch


def _private_cache() -> None:
    """Let Inductor keep its cache, which it runs, where nobody else can write, unless the user has named a place.

    Its own default is a name in the folder for temporary files that anybody can make first.
    """
    named = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    if named is None or Path(named).parent == Path(tempfile.gettempdir()):  # which PyTorch sets itself
        with private_folder() as (folder, _):
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "torchinductor")


def _compiler() -> str | None:
    """Return the C++ compiler that Inductor would take; None if there is none."""
    return shutil.which(os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++"))


VARIANTS = {variant: PyTorch(variant) for variant in ("", "eager", "compile", "aoti", "bf16")}
