"""What the ladder saves: seconds and hypervolume with it and without, on a recorded table.

    python bench/ladder.py [--table FILE] [--orders 20] [--quick]

The same recorded candidates come in several orders, the target's warm start before the others. In *full evaluation*
each of them is built, timed, scored and trained to the end. The *ladder* leaves out what is surely slower than the
target once it is timed; with a rule, also what the rule does not believe in once it is scored without training, or
after a short training, or either. A short training is paid for on top of the long one. *As a run does it*, trials are
trained for a short time, and the long training is for eight of them, chosen in two rounds, and for what anyone would
have tried first and is in time. All seconds and accuracies are the recorded ones, and since every candidate was trained
to the end when the table was made, it is known what was cut wrongly.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from common.recorded import TABLE, RecordedProblem

from autocompress.evaluators.evaluator import Request
from autocompress.evaluators.measurement import Infeasible, Measurement
from autocompress.evaluators.promotion import DEVIATIONS, LEAST, line
from autocompress.pareto.dominance import non_dominated
from autocompress.pareto.front import select
from autocompress.pareto.limits import Limits
from autocompress.pareto.model import Model
from autocompress.pareto.objectives import front_hypervolume
from autocompress.profiles.profile import Profile
from autocompress.search.finalists import FINALISTS, FIRST, finalists, likely_finalists, too_slow_for_sure
from autocompress.search.samplers.initial_design import warm_start
from autocompress.spaces.candidate import Candidate
from autocompress.storage.study_store import Start


@dataclass(frozen=True, kw_only=True)
class Values:
    """What is known of a candidate on its way up; None for what is not known yet."""

    latency_ms: float
    size_bytes: int
    one_shot: float
    short: float | None = None
    long: float | None = None


class Rule(Protocol):
    """Decides which candidates continue."""

    def keep(self, finished: Sequence[Values], values: Values) -> bool:
        """Return whether a candidate should be trained on, given those that were trained to the end."""
        ...


@dataclass(frozen=True)
class Line:
    """Keeps what may yet be non-dominated: the final accuracy lies on a line over the latest one, give or take.

    Attributes:
        deviations: of the residuals that are added to what the line predicts.
    """

    deviations: float = DEVIATIONS

    def keep(self, finished: Sequence[Values], values: Values) -> bool:
        """Return whether the hoped-for accuracy is dominated by no finished candidate's."""
        rung = "one_shot" if values.short is None else "short"
        known = [(getattr(f, rung), f.long) for f in finished]
        pairs = [(before, after) for before, after in known if before is not None and after is not None]
        if len(pairs) < LEAST:
            return True
        slope, intercept, deviation = line(pairs)
        hoped = intercept + slope * getattr(values, rung) + self.deviations * deviation
        rivals = [(-f.long, f.latency_ms, f.size_bytes) for f in finished if f.long is not None]
        return bool(non_dominated(np.array([*rivals, (-hoped, values.latency_ms, values.size_bytes)]))[-1])


@dataclass(frozen=True)
class Policy:
    """How far candidates are taken.

    Attributes:
        name: in the table that is printed.
        cut_slow: whether what is surely too slow ends when it was timed.
        rules: which candidates continue after ``one-shot`` and ``short``; a rung without a rule stops none, and
            without a rule for it there is no short training.
        finals: in how many rounds the front is trained for long at the end, where trials end with the short training.
    """

    name: str
    cut_slow: bool = True
    rules: Mapping[str, Rule] = field(default_factory=dict)
    finals: int = 0

    @property
    def top(self) -> str:
        """The longest training of a trial."""
        return "short" if self.finals else "long"


