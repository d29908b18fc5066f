"""How much memory this process may have: the machine's, or what a container or a service was given of it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

CGROUPS = Path("/proc/self/cgroup")

MOUNTED = Path("/sys/fs/cgroup")


def available_memory(cgroups: Path = CGROUPS, mounted: Path = MOUNTED) -> int:
    """Return the bytes of memory that this process and its like may have together.

    Args:
        cgroups: names the groups of this process, of version 1 or 2; without it there are none.
        mounted: where the groups' files are.
    """
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([machine, *_limits(cgroups, mounted)])


def _limits(cgroups: Path, mounted: Path) -> Iterator[int]:
    """Yield the limits of the groups and of those above them; in a container the mount itself is its group."""
    with suppress(OSError):
        for line in cgroups.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                places, name = [mounted, mounted / "unified"], "memory.max"
            elif "memory" in controllers.split(","):
                places, name = [mounted / "memory", mounted / controllers], "memory.limit_in_bytes"
            else:
                continue
            for top in places:
                group = top / path.lstrip("/")
                for folder in (group, *group.parents):
                    if folder.is_relative_to(top):
                        with suppress(OSError, ValueError):  # there is none, or it is "max"
                            yield int((folder / name).read_text())
