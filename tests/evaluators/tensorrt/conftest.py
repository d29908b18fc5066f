"""What the tests on the fake driver share."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator

import pytest

from autocompress.evaluators.tensorrt.log import logger

from .driver import FakeDriver


@pytest.fixture(autouse=True)
def _forgotten_loggers() -> Iterator[None]:
    """Let go of the fakes: a logger is kept for as long as its process lives, with its whole module."""
    yield
    logger.cache_clear()


@pytest.fixture
def driver() -> Iterator[FakeDriver]:
    """Return the fake driver; whatever a test did, nothing is left on it but the shared context."""
    found = FakeDriver()
    yield found
    found.fail("", 0)
    if set(found.live()) - {"contexts"}:
        gc.collect()  # errors that were caught hold what was alive when they were raised
    left = found.live()
    assert left.pop("contexts", 0) <= 1
    assert left == {}


@pytest.fixture
def binding(monkeypatch: pytest.MonkeyPatch) -> str:
    """Return by which package the GPU is used: the one that the environment names."""
    name = os.environ["AUTOCOMPRESS_TEST_BINDING"]
    if name != "pycuda":
        monkeypatch.setitem(sys.modules, "pycuda", None)  # as if it were not installed
    return name
