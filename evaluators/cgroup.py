"""Finds how much memory and how many cores this process may use: the machine's, or its container's share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

CGROUPS = Path("/proc/self/cgroup")

MOUNTED = Path("/sys/fs/cgroup")

SYSTEM = Path("/sys/devices/system/cpu")


def available_memory(cgroups: Path = CGROUPS, mounted: Path = MOUNTED) -> int:
    """Return the bytes of memory that this process and the others of its control group may have together.

    Args:
        cgroups: file that names this process's control groups, of version 1 or 2; without it there are none.
        mounted: folder of the control groups' files.
    """
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limits = [machine]
    for folder, unified in _folders("memory", cgroups, mounted):
        with suppress(OSError, ValueError):  # there is none, or it is "max"
            limits.append(int((folder / ("memory.max" if unified else "memory.limit_in_bytes")).read_text()))
    return min(limits)


def available_cores(cgroups: Path = CGROUPS, mounted: Path = MOUNTED, system: Path = SYSTEM) -> int:
    """Return how many cores this process and the others of its control group may use; threads of a core count once.

    Args:
        cgroups: see `available_memory`.
        mounted: see `available_memory`.
        system: folder that says which processors are threads of one core; without it each processor is a core.
    """
    count = os.cpu_count() or 1
    processors = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(count))
    cores = {_core(system / f"cpu{number}", number) for number in processors}
    quotas = [float(len(cores))]
    for folder, unified in _folders("cpu", cgroups, mounted):
        with suppress(OSError, ValueError):  # there is none, or it is "max"
            names = ("cpu.max",) if unified else ("cpu.cfs_quota_us", "cpu.cfs_period_us")
            quota, period = " ".join((folder / name).read_text() for name in names).split()
            if int(quota) > 0:
                quotas.append(int(quota) / int(period))
    return max(1, int(min(quotas)))


def _core(processor: Path, number: int) -> str:
    """Return a name of a processor's core."""
    try:
        return (processor / "topology" / "thread_siblings_list").read_text().strip()
    except OSError:
        return str(number)


def _folders(controller: str, cgroups: Path, mounted: Path) -> Iterator[tuple[Path, bool]]:
    """Yield the folders of the control groups and of their parents, and whether they are of version 2.

    In a container the mount itself is its group.
    """
    with suppress(OSError):
        for line in cgroups.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                places = [mounted, mounted / "unified"]
            elif controller in controllers.split(","):
                places = [mounted / controller, mounted / controllers]
            else:
                continue
            for top in places:
                group = top / path.lstrip("/")
                for folder in (group, *group.parents):
                    if folder.is_relative_to(top):
                        yield folder, not controllers
