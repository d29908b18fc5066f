"""Caveats of a report: reasons not to trust a number, or to expect less than it seems, one sentence each."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from ..pareto.front import ParetoFront
from ..pareto.model import BASELINE, Model
from ..studies.metric_units import SHARE, change_shown
from .rows import ExampleCounts

WIDE = 0.1
"""An interval is wide if its half-width, as a share of its middle, is above this."""

SPREAD = 0.1
"""Largest spread of the baseline's milliseconds, as a share of them, without a caveat."""

DROP = 0.02
"""Largest advantage of validation over test data without a caveat; relative for a metric that is not a share."""

FEW = 1000
"""Below this many examples, an accuracy's interval is wide compared with the cost of compression."""


def caveats(front: ParetoFront, data: Mapping[str, Any], scored: ExampleCounts) -> list[str]:
    """Return what a reader must know before using a report's numbers, the most important first."""
    found = (_state(front, data), _accuracy(front), _models(front), _machine(front, data), _examples(scored))
    return list(dict.fromkeys(doubt for each in found for doubt in each))


def _state(front: ParetoFront, data: Mapping[str, Any]) -> Iterator[str]:
    if data["state"] != "finished":
        unfinished = {"running": "The run has not ended", "interrupted": "The run was interrupted"}[data["state"]]
        yield f"{unfinished}: this report has the results found by the time it was written."
    best = front.recommended
    if best is not None and best.measurement.rung != "final":
        yield (
            f"Model {best.id} was only trained and timed as in a search. The final evaluation trains it longer, "
            "scores it on the test data and measures it carefully; its numbers may change."
        )
    failed = sum(end["trials"] for end in data["search"]["ends"] if end["end"] == "failed")
    total = data["search"]["trials"]
    if total and failed / total > 0.2:
        yield f"{failed} of {total} trials could not be built, trained or measured; the section on the search says why."


def _machine(front: ParetoFront, data: Mapping[str, Any]) -> Iterator[str]:
    network = data["network"]
    if network is not None and network["baseline_ms"] > 0:
        low, middle, high = (network[name] for name in ("baseline_low_ms", "baseline_ms", "baseline_high_ms"))
        spread = (high - low) / 2 / middle
        if spread > SPREAD:
            yield (
                f"The machine's speed varies: the unchanged network took between {low:.2f} and {high:.2f} ms during "
                f"calibration, so every claim in milliseconds is ±{spread:.0%} for that reason alone. Ratios do not "
                f"vary with it: {front.target_ms:g} ms is {front.target_ms / middle:.3f} of that network's time."
            )


def _accuracy(front: ParetoFront) -> Iterator[str]:
    best = front.recommended
    if best is None:
        return
    measured, base = best.measurement, front.baseline.measurement
    if measured.rung == "final" and measured.test_accuracy is None:
        yield "The study has no test data: its scores are on the validation data, which the search looked at."
    if measured.test_accuracy is not None and base.test_accuracy is not None:
        drop = (measured.accuracy - base.accuracy) - (measured.test_accuracy - base.test_accuracy)
        if drop > DROP * (1.0 if front.unit == SHARE else abs(base.accuracy)):
            lost = change_shown(drop, front.unit).removeprefix("+")
            yield (
                f"Model {best.id} lost {lost} more on the test data than on the validation data, which the search "
                "looked at. Trust the test data."
            )


def _examples(scored: ExampleCounts) -> Iterator[str]:
    if scored.validation is not None and scored.validation < FEW:
        yield (
            f"Accuracies are shares of {scored.validation} validation examples"
            f"{'' if scored.test is None else f' and {scored.test} test examples'}: differences of less than a point "
            "or two are within chance."
        )


def _models(front: ParetoFront) -> Iterator[str]:
    shown = {model.id: model for each in (front, *front.portfolio) for model in (each.baseline, *each.models)}
    named: defaultdict[str, list[str]] = defaultdict(list)
    for model in shown.values():
        for warning in _of(model):
            named[warning].append(model.id)
    for warning, names in named.items():
        yield f"{_subject(names)}: {warning}."
    best = front.recommended
    tied = [name for name in front.tied(best) if name != best.id] if best else []
    if best and tied:
        yield f"The latencies of {best.id} and {', '.join(tied)} are tied: their intervals overlap."


def _subject(names: list[str]) -> str:
    """Return the subject of a sentence about several models.

    >>> _subject(["baseline"]), _subject(["00012"]), _subject(["baseline", "00012", "00013"])
    ('The unchanged network', 'Model 00012', 'Models 00012, 00013 and the unchanged network')
    """
    models = [name for name in names if name != BASELINE]
    if not models:
        return "The unchanged network"
    others = " and the unchanged network" if len(models) < len(names) else ""
    return f"Model{'s' * (len(models) > 1)} {', '.join(models)}{others}"


def _of(model: Model) -> Iterator[str]:
    yield from model.measurement.warnings
    latency = model.measurement.latency
    warned = model.measurement.warnings
    yield from (doubt for doubt in latency.doubts if not any(warning.startswith(doubt) for warning in warned))
    if not math.isfinite(latency.half_width):
        yield "the uncertainty of the latency is unknown"
    elif latency.ratio and latency.half_width / latency.ratio > WIDE:
        yield f"the latency is only known to ±{latency.half_width / latency.ratio:.0%}"
