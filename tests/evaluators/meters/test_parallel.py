"""Calls at the same time."""

from __future__ import annotations

import threading

import pytest

from autocompress.evaluators.meters.parallel import begun


def test_a_call_goes_on_aside_until_its_result_is_wanted() -> None:
    """Both sides wait for each other, and the result is the call's."""
    here, there = threading.Event(), threading.Event()

    def call() -> int:
        there.set()
        return 7 if here.wait(20) else 0

    result = begun(call)
    assert there.wait(20)
    here.set()
    assert result() == 7


def test_an_error_is_raised_where_the_result_is_wanted() -> None:
    """It is the call's own error."""

    def call() -> int:
        raise LookupError("lost")

    result = begun(call)
    with pytest.raises(LookupError, match="lost"):
        result()
