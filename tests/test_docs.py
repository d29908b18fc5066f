"""The examples in docstrings."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

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
