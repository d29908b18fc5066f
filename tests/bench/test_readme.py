"""README's sections that a benchmark writes, and that every benchmark is listed and takes `--quick`."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()

REPORT = {
    "study": {"name": "digits"},
    "search": {"trials": 24},
    "environment": {"cores": "2", "cpu": "AMD EPYC", "onnxruntime": "1.32.0"},
}


def test_both_sections_are_written_and_the_rest_stays(bench: dict[str, ModuleType]) -> None:
    """A run's table, conclusion, time and machine come into README between their comments, and only there."""
    table = "model ms\n→ 00020 0.26\n\n→ 00020 meets 5 ms: 14.78× faster.\n  All models: runs/digits/pareto.csv\n"
    run = bench["readme"].Ran("autocompress --target-latency 5ms", table, 190.0, REPORT, "2 workers × 1 thread")
    written = README
    for name, content in run.sections().items():
        written = bench["readme"].replaced(written, name, content)
    assert f"```text\n{table.rstrip()}\n```" in written
    assert "(docs/digits.png)" in written
    assert "24 trials in 3 min 10 s with 2 workers × 1 thread" in written
    assert "\n00020 meets 5 ms: 14.78× faster.\n" in written
    sections = re.compile(r"(?<=-->\n).*?(?=<!-- end -->)", re.DOTALL)
    outside = [sections.sub("", text) for text in (README, written)]
    assert outside[0] == outside[1]


def test_a_readme_without_a_section_is_refused(bench: dict[str, ModuleType]) -> None:
    """What is written must have its place."""
    with pytest.raises(SystemExit, match="must have a section"):
        bench["readme"].replaced("# nothing\n", "table", "")


def test_the_command_is_the_first_one_of_the_page(bench: dict[str, ModuleType]) -> None:
    """What is run is what a newcomer types."""
    assert bench["readme"].first_command(README).startswith("autocompress --target-latency ")


@pytest.mark.parametrize("path", sorted((ROOT / "bench").glob("*.py")), ids=lambda path: path.stem)
def test_every_benchmark_is_listed_and_has_a_smoke_run(path: Path) -> None:
    """`scripts/benches` runs each with ``--quick``, and CONTRIBUTING says in a line what it shows."""
    assert '"--quick"' in path.read_text()
    assert f"| `{path.stem}` |" in (ROOT / "CONTRIBUTING.md").read_text()