POLICIES = (
    Policy("full evaluation", cut_slow=False),
    Policy("ladder: latency"),
    Policy("ladder: latency, one-shot", rules={"one-shot": Line()}),
    Policy("ladder: latency, short", rules={"short": Line()}),
    Policy("ladder: latency, one-shot, short", rules={"one-shot": Line(), "short": Line()}),
    Policy("short, then eight for long", rules={"one-shot": Line()}, finals=1),
    Policy("as a run does it", rules={"one-shot": Line()}, finals=2),
)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a policy did with candidates in one order.

    Attributes:
        seconds: of all, recorded.
        reached: seconds spent and hypervolume, after each candidate.
        cut: the candidates that a rule stopped.
        trained: how many were trained to the end.
    """

    seconds: float
    reached: tuple[tuple[float, float], ...]
    cut: frozenset[Candidate]
    trained: int

    @property
    def volume(self) -> float:
        """The hypervolume after all candidates."""
        return self.reached[-1][1]

    def volume_at(self, seconds: float) -> float:
        """Return the hypervolume that was reached in so many seconds."""
        return max((volume for spent, volume in self.reached if spent <= seconds), default=0.0)


def climb(problem: RecordedProblem, order: Iterable[Start], policy: Policy, target_ms: float) -> Outcome:
    """Take candidates up the ladder, one after the other."""
    finished: list[Values] = []
    models: list[Model] = []
    reached: list[tuple[float, float]] = []
    cut: set[Candidate] = set()
    seconds = volume = 0.0
    for number, start in enumerate(order):
        candidate, role = start.candidate, start.role
        rung = _stopped_at(problem, start, policy, target_ms, finished)
        seconds += _seconds(problem, candidate, policy, rung)
        if rung in policy.rules:
            cut.add(candidate)
        elif rung == policy.top and (found := _measured(problem, candidate, policy.top)) is not None:
            finished.append(_values(problem, candidate, policy.top))
            models.append(Model(id=str(number), candidate=candidate, measurements=(found,), role=role or "front"))
            volume = 0.0 if policy.finals else _volume(problem, [m.measurement for m in models], target_ms)
        reached.append((seconds, volume))
    if policy.finals:
        reached.append(_finished(problem, models, seconds, target_ms, policy.finals))
        seconds = reached[-1][0]
    return Outcome(seconds=seconds, reached=tuple(reached), cut=frozenset(cut), trained=len(finished))


def _finished(
    problem: RecordedProblem, models: Sequence[Model], seconds: float, target_ms: float, rounds: int
) -> tuple[float, float]:
    """Return the seconds and the hypervolume after the end of a run, what was before counted in."""
    limits = Limits(target_ms)
    first = finalists(models, limits, FINALISTS if rounds == 1 else FIRST)
    late = too_slow_for_sure(first, limits)
    ended = {m.id: _ended(problem, m) for m in first if m not in late}
    accuracies = {name: measured.accuracy for name, measured in ended.items()}
    if rounds > 1:
        ended |= {m.id: _ended(problem, m) for m in likely_finalists(models, accuracies, limits)}
    for model in models:
        if model.id in ended:
            seconds += problem.seconds(model.candidate, "long") - problem.seconds(model.candidate, "one-shot")
    return seconds, _volume(problem, ended.values(), target_ms)


def _ended(problem: RecordedProblem, model: Model) -> Measurement:
    """Return what the long training makes of a model; where that is worse, it keeps the short one."""
    end = _measured(problem, model.candidate, "long")
    return model.measurement if end is None or end.accuracy < model.measurement.accuracy else end


def _measured(problem: RecordedProblem, candidate: Candidate, upto: str) -> Measurement | None:
    found = problem.evaluate(Request(folder="", candidate=candidate, epochs=problem.epochs[upto]))
    return None if isinstance(found, Infeasible) else found[0]


def _volume(problem: RecordedProblem, measured: Iterable[Measurement], target_ms: float) -> float:
    meeting = [m for m in measured if m.latency.meets(target_ms)]
    return front_hypervolume(meeting, problem.baseline, target_ms)


def _stopped_at(
    problem: RecordedProblem, start: Start, policy: Policy, target_ms: float, finished: Sequence[Values]
) -> str:
    """Return the rung after which a candidate stops; the policy's last for one with a final evaluation."""
    candidate = start.candidate
    row = problem.rows[candidate]
    if row.latency is None or row.one_shot is None:
        return row.rung
    if start.role:  # what anyone would have tried first is never cut
        return policy.top
    if policy.cut_slow and row.latency.least_ms > target_ms:
        return "latency"
    if not row.trained:
        return policy.top
    known = Values(latency_ms=row.latency.median_ms, size_bytes=row.size_bytes, one_shot=row.one_shot)
    if "one-shot" in policy.rules and not policy.rules["one-shot"].keep(finished, known):
        return "one-shot"
    if "short" in policy.rules:
        values = _values(problem, candidate, "long")
        if values.short is not None and not policy.rules["short"].keep(finished, _without_long(values)):
            return "short"
    return policy.top


def _seconds(problem: RecordedProblem, candidate: Candidate, policy: Policy, rung: str) -> float:
    """Return what a candidate cost under a policy up to a rung."""
    spent = problem.seconds(candidate, rung)
    if rung == "long" and "short" in policy.rules:
        spent += problem.seconds(candidate, "short") - problem.seconds(candidate, "one-shot")
    return spent


def _values(problem: RecordedProblem, candidate: Candidate, top: str) -> Values:
    row = problem.rows[candidate]
    assert row.latency is not None
    assert row.one_shot is not None
    return Values(
        latency_ms=row.latency.median_ms,
        size_bytes=row.size_bytes,
        one_shot=row.one_shot,
        short=row.accuracy("short"),
        long=row.accuracy(top),
    )


