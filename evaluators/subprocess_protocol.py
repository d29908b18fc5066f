"""Runs untried models in processes of their own, which may crash, hang or run out of memory."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import InfeasibleError, gist
from .cgroup import available_memory

MEMORY = "AUTOCOMPRESS_MEMORY"
"""Environment variable: memory limit of such a process in gigabytes; by default half of the machine or container."""


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
) -> dict[str, Any]:
    """Run a module of this package on a request in a directory, and return its result; the module calls `answer`.

    The arguments are those of `run`.

    Raises:
        InfeasibleError: see `run`, or the module raised one.
    """
    (directory / REQUEST).write_text(json.dumps(request))
    run(module, directory, threads=threads, timeout_s=timeout_s, doing=doing, rung=rung)
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


def run(module: str, directory: Path, *, threads: int, timeout_s: float | None, doing: str, rung: str) -> None:
    """Run a module of this package on a directory, in a fresh process, and wait for it.

    Args:
        module: such as ``autocompress.evaluators.meters.timing_process``; its process must call `begin` first.
        directory: its only argument and its working directory, where it writes its results.
        threads: size of its libraries' thread pools.
        timeout_s: seconds after which it is killed.
        doing: what it does to the model, as a participle for reasons, such as ``timed``.
        rung: the rung that is named if it fails.

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
            ).returncode
        except subprocess.TimeoutExpired as error:
            said = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
            last = f" It said last: {said[-1]}" if said else ""
            raise InfeasibleError(f"The model was not {doing} within {timeout_s:g} s.{last}", rung=rung) from error
    if status:
        raise InfeasibleError(f"{why(status, log.read_text(errors='replace'), doing)}.", rung=rung)


def finished(command: Sequence[str], *, timeout_s: float | None, **how: Any) -> subprocess.CompletedProcess[Any]:
    """Run a command, and wait for it; if the wait ends first, kill it and all processes that it has started.

    They have a process group of their own, so that the parent handles an interrupt from the terminal.

    Args:
        command: the program and its arguments.
        timeout_s: seconds after which it is killed.
        how: arguments of `subprocess.Popen`.

    Raises:
        subprocess.TimeoutExpired: it was killed.
    """
    with subprocess.Popen(command, process_group=0, **how) as process:
        try:
            stdout, stderr = process.communicate(timeout=timeout_s)
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
    parent = int(os.environ["AUTOCOMPRESS_PARENT"])
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before
        raise SystemExit("The process that started this one has ended.")
    limit = memory_limit()
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def memory_limit() -> int:
    """Return the memory limit of a process with a model, in bytes."""
    gigabytes = os.environ.get(MEMORY)
    if gigabytes:
        return int(float(gigabytes) * 1e9)
    return available_memory() // 2
