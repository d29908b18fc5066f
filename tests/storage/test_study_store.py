"""A study outlives its driver, on disk and in a database."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from autocompress.errors import UsageError
from autocompress.evaluators.analytic import AnalyticEvaluator
from autocompress.evaluators.evaluator import Request
from autocompress.evaluators.measurement import Infeasible, Outcome
from autocompress.pareto.model import BASELINE
from autocompress.spaces.candidate import Candidate
from autocompress.storage.study_store import ATTEMPTS, PendingTrial, StudyStore

Open = Callable[..., StudyStore]


def evaluated(problem: AnalyticEvaluator, asked: PendingTrial, target_ms: float | None = None) -> Outcome:
    """Return what a trial's candidate costs."""
    return problem.evaluate(Request(folder="", candidate=asked.candidate, epochs=0, target_ms=target_ms))


def run(store: StudyStore, problem: AnalyticEvaluator, trials: int) -> None:
    """Ask for trials and tell what they cost."""
    for _ in range(trials):
        asked = store.ask()
        store.tell(asked.number, evaluated(problem, asked, None if asked.role else store.limits.target_ms))


def known(store: StudyStore) -> list[tuple[int, Candidate | None, Outcome | None]]:
    """Return number, candidate and outcome of every finished trial."""
    return [(t.number, t.candidate, t.outcome) for t in store.finished()]


