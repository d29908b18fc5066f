"""The check of the prose finds what it is there for, and leaves code, tables and addresses alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROSE = Path(__file__).parents[1] / "scripts" / "prose"


def prose(*files: Path) -> tuple[int, str]:
    """Return the exit code of the check, and what it prints."""
    done = subprocess.run([sys.executable, PROSE, *files], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_it_finds_a_bad_phrase_and_a_long_line(tmp_path: Path) -> None:
    """A phrase of the list and a line of two sentences and over 100 columns are reported with their line."""
    page = tmp_path / "page.md"
    page.write_text(f"# Title\n\nThe search goes on.\n\nA sentence. Another {'word ' * 20}.\n")
    code, printed = prose(page)
    assert code == 1
    assert printed.splitlines() == [
        f"{page}:3: 'goes on': write resume, continue",
        f"{page}:5: 121 columns and more than one sentence",
    ]


def test_it_reads_docstrings_help_texts_and_messages(tmp_path: Path) -> None:
    """Strings of a Python file are read, names and comments are not."""
    source = tmp_path / "source.py"
    source.write_text('"""One.\n\nIt trains shortly."""\n\nanew = 1  # anew\nraise ValueError(f"{anew} is told")\n')
    code, printed = prose(source)
    assert code == 1
    assert printed.splitlines() == [
        f"{source}:3: 'shortly': write briefly",
        f"{source}:6: 'is told': write reported, printed",
    ]


def test_it_leaves_the_rest_alone(tmp_path: Path) -> None:
    """One long sentence, a table, code, and the address of a link may be wide."""
    wide = "word " * 30
    page = tmp_path / "page.md"
    page.write_text(
        f"{wide}.\n\n| {wide}. Here. |\n|---|\n\n```text\nIt goes on. {wide}\n```\n\n"
        f"    goes on. {wide}. And.\n\nShort [link](https://example.org/{'x' * 80}). And more.\n"
    )
    assert prose(page) == (0, "")
