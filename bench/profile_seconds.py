"""Seconds of each stage before the first trial, and how two profiles of one network compare.

    python bench/profile_seconds.py [STUDY] [--data-dir DIR] [--out FILE] [--quick]
    python bench/profile_seconds.py --compare BEFORE AFTER

A study is prepared from nothing, in a temporary directory. Each line of progress begins a stage; numbers are left out,
so that the lines of one stage add up. Beside the wall time stands the CPU time of this process and of those that it has
waited for, which a busy machine disturbs less. ``torchvision:NAME`` is a network with random weights on random images.

Two of the files that ``--out`` keeps are compared: the rank correlation of the sensitivities and of the layers' costs,
the levels that only one of them drops, and the differences of the levels' costs.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import torch
from common.environment import describe
from common.families_networks import FAMILIES, images_of
from scipy.stats import spearmanr

from autocompress.evaluators import runtimes
from autocompress.profiles.profile import Profile
from autocompress.search.options import Options
from autocompress.search.prepare import PROFILE, prepare
from autocompress.search.progress import SearchState, Silent
from autocompress.search.workers.capacity import of_run
from autocompress.storage.run_directory import RunDirectory
from autocompress.studies import loading
from autocompress.studies.task import Task
from autocompress.studies.validate import validate


class Stages(Silent):
    """Adds up the seconds between two lines of progress, for the earlier one."""

    def __init__(self) -> None:
        self.wall: defaultdict[str, float] = defaultdict(float)
        self.cpu: defaultdict[str, float] = defaultdict(float)
        self._stage, self._since = "", (time.monotonic(), cpu_s())

    def notice(self, what: str | SearchState) -> None:
        """End a stage, and begin the next."""
        now, before = (time.monotonic(), cpu_s()), self._since
        self.wall[self._stage] += now[0] - before[0]
        self.cpu[self._stage] += now[1] - before[1]
        self._stage, self._since = re.sub(r" ?\(?[0-9].*", "", str(what)), now

    def milestone(self, text: str) -> None:
        """Print it."""
        print(f"  {text}", flush=True)


def cpu_s() -> float:
    """Return the CPU time of this process and of those that have ended before it."""
    own, others = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + others.ru_utime + others.ru_stime


def main() -> None:
    """Print the stages, or the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", nargs="?", default="digits")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--out", type=Path, help="keep the profile in this file")
    parser.add_argument("--compare", type=Path, nargs=2, metavar=("BEFORE", "AFTER"))
    parser.add_argument("--quick", action="store_true", help="a tiny network with random weights: a smoke test")
    asked = parser.parse_args()
    if asked.compare:
        compare(*(Profile.from_dict(json.loads(path.read_text())["profile"]) for path in asked.compare))
        return
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(describe(), flush=True)
    stages = Stages()
    found = prepared(FAMILIES["residual"]() if asked.quick else task_of(asked.study, asked.data_dir), stages)
    print(f"\n{'':64}{'wall':>8}{'cpu':>8}")
    for name, seconds in stages.wall.items():
        print(f"{name or 'checking the study':64}{seconds:>8.1f}{stages.cpu[name]:>8.1f}")
    print(f"{'all':64}{sum(stages.wall.values()):>8.1f}{sum(stages.cpu.values()):>8.1f}")
    if asked.out:
        asked.out.write_text(found)


def task_of(study: str, data_dir: Path | None) -> Task:
    """Return a study's task, checked; or that of a network of torchvision on random images."""
    if study.startswith("torchvision:"):
        import torchvision

        return images_of(torchvision.models.get_model(study.partition(":")[2], weights=None))
    return validate(loading.load(study, data_dir=data_dir)).task


def prepared(task: Task, stages: Stages) -> str:
    """Prepare a search; return what it keeps of the profile."""
    with tempfile.TemporaryDirectory() as scratch:
        options = Options(target_ms=1.0, out=Path(scratch, "run"))
        options = replace(options, workers=of_run(task, options).workers)
        stages.notice("preparing")
        with closing(RunDirectory(options.out, {"study": "bench"}, {})) as rundir:
            prepare(task, [runtimes.load(name) for name in options.runtimes], rundir, options, stages)
        stages.notice("")
        return (options.out / PROFILE).read_text()


def compare(before: Profile, after: Profile) -> None:
    """Print how far apart two profiles of one network are."""
    print(f"{'':34}{'values':>8}{'rank correlation':>18}{'median difference':>19}")
    for what, pairs in (*damages(before, after), *costs(before, after)):
        ranks = spearmanr(*zip(*pairs, strict=True)).statistic if len(pairs) > 2 else float("nan")
        apart = statistics.median(abs(one - other) / one for one, other in pairs if one) if pairs else float("nan")
        print(f"{what:34}{len(pairs):>8}{ranks:>18.3f}{apart:>18.1%}")
    ours, theirs = ({(each.name, each.level) for each in found.dropped} for found in (before, after))
    print(f"dropped by both: {len(ours & theirs)}")
    for who, only in (("before", ours - theirs), ("after", theirs - ours)):
        print(f"dropped {who} alone: {', '.join(f'{name}={level}' for name, level in sorted(only, key=str)) or 'none'}")
    print(f"floor: {before.floor_ms} and {after.floor_ms} ms; timed networks: {len(before.timed)}, {len(after.timed)}")


Pairs = list[tuple[float, float]]


def damages(before: Profile, after: Profile) -> Iterator[tuple[str, Pairs]]:
    """Yield for each axis the middle damages of the choices that both profiles have."""
    found: defaultdict[str, Pairs] = defaultdict(list)
    for name in before.damage.keys() & after.damage.keys():
        one, other = before.damage[name], after.damage[name]
        if len(one) == len(other) and float("inf") not in (*one, *other):
            found[f"damage, {name.partition(':')[0]}"].append((one[len(one) // 2], other[len(one) // 2]))
    yield from sorted(found.items())


def costs(before: Profile, after: Profile) -> Iterator[tuple[str, Pairs]]:
    """Yield the layers' milliseconds, and for each axis the factors of levels, of layers that take time."""
    one, other = before.costs, after.costs
    layers = one.layer_ms.keys() & other.layer_ms.keys()
    yield "milliseconds of layers", [(one.layer_ms[name], other.layer_ms[name]) for name in sorted(layers)]
    for axis in one.factors.keys() & other.factors.keys():
        pairs = [
            (factor, found)
            for name, levels in one.factors[axis].items()
            for level, factor in levels.items()
            if one.layer_ms[name] > 0.01 * one.total_ms
            if (found := other.factors[axis].get(name, {}).get(level)) is not None
        ]
        yield f"factors, {axis}", pairs


if __name__ == "__main__":
    main()
