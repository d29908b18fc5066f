"""What comes of tasks as strangers may bring them: a front, or a refusal before anything was measured.

    python bench/fuzz.py [--tasks 200] [--seed 0] [--quick]

Each task of `fuzz_tasks` goes through a whole run in this process, with a runtime that needs no clock. It ends in a
front, or in an error that a user sees, with nothing left behind; anything else is shown with its recipe and its
traceback, and is the exit code. --quick is a smoke test: eight tasks.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

from common.fuzz_tasks import Recipe, UnmakeableError, made, recipes
from hypothesis import HealthCheck, Phase, given, seed, settings

from autocompress import UsageError, compress


def outcome(recipe: Recipe, folder: Path) -> str:
    """Return how a run of a recipe's task ended."""
    try:
        task = made(recipe)
    except UnmakeableError:
        return "cannot be made"
    out = folder / "runs" / "it"
    try:
        front = compress(task, "50ms", trials=4, workers=0, runtimes="fake", out=out)
    except UsageError:
        return "refused, with something left behind" if out.parent.exists() else "refused"
    finished = [model for model in front.models if model.role != "baseline"]
    return "a front" if finished else "a front of the unchanged network alone"


def main() -> int:
    """Print how many tasks ended how, and those that ended otherwise than they may."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    ends: Counter[str] = Counter()
    seconds: Counter[str] = Counter()

    @seed(asked.seed)
    @settings(
        max_examples=8 if asked.quick else asked.tasks,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(recipes)
    def each(recipe: Recipe) -> None:
        begun = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            try:
                end = outcome(recipe, Path(folder))
            except Exception as error:  # what is looked for
                end = f"raised {type(error).__name__}"
                traceback.print_exc()
        if end.startswith("raised") or "left behind" in end:
            print(f"{end}: {recipe}", flush=True)
        ends[end] += 1
        seconds[end] += round(time.monotonic() - begun)

    each()
    for end, count in ends.most_common():
        print(f"{count:5}  {end} ({seconds[end]} s)")
    return int(any(end.startswith("raised") or "left behind" in end for end in ends))


if __name__ == "__main__":
    sys.exit(main())
