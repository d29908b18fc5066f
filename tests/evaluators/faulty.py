"""A runtime of a user's own: ONNX Runtime, but that what has INT8 in it does harm. Each variant is one way to do so."""

from __future__ import annotations

import os
import signal
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from autocompress.evaluators.runtime import Arrays, Engine, Kernel, Source
from autocompress.evaluators.runtimes import load
from autocompress.spaces.capabilities import Capabilities


class Faulty:
    """Serves float networks well."""

    def __init__(self, harm: Callable[[], object]) -> None:
        self.name = "faulty"
        self.capabilities = Capabilities(runtime="faulty", isolated=True)
        self.served = load("onnxruntime")
        self.harm = harm

    def convert(self, source: Source) -> bytes:
        """Return the file as it is."""
        return source.onnx

    @contextmanager
    def build(self, artefact: bytes, *, threads: int) -> Iterator[Engine]:
        """Build a session; harm where the file has INT8 in it."""
        with self.served.build(artefact, threads=threads) as engine:
            yield _Harming(engine, self.harm) if b"DequantizeLinear" in artefact else engine

    def kernels(self, artefact: bytes, inputs: Arrays) -> Sequence[Kernel]:
        """Tell nothing."""
        return ()

    def describe(self) -> Mapping[str, str]:
        """Return what ONNX Runtime says."""
        return self.served.describe()


class _Harming:
    """Computes once, so that it is fast enough to be offered."""

    def __init__(self, engine: Engine, harm: Callable[[], object]) -> None:
        self.engine = engine
        self.harm = harm
        self.made: dict[tuple[int, ...], list[NDArray[np.generic]]] = {}

    def infer(self, inputs: Arrays) -> list[NDArray[np.generic]]:
        shape = inputs[0].shape
        if shape not in self.made:
            self.made[shape] = self.engine.infer(inputs)
        outputs = self.made[shape]
        made = self.harm()
        if made == "nan":
            return [np.full_like(y, np.nan) for y in outputs]
        if made == "constant":
            return [np.zeros_like(y) for y in outputs]
        return [] if made == "empty" else outputs


def _segfault() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def _hang() -> None:
    time.sleep(3600)


def _eat() -> None:
    eaten = []
    while True:
        eaten.append(np.ones(50_000_000))


HARMS: tuple[Callable[[], object], ...] = (
    _segfault,
    _eat,
    lambda: "nan",
    lambda: "constant",
    lambda: "empty",
)


class Mixed(Faulty):
    """Does to each candidate another kind of harm that takes no time, by the bytes of its file."""

    def __init__(self) -> None:
        super().__init__(lambda: None)

    @contextmanager
    def build(self, artefact: bytes, *, threads: int) -> Iterator[Engine]:
        """Build a session that does the harm that the file has coming."""
        self.harm = HARMS[zlib.crc32(artefact) % len(HARMS)]
        with super().build(artefact, threads=threads) as engine:
            yield engine


VARIANTS = {
    "mixed": Mixed(),
    "segfault": Faulty(_segfault),
    "hang": Faulty(_hang),
    "memory": Faulty(_eat),
    "nan": Faulty(lambda: "nan"),
    "constant": Faulty(lambda: "constant"),
    "empty": Faulty(lambda: "empty"),
}
