"""When a latency is known surely enough."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from autocompress.evaluators.measurement import Latency, Window
from autocompress.evaluators.stake import Stake

RATIOS = st.lists(st.floats(0.02, 2.0), min_size=2, max_size=6)
PROCESSES = st.integers(1, 3)
SPREADS = st.floats(0.0, 0.3)


def latency(ratios: list[float], processes: int, spread: float) -> Latency:
    """Return a measurement with these ratios to a baseline of 10 ms."""
    windows = tuple(Window(baseline_ns=(1e6,), candidate_ns=(ratio * 1e6,)) for ratio in ratios)
    return Latency(windows=windows, baseline_ms=10.0, processes=processes, baseline_spread=spread)


@given(RATIOS, PROCESSES, SPREADS, st.floats(0.0, 1.0))
def test_what_the_interval_holds_is_never_clear(
    ratios: list[float], processes: int, spread: float, where: float
) -> None:
    """A target within a candidate's interval leaves open whether it is met."""
    found = latency(ratios, processes, spread)
    target_ms = found.least_ms + where * (found.most_ms - found.least_ms)
    if found.least_ms <= target_ms < found.most_ms:
        assert not Stake(target_ms=target_ms).placed(found)


@given(RATIOS, PROCESSES, SPREADS, st.floats(0.01, 50.0))
def test_what_is_clear_is_inside_or_outside(
    ratios: list[float], processes: int, spread: float, target_ms: float
) -> None:
    """A candidate that is placed meets the target with all that it claims, or misses it with all of its interval."""
    found = latency(ratios, processes, spread)
    if Stake(target_ms=target_ms).placed(found):
        assert (found.high_ms <= target_ms) != (found.least_ms > target_ms)


@given(RATIOS, RATIOS, PROCESSES, PROCESSES, st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.booleans())
def test_what_is_tied_with_the_front_is_not_behind_it(
    ours: list[float], theirs: list[float], n: int, m: int, accuracy: float, better: float, smaller: bool
) -> None:
    """A model whose interval overlaps the rival's, which is as accurate, or which is smaller, may be on the front."""
    found, rival = latency(ours, n, 0.0), latency(theirs, m, 0.0)
    stake = Stake(target_ms=1e9, rivals=((better, rival.most_ms, 1000),))
    behind = stake.behind(accuracy, found, 900 if smaller else 1000)
    if found.tied(rival) or accuracy >= better or smaller:
        assert not behind
    elif found.median_ms > rival.median_ms:
        assert behind


@given(RATIOS, PROCESSES)
def test_one_more_process_makes_surer(ratios: list[float], processes: int) -> None:
    """With the same windows the interval is narrower, so that what was open may become clear, and not the reverse."""
    one = latency(ratios, processes, 0.0)
    more = replace(one, processes=processes + 1)
    assert (one.least_ms, more.most_ms) <= (more.least_ms, one.most_ms)
    stake = Stake(target_ms=10.0)
    assert stake.placed(more) or not stake.placed(one)