@pytest.fixture(params=["journal", "sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    """Return each kind of storage."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("server").database())
    return f"sqlite:///{tmp_path}/study.db" if request.param == "sqlite" else None


def test_outcomes_survive_reopening(url: str | None, opened: Open, small: AnalyticEvaluator) -> None:
    """Every storage gives back its outcomes, measurements and reasons alike, and continues after them."""
    store = opened(small, url=url, target_ms=3.0)
    run(store, small, 14)
    before = known(store)
    assert {type(result) for _, _, result in before} == {tuple, Infeasible}
    again = opened(small, url=url, target_ms=3.0)
    assert known(again) == before
    assert again.ask().number == 14


def test_what_runs_at_a_death_runs_again(url: str | None, opened: Open, small: AnalyticEvaluator) -> None:
    """A trial whose driver died comes back with its candidate and role, counted; finished ones do not."""
    store = opened(small, url=url, name="lost")
    run(store, small, 1)
    lost = [store.ask(), store.ask()]
    again = opened(small, url=url, name="lost")
    for _ in range(100):
        asked = again.ask()
        if asked.attempt:
            assert (asked.candidate, asked.role) == (lost[0].candidate, lost[0].role)
            assert asked.attempt == 1
            break
        again.tell(asked.number, evaluated(small, asked))
    else:
        pytest.fail("the lost trial did not come back")
    second = again.ask()
    assert (second.candidate, second.attempt) == (lost[1].candidate, 1)


def test_what_kills_every_time_is_infeasible(opened: Open, small: AnalyticEvaluator) -> None:
    """After so many deaths the trial is given up, with a reason that says how often and how."""
    store = opened(small, warm=False)
    candidate = store.ask().candidate
    for attempt in range(1, ATTEMPTS):
        store = opened(small, warm=False)
        asked = store.ask()
        assert (asked.candidate, asked.attempt) == (candidate, attempt)
    store = opened(small, warm=False)
    result = store.outcome_of(candidate)
    assert isinstance(result, Infeasible)
    assert result.reason == f"it was started {ATTEMPTS} times, and each time the driver died"
    assert store.ask().attempt == 0


def test_an_interruption_is_nobodys_fault(opened: Open, small: AnalyticEvaluator) -> None:
    """A trial that the user interrupted comes back uncounted."""
    store = opened(small, warm=False)
    first = store.ask()
    store.lost(first.number, "it was interrupted", counts=False)
    again = store.ask()
    assert (again.candidate, again.attempt) == (first.candidate, 0)


def test_a_death_while_asking_loses_no_role(opened: Open, small: AnalyticEvaluator) -> None:
    """A driver that dies between two of a trial's parameters loses neither the candidate nor its role."""
    store = opened(small)
    store.study.ask()  # the baseline's trial runs, and has no parameter yet
    half = store.study.ask({})
    half.suggest_int(small.space.choices[0].name, 0, 3)
    again = opened(small)
    roles = {}
    for _ in range(30):
        asked = again.ask()
        roles[asked.role] = asked.candidate
        again.tell(asked.number, evaluated(small, asked))
    assert roles[BASELINE] == Candidate()
    assert roles["uniform int8"] == small.space.at(lambda choice: int(choice.axis == "bits"))


def test_a_death_while_beginning_loses_no_start(opened: Open, small: AnalyticEvaluator, tmp_path: Path) -> None:
    """A warm start that was enqueued only in part is completed, without repetition."""
    whole = opened(small, name="whole")
    (tmp_path / "part").mkdir()
    part = StudyStore(tmp_path / "part", None, "part", small.space, whole.limits)
    part.study.enqueue_trial(small.space.levels(Candidate()), user_attrs={"role": BASELINE})
    part = opened(small, name="part")
    for store in (whole, part):
        run(store, small, 10)
    assert known(part) == known(whole)


@pytest.mark.parametrize("cut", [1, 7, 60])
def test_a_torn_last_line_is_cut_off(cut: int, opened: Open, small: AnalyticEvaluator, tmp_path: Path) -> None:
    """A journal whose last line was half-written keeps everything before it, and the study continues."""
    store = opened(small, warm=False)
    run(store, small, 5)
    before = known(store)
    store.study.set_user_attr("note", "a line that is longer than what is cut off from it" * 2)
    journal = tmp_path / "run" / "study.journal"
    os.truncate(journal, journal.stat().st_size - cut)
    again = opened(small, warm=False)
    assert "note" not in again.study.user_attrs
    assert known(again) == before
    run(again, small, 1)
    assert known(opened(small, warm=False))[:5] == before
    assert len(known(opened(small, warm=False))) == 6


def test_finished_candidates_are_known(opened: Open, small: AnalyticEvaluator) -> None:
    """`outcome_of` finds an earlier outcome, also one of another process, and nothing for a new candidate."""
    store = opened(small, warm=False)
    asked = store.ask()
    assert store.outcome_of(asked.candidate) is None
    told = evaluated(small, asked)
    store.tell(asked.number, told)
    assert store.outcome_of(asked.candidate) == told
    assert opened(small, warm=False).outcome_of(asked.candidate) == told


def test_models_are_listed_once(opened: Open, small: AnalyticEvaluator) -> None:
    """A candidate with two trials is one model; trials that were cut are none, and the fastest of them are known."""
    store = opened(small)
    run(store, small, 20)
    baseline = store.models()[0]
    assert (baseline.id, baseline.role, baseline.path) == (BASELINE, BASELINE, "trials/00000")
    count = len(store.models())
    store.study.enqueue_trial(small.space.levels(Candidate()))
    asked = store.ask()
    store.tell(asked.number, evaluated(small, asked))
    assert len(store.models()) == count
    cut = [result.latency for _, _, result in known(store) if isinstance(result, Infeasible)]
    fastest = sorted(latency.median_ms for latency in cut if latency)[:2]
    assert [m.measurement.latency.median_ms for m in store.nearest_cut(2)] == fastest


@pytest.mark.parametrize(
    "url", ["nonsense", "mysql://nobody@127.0.0.1:1/x", "postgresql://u@127.0.0.1:1/x", "sqlite:////proc/x/y.db"]
)
def test_an_unusable_database_is_refused(url: str, opened: Open, small: AnalyticEvaluator) -> None:
    """The message gives the rule, the URL that came without its user, and the cause."""
    with pytest.raises(UsageError, match="--storage must be the URL of a database that can be reached") as caught:
        opened(small, url=url)
    assert repr(url.replace("u@", "").replace("nobody@", "")) in str(caught.value)


def test_a_password_is_not_told(opened: Open, small: AnalyticEvaluator) -> None:
    """The message about a database that cannot be reached has its URL without the password and the user."""
    with pytest.raises(UsageError, match=r"got 'postgresql://127\.0\.0\.1:1/x'") as caught:
        opened(small, url="postgresql://me:secret@127.0.0.1:1/x?sslkey=secret")
    assert "secret" not in str(caught.value)
