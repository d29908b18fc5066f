"""Commands as processes that are forked from one which has imported torch and others; that takes seconds each time.

    python warm.py SOCKET PID

Who connects to the socket sends a line of JSON with a command's folder, arguments, environment and the files that it
prints to, and gets its exit code back when it has ended. All else about it is as a user's. It ends with process PID,
but is nobody's child, so that who looks for children of the tests finds only what a test has begun.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import socket
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import psutil

SLOW = (
    *("torch", "torch._dynamo", "torch.onnx", "onnx", "scipy.optimize", "sklearn.datasets"),
    *("optuna", "pandas", "matplotlib.figure", "plotly.offline", "pydantic"),
    *("autocompress.cli", "autocompress.studies.loading", "autocompress.studies.validate"),
    *("autocompress.compressors.pruning.prune", "autocompress.search.samplers.surrogate", "autocompress.reports.write"),
)
"""What takes long to import and begins no thread, which a process that is forked would lack."""


def become(asked: dict[str, Any]) -> None:
    """Be the command, to its end."""
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    for number, name in enumerate((os.devnull, asked["stdout"], asked["stderr"])):
        os.dup2(os.open(name, os.O_RDWR), number)
    sys.argv = asked["arguments"]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    code: object = 1
    try:
        importlib.import_module("autocompress.cli").main()
    except SystemExit as end:
        code = end.code
    except BaseException:  # as Python's own end does
        sys.excepthook(*sys.exc_info())
    leave(code)


def leave(code: object) -> NoReturn:
    """End as Python does, but leave the memory to the system: to free what was imported would copy it first."""
    threading._shutdown()
    atexit._run_exitfuncs()
    if isinstance(code, str):
        print(code, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


def serve(path: str, parent: int) -> None:
    """Begin a command for each connection; its exit code is sent by a process that waits for it."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        listening.settimeout(5.0)
        while psutil.pid_exists(parent):
            try:
                connection, _ = listening.accept()
            except TimeoutError:
                continue
            connection.settimeout(None)
            asked = json.loads(connection.makefile().readline())
            if not os.fork():
                break
            connection.close()
            with suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
        else:
            return
    command = os.fork()
    if command:
        code = os.waitstatus_to_exitcode(os.waitpid(command, 0)[1])
        connection.sendall(f"{code}\n".encode())
        os._exit(0)
    connection.close()
    become(asked)


if __name__ == "__main__":
    for module in SLOW:
        importlib.import_module(module)
    assert len(list(Path("/proc/self/task").iterdir())) == 1
    gc.freeze()  # what is collected is copied
    if os.fork():
        os._exit(0)
    serve(sys.argv[1], int(sys.argv[2]))
