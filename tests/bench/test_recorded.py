"""A recorded study: what its table keeps, how a search runs on it, and what the ladder saves there."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from autocompress.evaluators.analytic import AnalyticEvaluator
from autocompress.evaluators.evaluator import Request
from autocompress.evaluators.measurement import Infeasible
from autocompress.pareto.limits import Limits
from autocompress.pareto.model import BASELINE
from autocompress.profiles.profile import Profile
from autocompress.search.options import SAMPLERS
from autocompress.search.samplers import create
from autocompress.search.samplers.initial_design import warm_start
from autocompress.spaces.candidate import PRUNING_RATIO, Candidate
from autocompress.storage.study_store import Start, StudyStore

PROBLEM = AnalyticEvaluator(3)
TARGET_MS = 6.0
EPOCHS = {"short": 0.25, "long": 1.0}


@pytest.fixture(scope="module")
def table(bench: dict[str, ModuleType], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write every eighth candidate of an analytic problem, one that was never timed and one that cannot be trained."""
    recorded = bench["recorded"]
    profile = Profile.from_dict(PROBLEM.profile())
    lines = [recorded.header(PROBLEM.space, profile, epochs=EPOCHS, targets_ms=[TARGET_MS], command="", environment="")]
    for number, (candidate, measured) in enumerate(list(PROBLEM.everything())[::8]):
        row = recorded.Row(
            number=number,
            origin="grid",
            candidate=candidate,
            latency=measured.latency,
            size_bytes=measured.size_bytes,
            params=measured.params,
            macs=measured.macs,
            one_shot=measured.accuracy - 0.2,
            seconds={"build": 1.0, "latency": 2.0, "one-shot": 3.0},
            trained={
                "short": recorded.Training(accuracy=measured.accuracy - 0.1, seconds={"train": 4.0, "accuracy": 1.0}),
                "long": recorded.Training(accuracy=measured.accuracy, seconds={"train": 9.0, "accuracy": 1.0}),
            }
            if number
            else {},
        )
        if number == 3:
            failed = recorded.Training(accuracy=None, seconds={"train": 0.5}, reason="the loss became nan")
            row = replace(row, trained={**row.trained, "long": failed})
        if number == 5:
            row = recorded.Row(
                number=5,
                origin="",
                candidate=candidate,
                latency=None,
                seconds={"build": 7.0},
                reason="no",
                rung="build",
            )
        lines.append(row.to_json(PROBLEM.space))
    path = tmp_path_factory.mktemp("recorded") / "table.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_row_comes_back_as_it_was_written(bench: dict[str, ModuleType], table: Path) -> None:
    """What a table keeps of a candidate, its latency interval among it, is read back equal."""
    rows = [bench["recorded"].Row.from_json(line) for line in table.read_text().splitlines()[1:]]
    again = [bench["recorded"].Row.from_json(row.to_json(PROBLEM.space)) for row in rows]
    assert again == rows
    known = {candidate: measured.latency for candidate, measured in PROBLEM.everything()}
    timed = [row for row in rows if row.latency is not None]
    assert len(timed) == len(rows) - 1
    for row in timed:
        for end in ("low_ms", "median_ms", "high_ms"):
            assert getattr(row.latency, end) == pytest.approx(getattr(known[row.candidate], end), rel=1e-4)


def test_measurements_are_those_of_the_longest_training_that_is_asked_for(
    bench: dict[str, ModuleType], table: Path
) -> None:
    """Without epochs an evaluation gives the untrained accuracy, with some that of the training which they allow."""
    problem = bench["recorded"].RecordedProblem(table)
    candidate = problem.pool[7]
    (true,) = PROBLEM.evaluate(Request(folder="", candidate=candidate, epochs=0))
    found = [problem.evaluate(Request(folder="", candidate=candidate, epochs=epochs))[0] for epochs in (0, 0.5, 1, 4)]
    losses = [round(true.accuracy - measured.accuracy, 6) for measured in found]
    assert losses == [0.2, 0.1, 0.0, 0.0]
    assert [measured.epochs for measured in found] == [0.0, 0.25, 1.0, 1.0]
    assert found[0].size_bytes == true.size_bytes


