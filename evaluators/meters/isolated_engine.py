"""An engine in a separate process, which may crash, hang or exhaust memory without harming its caller.

    python -m autocompress.evaluators.meters.isolated_engine DIRECTORY DESCRIPTOR

serves the model in a directory over an inherited socket until the socket is closed.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InfeasibleError
from ..device_lock import exclusive, off_the_floor
from ..runtime import Arrays, Engine, Runtime
from ..runtimes import load
from ..scratch import scratch
from ..subprocess_protocol import begin, end, environment, why
from .latency import device_of

PATIENCE_S = 300.0
"""Seconds after which an engine that does not answer hangs."""


def engine(
    runtime: Runtime, artefact: bytes, *, threads: int, patience_s: float = PATIENCE_S
) -> AbstractContextManager[Engine]:
    """Build an engine in this process, or in a separate one if its runtime needs that.

    Raises:
        InfeasibleError: the runtime refuses the model, crashes, exhausts memory or hangs, now or during inference.
    """
    if runtime.capabilities.isolated:
        return _isolated(runtime, artefact, threads=threads, patience_s=patience_s)
    return runtime.build(artefact, threads=threads)


@dataclass(frozen=True)
class _Remote:
    """An engine in another process."""

    process: subprocess.Popen[bytes]
    connection: Connection
    stderr: Path
    patience_s: float

    def infer(self, inputs: Arrays) -> list[NDArray[np.generic]]:
        self.connection.send([np.ascontiguousarray(x) for x in inputs])
        outputs: list[NDArray[np.generic]] = self.answer("run")
        return outputs

    def answer(self, doing: str) -> Any:
        """Return the reply.

        Raises:
            InfeasibleError: there is no reply, or it is a reason.
        """
        if not self.connection.poll(self.patience_s):
            raise InfeasibleError(f"The model was not {doing} within {self.patience_s:g} s.", rung="build")
        try:
            kind, content = self.connection.recv()
        except (EOFError, ConnectionError):
            status = self.process.wait()
            said = why(status, self.stderr.read_text(errors="replace"), doing)
            raise InfeasibleError(f"{said}.", rung="build") from None
        if kind == "reason":
            raise InfeasibleError(content, rung="build")
        return content


@contextmanager
def _isolated(runtime: Runtime, artefact: bytes, *, threads: int, patience_s: float) -> Iterator[Engine]:
    ours, theirs = socket.socketpair()
    with scratch() as directory, ours, theirs:
        (directory / "model").write_bytes(artefact)
        log = directory / "stderr.txt"
        with log.open("wb") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", __spec__.name, str(directory), str(theirs.fileno()), runtime.name, str(threads)],
                pass_fds=[theirs.fileno()],
                env={**os.environ, **environment(threads)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                process_group=0,
            )
        theirs.close()
        try:
            with Connection(os.dup(ours.fileno())) as connection:
                ours.close()
                remote = _Remote(process, connection, log, patience_s)
                with _alone(runtime):
                    remote.answer("built")
                yield remote
        finally:
            end(process)
            process.wait()


@contextmanager
def _alone(runtime: Runtime) -> Iterator[None]:
    """Lock a GPU while an engine is built: the builder times kernels, and must not disturb other measurements."""
    if runtime.capabilities.device == "cpu":
        yield
        return
    with off_the_floor(), exclusive(device_of(runtime.name)):
        yield


def main(directory: Path, descriptor: int, name: str, threads: int) -> None:
    """Serve the model in a directory."""
    begin()
    with Connection(descriptor) as connection:
        try:
            with load(name).build((directory / "model").read_bytes(), threads=threads) as built:
                connection.send(("built", None))
                while True:
                    connection.send(("outputs", [np.asarray(y) for y in built.infer(connection.recv())]))
        except InfeasibleError as error:
            connection.send(("reason", error.reason))
        except EOFError:
            return


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
