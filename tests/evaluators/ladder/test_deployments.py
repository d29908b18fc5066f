"""A candidate is timed in all its deployments, on all devices at once; some are left out that cost too much."""

from __future__ import annotations

import threading
import time

import pytest

from autocompress.errors import InfeasibleError
from autocompress.evaluators.ladder.deployments import within_limit
from autocompress.evaluators.measurement import Deployment
from autocompress.evaluators.meters.parallel import at_once

GPU, EDGE = "gpu0", "edge"


def test_what_costs_too_much_on_one_device_goes_on_for_the_others() -> None:
    """Too much on every device is too much; a runtime that is not needed is left out."""
    costs = {
        Deployment("ort", GPU): 1.0,
        Deployment("vino", GPU): 9.0,
        Deployment("ort", EDGE): 7.0,
        Deployment("vino", EDGE): 8.0,
    }
    assert within_limit(costs, 5.0) == (Deployment("ort", GPU), Deployment("ort", EDGE))
    assert within_limit(costs, 9.0) == tuple(costs)
    assert within_limit(costs, 0.5) == ()


def test_devices_are_waited_for_at_the_same_time() -> None:
    """Every call is under way before any of them ends; the answers are in the calls' order."""
    together = threading.Barrier(3, timeout=20)

    def slow(number: int) -> int:
        together.wait()
        time.sleep(0.1 * (3 - number))
        return number

    assert at_once([lambda n=n: slow(n) for n in range(3)]) == [0, 1, 2]  # type: ignore[misc]


def test_what_goes_wrong_on_one_device_is_raised() -> None:
    """An error of a call is one of the caller's."""

    def fail() -> int:
        raise InfeasibleError("it crashed", rung="latency")

    for calls in ([fail], [fail, lambda: 1]):
        with pytest.raises(InfeasibleError, match="it crashed"):
            at_once(calls)