def test_what_cannot_be_or_is_too_slow_tells_why(bench: dict[str, ModuleType], table: Path) -> None:
    """A candidate ends where it ended when it was recorded, or when it was timed if it is surely over the target."""
    problem = bench["recorded"].RecordedProblem(table)
    request = Request(folder="", candidate=problem.pool[5], epochs=1, target_ms=TARGET_MS)
    assert problem.evaluate(request) == Infeasible(reason="no", rung="build")
    untrained = problem.evaluate(replace(request, candidate=problem.pool[3], target_ms=None))
    assert (untrained.reason, untrained.rung) == ("the loss became nan", "train")
    for candidate in problem.pool:
        latency = PROBLEM.evaluate(Request(folder="", candidate=candidate, epochs=0))[0].latency
        found = problem.evaluate(Request(folder="", candidate=candidate, epochs=1, target_ms=TARGET_MS))
        cut = isinstance(found, Infeasible) and found.rung == "latency"
        assert cut == (latency.low_ms > TARGET_MS and candidate != problem.pool[5])
    with pytest.raises(KeyError):
        problem.evaluate(Request(folder="", candidate=Candidate({PRUNING_RATIO: {"layer0": 0.1}}), epochs=1))


def test_seconds_are_summed_up_to_a_rung(bench: dict[str, ModuleType], table: Path) -> None:
    """Both trainings begin with the untrained network; what ended earlier costs all that it took."""
    problem = bench["recorded"].RecordedProblem(table)
    rungs = bench["recorded"].RUNGS
    assert [problem.seconds(problem.pool[7], rung) for rung in rungs] == [1.0, 3.0, 6.0, 11.0, 16.0]
    assert [problem.seconds(problem.pool[5], rung) for rung in rungs] == [7.0] * 5


def test_the_nearest_is_the_candidate_itself_and_then_the_one_that_differs_least(
    bench: dict[str, ModuleType], table: Path
) -> None:
    """A choice counts by the levels between, as a share of all its levels; what is taken is passed over."""
    problem = bench["recorded"].RecordedProblem(table)
    space, wanted = problem.space, problem.pool[7]
    assert problem.nearest(wanted) == wanted

    def far(candidate: Candidate) -> float:
        pairs = zip(space.levels(candidate).items(), space.levels(wanted).values(), strict=True)
        return sum(abs(a - b) / (space.sizes[name] - 1) for (name, a), b in pairs)

    taken, distances = [], []
    for _ in problem.pool:
        taken.append(problem.nearest(wanted, taken))
        distances.append(far(taken[-1]))
    assert distances == pytest.approx(sorted(distances))
    assert sorted(taken, key=problem.pool.index) == list(problem.pool)
    with pytest.raises(ValueError, match="fewer trials"):
        problem.nearest(wanted, taken)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_search_takes_each_recorded_candidate_once(
    bench: dict[str, ModuleType], table: Path, tmp_path: Path, sampler: str
) -> None:
    """Whatever a sampler proposes becomes a recorded candidate that no trial had, until none is left."""
    problem = bench["recorded"].RecordedProblem(table)
    profile = Profile.from_dict(problem.profile())
    store = StudyStore(tmp_path, None, "recorded", problem.space, Limits(TARGET_MS))
    inner = create(sampler, space=problem.space, profile=profile, judge=store, seed=1, finished=0)
    store.study.sampler = bench["recorded"].Pooled(inner, problem)
    starts = problem.starts(warm_start(problem.space, profile, TARGET_MS)[:5])
    store.begin(starts)
    had = []
    for _ in problem.pool:
        asked = store.ask()
        had.append(asked.candidate)
        store.tell(
            asked.number,
            problem.evaluate(Request(folder="", candidate=asked.candidate, epochs=1, target_ms=TARGET_MS)),
        )
    store.close()
    assert had[: len(starts)] == [start.candidate for start in starts]
    assert sorted(had, key=problem.pool.index) == list(problem.pool)