def _without_long(values: Values) -> Values:
    return Values(
        latency_ms=values.latency_ms, size_bytes=values.size_bytes, one_shot=values.one_shot, short=values.short
    )


def final_front(problem: RecordedProblem, target_ms: float) -> set[Candidate]:
    """Return the front of all that was recorded."""
    ends = [(candidate, _measured(problem, candidate, "long")) for candidate in problem.pool]
    found = [(candidate, measured) for candidate, measured in ends if measured is not None]
    return {found[i][0] for i in select([measured for _, measured in found], Limits(target_ms))}


def orders_of(problem: RecordedProblem, target_ms: float, count: int) -> list[list[Start]]:
    """Return the recorded candidates in several orders: the target's warm start first, as in a search, then chance."""
    profile = Profile.from_dict(problem.profile())
    first = problem.starts(warm_start(problem.space, profile, target_ms))
    begun = {start.candidate for start in first}
    rest = [Start(candidate) for candidate in problem.pool if candidate not in begun]
    permutations = (np.random.default_rng(seed).permutation(len(rest)) for seed in range(count))
    return [[*first, *(rest[i] for i in places)] for places in permutations]


def compare(problem: RecordedProblem, target_ms: float, orders: Sequence[Sequence[Start]]) -> None:
    """Print one target's table."""
    front = final_front(problem, target_ms)
    print(f"\ntarget {target_ms:.3g} ms; {len(front)} candidates on the final front; medians of {len(orders)} orders")
    print(
        f"{'':34}{'seconds':>8}{'of full':>9}{'trained':>9}{'cut':>5}{'wrongly':>9}{'volume':>9}{'of full':>9}"
        f"{'full then':>11}"
    )
    full = [climb(problem, order, POLICIES[0], target_ms) for order in orders]
    for policy in POLICIES:
        runs = full if policy is POLICIES[0] else [climb(problem, order, policy, target_ms) for order in orders]
        print(
            f"{policy.name:34}{statistics.median(run.seconds for run in runs):>8.0f}"
            f"{statistics.median(a.seconds / b.seconds for a, b in zip(runs, full, strict=True)):>9.0%}"
            f"{statistics.median(run.trained for run in runs):>9.0f}"
            f"{statistics.median(len(run.cut) for run in runs):>5.0f}"
            f"{statistics.mean(len(run.cut & front) for run in runs):>9.2f}"
            f"{statistics.median(run.volume for run in runs):>9.4f}"
            f"{statistics.median(a.volume / (b.volume or 1.0) for a, b in zip(runs, full, strict=True)):>9.1%}"
            f"{statistics.median(b.volume_at(a.seconds) for a, b in zip(runs, full, strict=True)):>11.4f}"
        )


def describe_table(problem: RecordedProblem) -> None:
    """Print what the table holds."""
    rows = list(problem.rows.values())
    timed = [row.latency.median_ms for row in rows if row.latency is not None]
    print(problem.header["environment"])
    print(f"{problem.header['command']}: {len(rows)} candidates, {len(rows) - len(timed)} of them never timed")
    print(f"{min(timed):.3f} to {max(timed):.3f} ms; the unchanged network {problem.baseline.latency.median_ms:.3f} ms")
    whole = [row for row in rows if row.trained and all(t.accuracy is not None for t in row.trained.values())]
    columns = np.array([[row.one_shot, row.accuracy("short"), row.accuracy("long")] for row in whole], dtype=float)
    matrix = np.corrcoef(columns.T)
    print(
        f"correlation of accuracies: one-shot with long {matrix[0, 2]:.2f}, short with long {matrix[1, 2]:.2f}, "
        f"one-shot with short {matrix[0, 1]:.2f}"
    )
    spent = {
        "build": [row.seconds["build"] for row in whole],
        "latency": [row.seconds["latency"] for row in whole],
        "one-shot": [row.seconds["one-shot"] for row in whole],
        **{f"{name} training": [sum(row.trained[name].seconds.values()) for row in whole] for name in problem.epochs},
    }
    print("mean seconds: " + ", ".join(f"{rung} {statistics.mean(times):.1f}" for rung, times in spent.items()))


def main() -> None:
    """Print everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--orders", type=int, default=20)
    parser.add_argument("--quick", action="store_true", help="two orders and one target")
    asked = parser.parse_args()
    problem = RecordedProblem(asked.table)
    describe_table(problem)
    targets = problem.header["targets_ms"]
    for target_ms in targets[:1] if asked.quick else targets:
        compare(problem, target_ms, orders_of(problem, target_ms, 2 if asked.quick else asked.orders))


if __name__ == "__main__":
    main()
