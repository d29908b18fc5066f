"""Stores a latency's clock readings apart from it, so that a study of thousands of trials reads only their statistics.

A window without its readings holds their percentile as its only reading, so that every statistic stays what it was.
"""

from __future__ import annotations

import json
import zlib
from base64 import b85decode, b85encode
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from ..compressors.compact.acz import inflated
from .measurement import Infeasible, Latency, Measurements, Outcome, Window, quantile

Kept = TypeVar("Kept", Measurements, Infeasible, Outcome)

LONGEST = 64 << 20
"""Bytes of text that clock readings may have; a careful measurement's have some hundred thousand."""


def thinned(outcome: Kept) -> Kept:
    """Return an outcome without its readings; all that is derived from them is the same."""
    return _with_latencies(
        outcome, lambda latency: replace(latency, windows=tuple(map(_thin(latency), latency.windows)))
    )


def packed(outcome: Outcome) -> str:
    """Return the readings of an outcome as text, compressed; empty where there is one a window."""
    windows = [latency.windows for latency in _latencies(outcome)]
    if all(len(w.candidate_ns) == len(w.baseline_ns) == 1 for each in windows for w in each):
        return ""
    readings = [[(w.baseline_ns, w.candidate_ns) for w in each] for each in windows]
    return b85encode(zlib.compress(json.dumps(readings, separators=(",", ":")).encode())).decode()


def unpacked(outcome: Kept, text: str) -> Kept:
    """Return an outcome with its readings; `thinned` and `packed` are what it came from."""
    if not text:
        return outcome
    readings = iter(json.loads(inflated(b85decode(text), LONGEST)))

    def whole(latency: Latency) -> Latency:
        windows = zip(latency.windows, next(readings), strict=True)
        return replace(
            latency,
            windows=tuple(
                replace(window, baseline_ns=tuple(baseline), candidate_ns=tuple(candidate), timed=0)
                for window, (baseline, candidate) in windows
            ),
        )

    return _with_latencies(outcome, whole)


def _thin(latency: Latency) -> Callable[[Window], Window]:
    def thin(window: Window) -> Window:
        if len(window.candidate_ns) == len(window.baseline_ns) == 1:
            return window
        baseline, candidate = (quantile(ns, latency.percentile) for ns in (window.baseline_ns, window.candidate_ns))
        return replace(window, baseline_ns=(baseline,), candidate_ns=(candidate,), timed=len(window.candidate_ns))

    return thin


def _latencies(outcome: Outcome) -> list[Latency]:
    if isinstance(outcome, Infeasible):
        return [] if outcome.latency is None else [outcome.latency]
    return [each.latency for each in outcome]


def _with_latencies(outcome: Kept, change: Callable[[Latency], Latency]) -> Kept:
    """Return an outcome whose latencies are changed, in the order of `_latencies`."""
    if isinstance(outcome, Infeasible):
        return outcome if outcome.latency is None else replace(outcome, latency=change(outcome.latency))
    return tuple(replace(each, latency=change(each.latency)) for each in outcome)
