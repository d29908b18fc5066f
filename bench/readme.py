"""Makes README's table, pictures and figures from one run of the command that README begins with.

    python bench/readme.py            the run, then README.md and docs/*.png; some minutes on a quiet machine
    python bench/readme.py --quick    a run of two trials, everything into a temporary folder: a smoke test

The run begins in an empty folder. Its standard output is the table, its `pareto.png` the picture, and its
`report.html` is what the screenshots show (scripts/screenshots.py, which needs chromium). README has two sections that
are written here, between comments of HTML; what is outside stays.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from common.environment import describe, instructions

from autocompress.search.progress import duration

ROOT = Path(__file__).resolve().parents[1]

COMMAND = re.compile(r"^    (?:scripts/run|autocompress) (--target-latency .+)$", re.MULTILINE)
"""README's first command, in a block of its own; `scripts/run` would set up the environment before."""

WORKERS = re.compile(r"\d+ workers? × \d+ threads?")
"""What the command says of its workers when it begins."""

PICTURE = "docs/digits.png"

QUICK = ("--trials", "2", "--workers", "0", "--epochs", "0.1", "--final-epochs", "0.1")


@dataclass(frozen=True)
class Ran:
    """A run of README's command: what it printed, how long it took, what its report has, and its workers in words."""

    command: str
    printed: str
    seconds: float
    report: dict[str, Any]
    workers: str = ""

    @property
    def name(self) -> str:
        """The study."""
        return str(self.report["study"]["name"])

    @property
    def took(self) -> str:
        """How many trials in what time, with how many workers."""
        by = f" with {self.workers}" if self.workers else ""
        return f"{self.report['search']['trials']} trials in {duration(self.seconds)}{by}"

    @property
    def conclusion(self) -> str:
        """The sentence below the table, about the recommended model."""
        return self.printed.partition("\n\n")[2].splitlines()[0].removeprefix("→ ")

    def sections(self) -> dict[str, str]:
        """Return README's sections by their names."""
        environment = self.report["environment"]
        return {
            "picture": f"![The Pareto front of the {self.name} study]({PICTURE})\n\n"
            f"`{self.command}` on {environment['cores']} cores of an {environment['cpu']}: {self.took}.\n"
            f"{self.conclusion}\n",
            "table": f"```text\n{self.printed.strip()}\n```\n\n"
            f"This run had {self.took}.\n"
            f"It ran on {environment['cores']} cores of an {environment['cpu']} with {instructions()}, "
            f"with torch {version('torch')} and ONNX Runtime {environment['onnxruntime']}.\n"
            "`python bench/readme.py` makes the table and the pictures on this page again.\n",
        }


def first_command(readme: str) -> str:
    """Return the first command of ours that README gives."""
    found = COMMAND.search(readme)
    if found is None:
        sys.exit("README.md must have a line `    autocompress --target-latency …`; it has none.")
    return f"autocompress {found[1]}"


def ran(command: str, folder: Path, more: Sequence[str] = ()) -> tuple[Ran, Path]:
    """Type a command in an empty folder; return what came of it, and the run directory."""
    program, *words = shlex.split(command)
    began, progress = time.monotonic(), ""
    with (
        tempfile.TemporaryFile("w+") as table,
        subprocess.Popen(
            [Path(sys.executable).with_name(program), *words, *more],
            cwd=folder,
            stdout=table,
            stderr=subprocess.PIPE,
            text=True,
        ) as running,
    ):
        assert running.stderr is not None
        for line in running.stderr:
            print(line, end="", file=sys.stderr, flush=True)
            progress += line
        code, seconds = running.wait(), time.monotonic() - began
        table.seek(0)
        printed = table.read()
    if code not in (0, 1):  # 1: nothing meets the target, which the table says
        sys.exit(f"`{command}` must end with a front; it ended with exit code {code}.")
    [report] = folder.glob("runs/*/report.json")
    workers = WORKERS.search(progress)
    return Ran(command, printed, seconds, json.loads(report.read_text()), workers[0] if workers else ""), report.parent


def replaced(readme: str, name: str, content: str) -> str:
    """Return README with another content of a section; all else stays."""
    begin, end = f"<!-- bench/readme.py: {name} -->\n", "<!-- end -->"
    before, found, rest = readme.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        sys.exit(f"README.md must have a section between {begin.strip()!r} and {end!r}; it has none.")
    return f"{before}{begin}{content}{end}{after}"


def main() -> None:
    """Run the command, then write README and the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, metavar="DIR", help="an empty folder for the run, which is kept")
    parser.add_argument("--quick", action="store_true", help="two trials, and nothing of this tree changes")
    asked = parser.parse_args()
    browser = any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome")))
    if not (browser or asked.quick):
        sys.exit("chromium must be on the PATH to take pictures; on Debian, apt-get install chromium.")
    readme = (ROOT / "README.md").read_text()
    print(describe(), flush=True)
    with tempfile.TemporaryDirectory(prefix="autocompress-") as scratch:
        tree = Path(scratch, "tree") if asked.quick else ROOT
        folder = asked.keep or Path(scratch, "run")
        for needed in (folder, tree / "docs"):
            needed.mkdir(parents=True, exist_ok=True)
        run, run_dir = ran(first_command(readme), folder, QUICK if asked.quick else ())
        for name, content in run.sections().items():
            print(f"\n{content}", flush=True)
            readme = replaced(readme, name, content)
        (tree / "README.md").write_text(readme)
        shutil.copyfile(run_dir / "pareto.png", tree / PICTURE)
        if browser:
            taken = (ROOT / "scripts/screenshots.py", run_dir, "--out", tree / "docs")
            subprocess.run([sys.executable, *map(str, taken)], check=True)
        else:
            print("no screenshots: chromium is not on the PATH")


if __name__ == "__main__":
    main()
