"""The machine and the moment of a latency: versions, load, other work."""

from __future__ import annotations

from collections.abc import Mapping

UNPAUSED = "no"
"""The value of ``trainers_paused`` if a training of ours continued while a model was timed."""

ADDED = ("windows_measured_again", "involuntary_switches")
"""Entries that are counts, and are added."""


def worst(one: Mapping[str, str], other: Mapping[str, str]) -> dict[str, str]:
    """Return one environment for two timings: the earlier start, the later end, the greater disturbance.

    Other values that differ are both kept.

    >>> worst({"load_before": "9.5", "trainers_paused": "no"}, {"load_before": "10.2", "trainers_paused": "yes"})
    {'load_before': '10.2', 'trainers_paused': 'no'}
    """
    together = {**one, **other}
    for name in one.keys() & other.keys():
        values = one[name], other[name]
        if name in ("started", "trainers_paused"):  # "no" is before "yes"
            together[name] = min(values)
        elif name == "finished":
            together[name] = max(values)
        elif name in ADDED:
            together[name] = str(sum(map(int, values)))
        elif name in ("load_before", "load_after", "nice"):
            together[name] = max(values, key=float)
        elif values[1] not in values[0].split(" | "):
            together[name] = " | ".join(values)
        else:
            together[name] = values[0]
    return together
