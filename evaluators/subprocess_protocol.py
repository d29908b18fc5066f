"""Processes that may crash, hang or eat memory: whatever runs a model that was not tried before."""

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
"""Environment variable: gigabytes that such a process may have; by default half of the machine's or container's."""


REQUEST, RESULT = "request.json", "result.json"
"""Files in such a process's directory: what it is asked, and what it answers."""


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
    """Return what a module of this package makes of a request and a directory; its program is `answer`.

    The arguments are those of `run`.

    Raises:
        InfeasibleError: see `run`; or the module's own reason.
    """
    (directory / REQUEST).write_text(json.dumps(request))
    run(module, directory, threads=threads, timeout_s=timeout_s, doing=doing, rung=rung)
    result: dict[str, Any] = json.loads((directory / RESULT).read_text())
    if "reason" in result:
        raise InfeasibleError(result["reason"], rung=result["rung"])
    return result


def answer(serve: Callable[[Path, Mapping[str, Any]], Mapping[str, object]]) -> None:
    """Serve the request in the directory that this process was started with; a refusal is an answer too."""
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
        directory: its only argument, and its working directory; it leaves its results there.
        threads: for the pools of the libraries it loads.
        timeout_s: seconds after which it is killed.
        doing: what it does to the model, as a participle, for reasons: ``timed``.
        rung: where the candidate ends if it fails.

    Raises:
        InfeasibleError: it crashed, failed, ate memory or was too slow.
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
    """Run a command, and wait for it; where that ends before it does, so do all processes that it has begun.

    They have a process group of their own: an interrupt from the terminal is for the parent to answer.

    Args:
        command: the program and its arguments.
        timeout_s: seconds after which it is killed.
        how: as `subprocess.Popen` takes it.

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
    """Kill a process that has a group of its own, and all that it has begun."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def environment(threads: int) -> Mapping[str, str]:
    """Return the variables that tell libraries how many threads to have, and who the parent is."""
    pools = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return {**dict.fromkeys(pools, str(threads)), "AUTOCOMPRESS_PARENT": str(os.getpid())}


def why(status: int, stderr: str, doing: str) -> str:
    """Return one sentence, without its dot, on how a process ended that failed."""
    said = gist(stderr) if stderr.strip() else f"exit {status}"
    if "MemoryError" in stderr or "bad_alloc" in stderr:
        return f"The runtime ran out of memory while the model was {doing}: {said}"
    if status < 0:
        return f"The runtime crashed with {signal.Signals(-status).name} while the model was {doing}"
    return f"The runtime failed while the model was {doing}: {said}"


def begin() -> None:
    """Tie this process to the one that started it, and bound its memory."""
    parent = int(os.environ["AUTOCOMPRESS_PARENT"])
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before
        raise SystemExit("The process that asked for this one has ended.")
    limit = memory_limit()
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def memory_limit() -> int:
    """Return the bytes of memory that a process with a model may have."""
    gigabytes = os.environ.get(MEMORY)
    if gigabytes:
        return int(float(gigabytes) * 1e9)
    return available_memory() // 2
