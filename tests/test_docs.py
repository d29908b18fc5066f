"""The examples and the sources in docstrings."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import autocompress

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
    """Whoever is named as the source of a technique in its code is named in the pages on techniques too."""
    root = Path(__file__).parents[1]
    author = re.compile(r"(?:De )?[A-Z]\w+(?= et\s+al\.|\s+and\s+[A-Z]\w+, [A-Z])")
    code = {name for path in (root / "compressors").rglob("*.py") for name in author.findall(path.read_text())}
    pages = "".join((root / "docs" / name).read_text() for name in ("techniques.md", "acz.md"))
    assert len(code) >= 20
    assert [name for name in sorted(code) if name not in pages] == []
