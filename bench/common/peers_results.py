"""The rows of a comparison with other tools: kept in a file, and summed up."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import geometric_mean

from common.peers_tools import TOOLS

from autocompress.evaluators.measurement import Infeasible, Measurement, representative
from autocompress.evaluators.outcome_json import from_json, to_json
from autocompress.pareto.objectives import front_hypervolume

UNCHANGED, OURS = "unchanged", "autocompress"

TOLERATED = (0.005, 0.01, 0.02, 0.04)
"""Test accuracies that a model may lose in the comparison of speed-ups."""


@dataclass(frozen=True)
class Row:
    """One point: who made it, what it is, how many seconds it took, what was measured or why nothing could be."""

    who: str
    what: str
    seconds: float
    outcome: Measurement | Infeasible

    def __str__(self) -> str:
        start = f"{self.who:13} {self.what:40}"
        measured = self.outcome
        if isinstance(measured, Infeasible):
            return f"{start} {measured.reason}"
        latency = measured.latency
        return (
            f"{start}{measured.accuracy:8.2%}{measured.test_accuracy or 0:8.2%}"
            f"{f'{latency.ratio:.3f} ±{latency.half_width:.3f}':>15}{latency.median_ms:8.2f}"
            f"{measured.size_bytes / 1e6:8.2f}{self.seconds:8.1f}"
        )


HEADER = f"{'':54}{'valid.':>8}{'test':>8}{'ratio':>15}{'ms':>8}{'MB':>8}{'s':>8}"


@dataclass
class Results:
    """All rows, and the seconds that each tool took in all."""

    study: str
    epochs: float
    environments: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, row: Row) -> None:
        """Keep a row, and print it."""
        self.rows.append(row)
        print(row, flush=True)

    def of(self, *names: str) -> list[Measurement]:
        """Return what was measured of some tools' models."""
        return [row.outcome for row in self.rows if row.who in names and isinstance(row.outcome, Measurement)]

    def alike(self, measured: Measurement) -> Measurement:
        """Return a measurement in milliseconds of the first row's baseline: a search calibrates its own again."""
        first = self.of(UNCHANGED)[0].latency
        latency = replace(measured.latency, baseline_ms=first.baseline_ms, baseline_spread=first.baseline_spread)
        return replace(measured, latency=latency)

    def write(self, path: Path | None) -> None:
        """Write everything as JSON, so that little is lost."""
        if path is not None:
            rows = [
                {
                    **vars(row),
                    "outcome": to_json(row.outcome if isinstance(row.outcome, Infeasible) else (row.outcome,)),
                }
                for row in self.rows
            ]
            path.write_text(json.dumps({**vars(self), "rows": rows}))

    def read(self, path: Path) -> None:
        """Add what an earlier run wrote.

        Raises:
            SystemExit: it is of another study, or of another training.
        """
        found = json.loads(path.read_text())
        for name in ("study", "epochs"):
            if found[name] != getattr(self, name):
                raise SystemExit(
                    f"--with needs a file of the same {name}, {getattr(self, name)}; {path} has {found[name]}"
                )
        known = {row.who for row in self.rows}
        rows = [Row(**{**row, "outcome": representative(from_json(row["outcome"]))}) for row in found["rows"]]
        self.rows += [row for row in rows if row.who not in known]
        self.rows = [
            replace(row, outcome=self.alike(row.outcome)) if isinstance(row.outcome, Measurement) else row
            for row in self.rows
        ]
        self.seconds = {**found["seconds"], **self.seconds}
        self.environments += found["environments"]


def summary(results: Results, target_ms: float) -> str:
    """Return for each tool, for all together and for ours the hypervolume and the best speed-ups."""
    (baseline,) = results.of(UNCHANGED)
    tools = [name for name in TOOLS if results.of(name)]
    columns = "".join(f"{f'−{100 * lost:g}':>8}" for lost in TOLERATED)
    lines = [
        f"{'':41}{'speed-up at so many points lost on test':>40}",
        f"{'':20}{'models':>8}{'hypervolume':>13}{'on test':>9}{columns}{'s':>8}",
    ]
    groups: dict[str, tuple[str, ...]] = {name: (name,) for name in tools}
    groups |= {"all of these": tuple(tools)} if tools else {}
    groups |= {OURS: (OURS,)} if results.of(OURS) else {}
    volumes, speeds = {}, {}
    for label, names in groups.items():
        models = results.of(*names)
        volumes[label] = [volume(models, baseline, target_ms, test=test) for test in (False, True)]
        speeds[label] = [speed_up(models, baseline, lost) for lost in TOLERATED]
        fast = "".join(f"{f'{speed:.2f}×' if speed else 'none':>8}" for speed in speeds[label])
        seconds = sum(results.seconds.get(name, 0.0) for name in names)
        lines.append(f"{label:20}{len(models):8}{volumes[label][0]:13.4f}{volumes[label][1]:9.4f}{fast}{seconds:8.0f}")
    if tools and OURS in groups:
        mine, theirs = [*volumes[OURS], *speeds[OURS]], [*volumes["all of these"], *speeds["all of these"]]
        shares = [one / other if other else None for one, other in zip(mine, theirs, strict=True)]
        told = ["–" if share is None else f"{share:.3f}" for share in shares]
        faster = [share for share in shares[2:] if share]
        mean = f"{geometric_mean(faster):.3f}" if len(faster) == len(TOLERATED) else "–"
        lines.append(
            f"ours / all of these: {told[0]}, on test {told[1]}; speed-ups {', '.join(told[2:])}, geometric mean {mean}"
        )
    return "\n".join(lines)


def speed_up(models: Sequence[Measurement], baseline: Measurement, lost: float) -> float:
    """Return the largest speed-up of a model that loses at most so much accuracy on test images; 0 without any."""
    least = on_test(baseline).accuracy - lost
    return max((1 / m.latency.ratio for m in models if on_test(m).accuracy >= least), default=0.0)


def on_test(measured: Measurement) -> Measurement:
    """Return a measurement whose accuracy is that on the test images."""
    assert measured.test_accuracy is not None
    return replace(measured, accuracy=measured.test_accuracy)


def volume(models: Sequence[Measurement], baseline: Measurement, target_ms: float, *, test: bool) -> float:
    """Return the hypervolume of the models that meet the target, by their accuracy on validation or test images."""
    meeting = [m for m in models if m.latency.meets(target_ms)]
    if test:
        return front_hypervolume(map(on_test, meeting), on_test(baseline), target_ms)
    return front_hypervolume(meeting, baseline, target_ms)
