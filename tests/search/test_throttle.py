"""An action that is repeated takes a small share of the time."""

from __future__ import annotations

from autocompress.search.throttle import Throttled


def test_now_and_then_takes_a_hundredth_of_the_time() -> None:
    """It waits for its turn, and the longer it took the longer it waits for the next."""
    now, calls = [0.0], []

    def action() -> None:
        calls.append(now[0])
        now[0] += 3.0

    act = Throttled(action, every_s=10.0, clock=lambda: now[0])
    while now[0] < 1000:
        act()
        now[0] += 1.0
    assert calls == [10.0, 313.0, 616.0, 919.0]
