"""The examples and the sources in docstrings."""

from __future__ import annotations

import ast
import doctest
import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import autocompress

ROOT = Path(__file__).parents[1]
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(autocompress.__path__, "autocompress.")
    if not module.name.startswith("autocompress.typings") and not module.name.endswith("__main__")
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name: str) -> None:
    """Every example of a module gives what it says."""
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0


def test_every_module_is_visited() -> None:
    """The walk reaches the folders and what lies below them."""
    assert {"autocompress.errors", "autocompress.spaces.candidate", "autocompress.evaluators.runtimes.fake"} <= {
        *MODULES
    }


def test_every_technique_has_its_paper() -> None:
    """Each author that the code names as the source of a technique is on the pages on techniques too."""
    author = re.compile(r"(?:De )?[A-Z]\w+(?= et\s+al\.|\s+and\s+[A-Z]\w+, [A-Z])")
    code = {name for path in (ROOT / "compressors").rglob("*.py") for name in author.findall(path.read_text())}
    pages = "".join((ROOT / "docs" / name).read_text() for name in ("techniques.md", "acz.md"))
    assert len(code) >= 20
    assert [name for name in sorted(code) if name not in pages] == []


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
ROOMS = sorted(path.parent.name for path in ROOT.glob("*/__init__.py"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.name))
def test_files_that_a_page_names_exist(page: Path) -> None:
    """Every path of the repository in backticks is there."""
    folders = "|".join([*ROOMS, "bench", "docs", "scripts", "tests", "typings"])
    named = re.findall(rf"`((?:{folders})/[\w*./-]*)", page.read_text())
    assert [name for name in named if not any(ROOT.glob(name.rstrip("/")))] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.name))
def test_links_between_files_lead_somewhere(page: Path) -> None:
    """Every link to another file of the repository finds it; the site's reference is made when it is built."""
    named = re.findall(r"\]\((?!https?:|#|reference/)([^)#\s]+)", page.read_text())
    assert [name for name in named if not (page.parent / name).exists()] == []


def test_architecture_has_every_room() -> None:
    """The table of the rooms names each folder of the package, and each file at its top."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    table = text[text.index("| room |") : text.index("Beside the package")]
    assert {f"{name}/" for name in ROOMS} <= {*re.findall(r"`([\w/.]+)`", table)}


def literals(path: Path) -> Iterator[str]:
    """Yield the strings of a file, with … in the place of what a value fills in."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_messages_of_the_troubleshooting_page_exist() -> None:
    """Each message in a heading of that page is one that the package prints."""
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    named = re.findall(r"^### `(.+)`$", page, flags=re.MULTILINE)
    assert len(named) > 20
    files = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]
    printed = "\n".join(text for path in files for text in literals(path))
    assert [message for message in named if message not in printed] == []