def test_the_kept_table_is_whole(bench: dict[str, ModuleType]) -> None:
    """The real study that is kept can be searched: its levels, its profile and its targets belong to its candidates."""
    recorded = bench["recorded"]
    problem = recorded.RecordedProblem()
    lines = [json.loads(line) for line in recorded.TABLE.read_text().splitlines()[1:]]
    assert [row["number"] for row in lines] == list(range(len(problem.pool)))
    for row, candidate in zip(lines, problem.pool, strict=True):
        assert row["levels"] == list(problem.space.levels(candidate).values())
        assert (
            problem.seconds(candidate, "latency")
            >= problem.seconds(candidate, "build")
            >= 0
            < problem.seconds(candidate)
        )
    profile = Profile.from_dict(problem.profile())
    assert profile.predict_ms(problem.pool[0]) == pytest.approx(problem.baseline.latency.median_ms, rel=0.2)
    for target_ms in problem.header["targets_ms"]:
        assert len(bench["ladder"].final_front(problem, target_ms)) > 2


def test_the_ladder_costs_less_and_cuts_are_counted(bench: dict[str, ModuleType], table: Path) -> None:
    """Leaving out what is slow loses nothing; a rule that keeps nobody loses all that was trained."""
    ladder, problem = bench["ladder"], bench["recorded"].RecordedProblem(table)

    class Nobody:
        def keep(self, finished: object, values: object) -> bool:
            return False

    order = [Start(candidate, "" if number else BASELINE) for number, candidate in enumerate(problem.pool)]
    full = ladder.climb(problem, order, ladder.Policy("full", cut_slow=False), TARGET_MS)
    timed = ladder.climb(problem, order, ladder.Policy("timed"), TARGET_MS)
    none = ladder.climb(problem, order, ladder.Policy("none", rules={"one-shot": Nobody()}), TARGET_MS)
    assert full.seconds == sum(problem.seconds(candidate) for candidate in problem.pool)
    assert full.volume == timed.volume > none.volume == 0.0
    slow = [
        c
        for c in problem.pool
        if c != problem.pool[0] and (latency := problem.rows[c].latency) and latency.low_ms > TARGET_MS
    ]
    assert full.seconds - timed.seconds == sum(problem.seconds(c) - problem.seconds(c, "latency") for c in slow) > 0
    assert none.cut == {*problem.pool} - {*slow, problem.pool[0], problem.pool[5]}
    assert ladder.final_front(problem, TARGET_MS) <= none.cut
    finals = ladder.climb(problem, order, ladder.Policy("finals", finals=1), TARGET_MS)
    briefly = ladder.climb(problem, order, ladder.Policy("briefly", rules={"one-shot": Nobody()}, finals=1), TARGET_MS)
    assert 0.8 * full.volume < finals.volume <= full.volume  # eight models of its front
    assert finals.seconds < timed.seconds
    assert briefly.volume == 0.0 < briefly.seconds < finals.seconds


def test_the_line_keeps_what_may_be_non_dominated(bench: dict[str, ModuleType]) -> None:
    """A candidate continues where its predicted accuracy, give or take, beats all that are as fast and as small."""
    values, line = bench["ladder"].Values, bench["ladder"].Line()
    finished = [
        values(latency_ms=1.0, size_bytes=100, one_shot=x / 20, short=None, long=0.5 + x / 40 + (-1) ** x * 0.01)
        for x in range(20)
    ]
    best = max(f.long for f in finished)
    assert not line.keep(finished, values(latency_ms=1.0, size_bytes=100, one_shot=0.2))
    assert line.keep(finished, values(latency_ms=1.0, size_bytes=100, one_shot=2 * (best - 0.5)))
    assert line.keep(finished, values(latency_ms=0.9, size_bytes=100, one_shot=0.2))
    assert line.keep(finished[:4], values(latency_ms=1.0, size_bytes=100, one_shot=0.2))
