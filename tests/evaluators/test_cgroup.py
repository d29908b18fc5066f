"""How many cores a process may keep busy: threads of a core count once, and a container has what it was given."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from autocompress.evaluators.cgroup import available_cores

ALONE = ("0", "1", "2", "3", "4", "5", "6", "7")
PAIRS = ("0,4", "1,5", "2,6", "3,7", "0,4", "1,5", "2,6", "3,7")


@pytest.mark.parametrize(
    ("siblings", "allowed", "groups", "files", "expected"),
    [
        (ALONE, range(8), "0::/\n", {}, 8),
        (PAIRS, range(8), "0::/\n", {}, 4),
        (PAIRS, (0, 4, 1), "0::/\n", {}, 2),
        ((), range(6), "0::/\n", {}, 6),
        (ALONE, range(8), "0::/a\n", {"a/cpu.max": "max 100000", "cpu.max": "250000 100000"}, 2),
        (ALONE, range(8), "0::/\n", {"cpu.max": "50000 100000"}, 1),
        (ALONE, range(8), "3:cpu,cpuacct:/a\n", {"cpu/a/cpu.cfs_quota_us": "-1", "cpu/a/cpu.cfs_period_us": "1000"}, 8),
        (ALONE, range(8), "3:cpu:/a\n", {"cpu/cpu.cfs_quota_us": "3000", "cpu/cpu.cfs_period_us": "1000"}, 3),
    ],
)
def test_cores_are_those_that_may_be_used(
    siblings: tuple[str, ...],
    allowed: tuple[int, ...],
    groups: str,
    files: dict[str, str],
    expected: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Affinity, threads of a core, and the quota of a container of either version are all counted."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(allowed))
    written = {f"system/cpu{i}/topology/thread_siblings_list": text for i, text in enumerate(siblings)}
    written |= {f"mounted/{name}": text for name, text in files.items()}
    for name, content in {**written, "cgroup": groups}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content.rstrip()}\n")
    assert available_cores(tmp_path / "cgroup", tmp_path / "mounted", tmp_path / "system") == expected
