"""Settings that all tests of compressors share."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def always_one_thread(one_thread: None) -> None:
    """Run torch on one thread, from the same seed in every test."""
