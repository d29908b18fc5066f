"""Runs untried models in processes of their own, which may crash, hang or run out of memory."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import InfeasibleError, gist
from .cgroup import available_memory

MEMORY = "AUTOCOMPRESS_MEMORY"
"""Environment variable: memory limit of such a process in gigabytes; by default half of the machine or container."""


TURNS = "AUTOCOMPRESS_TURNS"
"""Environment variable: descriptor of the socket on which such a process asks for its turns."""

OVER = b"."
"""What it says when a turn is over."""

LOOK_S = 0.5
"""Seconds after which the parent looks whether a silent process still lives."""

Turns = Mapping[bytes, Callable[[], AbstractContextManager[object]]]
"""What a process may ask for, by the byte that asks for it: contexts that its parent enters, such as locks."""


REQUEST, RESULT = "request.json", "result.json"
"""Files in such a process's directory: the request and the answer."""


def ask(
    module: str,
    directory: Path,
    request: Mapping[str, object],
    *,
    threads: int,
    timeout_s: float | None,
    doing: str,
    rung: str,
    turns: Turns | None = None,
) -> dict[str, Any]:
    """Run a module of this package on a request in a directory, and return its result; the module calls `answer`.

    The arguments are those of `run`.

    Raises:
        InfeasibleError: see `run`, or the module raised one.
    """
    (directory / REQUEST).write_text(json.dumps(request))
    run(module, directory, threads=threads, timeout_s=timeout_s, doing=doing, rung=rung, turns=turns)
    result: dict[str, Any] = json.loads((directory / RESULT).read_text())
    if "reason" in result:
        raise InfeasibleError(result["reason"], rung=result["rung"])
    return result


def answer(serve: Callable[[Path, Mapping[str, Any]], Mapping[str, object]]) -> None:
    """Serve the request in this process's directory, and write the result or the reason why it is infeasible."""
    begin()
    directory = Path(sys.argv[1])
    result: Mapping[str, object]
    try:
        result = serve(directory, json.loads((directory / REQUEST).read_text()))
    except InfeasibleError as error:
        result = {"reason": error.reason, "rung": error.rung}
    (directory / RESULT).write_text(json.dumps(result))


def run(
    module: str,
    directory: Path,
    *,
    threads: int,
    timeout_s: float | None,
    doing: str,
    rung: str,
    turns: Turns | None = None,
) -> None:
    """Run a module of this package on a directory, in a fresh process, and wait for it.

    Args:
        module: such as ``autocompress.evaluators.meters.timing_process``; its process must call `begin` first.
        directory: its only argument and its working directory, where it writes its results.
        threads: size of its libraries' thread pools.
        timeout_s: seconds after which it is killed; those in which it waits for a turn do not count.
        doing: what it does to the model, as a participle for reasons, such as ``timed``.
        rung: the rung that is named if it fails.
        turns: what it may ask for with `turn`.

    Raises:
        InfeasibleError: it crashed, failed, ran out of memory or was too slow.
    """
    log = directory / "stderr.txt"
    with log.open("wb") as stderr:
        try:
            status = finished(
                [sys.executable, "-m", module, str(directory)],
                cwd=directory,
                env={**os.environ, **environment(threads)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                timeout_s=timeout_s,
                turns=turns,
            ).returncode
        except subprocess.TimeoutExpired as error:
            said = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
            last = f" It said last: {said[-1]}" if said else ""
            raise InfeasibleError(f"The model was not {doing} within {timeout_s:g} s.{last}", rung=rung) from error
    if status:
        raise InfeasibleError(f"{why(status, log.read_text(errors='replace'), doing)}.", rung=rung)


@contextmanager
def turn(wanted: bytes) -> Iterator[None]:
    """Wait, in a process that `run` started, for what its parent grants under this byte, and hold it in the context."""
    if TURNS not in os.environ:
        yield
        return
    line = socket.socket(fileno=os.dup(int(os.environ[TURNS])))
    with line:
        line.sendall(wanted)
        line.recv(1)
        yield
        line.sendall(OVER)


def _usher(line: socket.socket, turns: Turns, process: subprocess.Popen[Any], timeout_s: float | None) -> float | None:
    """Grant a process its turns until it ends; return the seconds that are left of its time.

    Raises:
        subprocess.TimeoutExpired: its time is over.
    """
    left_s = float("inf") if timeout_s is None else timeout_s
    with ExitStack() as held:
        while process.poll() is None:
            started = time.monotonic()
            ready = select.select([line], [], [], min(LOOK_S, left_s))[0]
            left_s -= time.monotonic() - started
            said = line.recv(1) if ready else OVER
            if left_s <= 0:
                end(process)  # before the turn that it has is another's
                raise subprocess.TimeoutExpired(process.args, timeout_s or 0.0)
            if not said:
                break
            if ready:
                held.close()
            if said in turns:
                held.enter_context(turns[said]())
                with suppress(ConnectionError):  # it has ended, which is found out next
                    line.sendall(said)
    return None if timeout_s is None else left_s


def finished(
    command: Sequence[str], *, timeout_s: float | None, turns: Turns | None = None, **how: Any
) -> subprocess.CompletedProcess[Any]:
    """Run a command, and wait for it; if the wait ends first, kill it and all processes that it has started.

    They have a process group of their own, so that the parent handles an interrupt from the terminal.

    Args:
        command: the program and its arguments.
        timeout_s: seconds after which it is killed; those in which it waits for a turn do not count.
        turns: what it may ask for with `turn`.
        how: arguments of `subprocess.Popen`.

    Raises:
        subprocess.TimeoutExpired: it was killed.
    """
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            if turns:
                how |= {"pass_fds": [theirs.fileno()], "env": {**how["env"], TURNS: str(theirs.fileno())}}
            process = subprocess.Popen(command, process_group=0, **how)
        with process:
            try:
                left_s = _usher(ours, turns, process, timeout_s) if turns else timeout_s
                stdout, stderr = process.communicate(timeout=left_s)
            except BaseException:
                end(process)
                raise
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


def end(process: subprocess.Popen[Any]) -> None:
    """Kill a process that leads a group, and all processes that it has started."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def environment(threads: int) -> Mapping[str, str]:
    """Return the environment variables that set the libraries' thread counts and name the parent."""
    pools = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return {**dict.fromkeys(pools, str(threads)), "AUTOCOMPRESS_PARENT": str(os.getpid())}


def why(status: int, stderr: str, doing: str) -> str:
    """Return one sentence, without its full stop, on how a process failed."""
    said = gist(stderr) if stderr.strip() else f"exit {status}"
    if "MemoryError" in stderr or "bad_alloc" in stderr:
        return f"The runtime ran out of memory while the model was {doing}: {said}"
    if status < 0:
        return f"The runtime crashed with {signal.Signals(-status).name} while the model was {doing}"
    return f"The runtime failed while the model was {doing}: {said}"


def begin() -> None:
    """End this process with the one that started it, and limit its memory."""
    end_with(int(os.environ["AUTOCOMPRESS_PARENT"]))
    limit = memory_limit()
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def end_with(parent: int) -> None:
    """End this process when the one that started it ends."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before
        raise SystemExit("The process that started this one has ended.")


def memory_limit() -> int:
    """Return the memory limit of a process with a model, in bytes."""
    gigabytes = os.environ.get(MEMORY)
    if gigabytes:
        return int(float(gigabytes) * 1e9)
    return available_memory() // 2
