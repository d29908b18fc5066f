"""Processes that hang or eat memory: what they may have, and what is left of them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from autocompress.errors import InfeasibleError
from autocompress.evaluators.cgroup import available_memory
from autocompress.evaluators.subprocess_protocol import MEMORY, finished, memory_limit, run

HANGS = """
import subprocess, sys, time
from pathlib import Path
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
(Path(sys.argv[1]) / "child").write_text(str(child.pid))
print("waiting for nobody", file=sys.stderr, flush=True)
time.sleep(600)
"""

ASKS = """
import sys
from pathlib import Path
from autocompress.evaluators.subprocess_protocol import turn
said = Path(sys.argv[1]) / "said"
with turn(b"x"):
    said.write_text("has it")
    {ending}
said.write_text("gave it back")
with turn(b"y"):
    pass
"""

MACHINE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def gone(process: int) -> bool:
    """Return whether a process ends within a while."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if not psutil.pid_exists(process) or psutil.Process(process).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def test_what_is_too_slow_leaves_no_process(tmp_path: Path) -> None:
    """Those that it has begun end with it, and the reason has what it said last."""
    (tmp_path / "hangs.py").write_text(HANGS)
    with pytest.raises(InfeasibleError, match=r"not tried within 8 s\. It said last: waiting for nobody"):
        run("hangs", tmp_path, threads=1, timeout_s=8.0, doing="tried", rung="build")
    assert gone(int((tmp_path / "child").read_text()))


def test_what_is_told_through_a_pipe_is_waited_for_no_longer(tmp_path: Path) -> None:
    """A process that keeps the pipe of one that was killed is killed too."""
    (tmp_path / "hangs.py").write_text(HANGS)
    started = time.monotonic()
    with pytest.raises(subprocess.TimeoutExpired):
        finished([sys.executable, "hangs.py", "."], timeout_s=8.0, cwd=tmp_path, stdout=subprocess.PIPE)
    assert time.monotonic() - started < 300
    assert gone(int((tmp_path / "child").read_text()))


def test_a_process_has_its_turn_as_long_as_it_says_and_the_wait_does_not_count(tmp_path: Path) -> None:
    """Each turn ends when the process gives it back, and a wait as long as its whole time does not end it."""
    (tmp_path / "asks.py").write_text(ASKS.format(ending=""))
    turns: list[str] = []

    @contextmanager
    def granted(name: str, wait_s: float) -> Iterator[None]:
        time.sleep(wait_s)
        turns.append(f"{name} begins")
        yield
        turns.append(f"{name} ends")

    asked = {b"x": lambda: granted("x", 4.0), b"y": lambda: granted("y", 0.0)}
    run("asks", tmp_path, threads=1, timeout_s=4.0, doing="tried", rung="build", turns=asked)
    assert turns == ["x begins", "x ends", "y begins", "y ends"]
    assert (tmp_path / "said").read_text() == "gave it back"


@pytest.mark.parametrize("ending", ["import os; os.kill(os.getpid(), 9)", "import time; time.sleep(600)"])
def test_a_turn_ends_with_its_process(ending: str, tmp_path: Path) -> None:
    """Whether it crashes or takes too long in its turn."""
    (tmp_path / "asks.py").write_text(ASKS.format(ending=ending))
    turns: list[str] = []

    @contextmanager
    def granted() -> Iterator[None]:
        turns.append("begins")
        try:
            yield
        finally:
            turns.append("ends")

    with pytest.raises(InfeasibleError, match=r"SIGKILL|not tried within 2 s"):
        run("asks", tmp_path, threads=1, timeout_s=2.0, doing="tried", rung="build", turns={b"x": granted})
    assert turns == ["begins", "ends"]


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/\n", {"memory.max": "1000000"}, 1_000_000),
        ("0::/a/b\n", {"a/b/memory.max": "max", "a/memory.max": "3000000", "memory.max": "4000000"}, 3_000_000),
        ("0::/a\n", {"a/memory.max": "max"}, MACHINE),
        ("5:cpu,memory:/a\n1:name=systemd:/\n", {"memory/a/memory.limit_in_bytes": "2000000"}, 2_000_000),
        ("5:memory:/docker/x\n", {"memory/memory.limit_in_bytes": "2000000"}, 2_000_000),
        ("5:memory:/\n", {"memory/memory.limit_in_bytes": str(2**63 - 4096)}, MACHINE),
        ("4:memory:/a\n0::/a\n", {"memory/a/memory.limit_in_bytes": "9000", "unified/a/memory.max": "8000"}, 8000),
        (None, {"memory.max": "1000"}, MACHINE),
    ],
)
def test_a_container_has_no_more_than_it_was_given(
    groups: str | None, files: dict[str, str], expected: int, tmp_path: Path
) -> None:
    """The least of the limits of its groups, of either version; without any, the machine's memory."""
    if groups is not None:
        (tmp_path / "cgroup").write_text(groups)
    for name, content in files.items():
        path = tmp_path / "mounted" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    assert available_memory(tmp_path / "cgroup", tmp_path / "mounted") == expected


def test_a_process_with_a_model_may_have_half(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless the user says how much."""
    monkeypatch.delenv(MEMORY, raising=False)
    assert memory_limit() == available_memory() // 2
    monkeypatch.setenv(MEMORY, "1.5")
    assert memory_limit() == 1_500_000_000
