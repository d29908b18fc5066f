"""A database that drivers share: they see one study, do each thing once, and wait where it is away."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from autocompress.errors import StorageError
from autocompress.evaluators.analytic import AnalyticEvaluator
from autocompress.evaluators.evaluator import Request
from autocompress.evaluators.measurement import Infeasible, Outcome
from autocompress.pareto.limits import Limits
from autocompress.pareto.model import BASELINE
from autocompress.profiles.profile import Profile
from autocompress.search.samplers import create
from autocompress.search.samplers.initial_design import warm_start
from autocompress.storage import heartbeat
from autocompress.storage import ownership as drivers
from autocompress.storage import rdb as database
from autocompress.storage.backends import close_storage, open_database
from autocompress.storage.study_store import ATTEMPTS, PendingTrial, StudyStore

TARGET_MS = 4.0

SILENT_S = 2.5
"""How long a driver may be silent here; its heart beats every fifth of a second, where the machine lets it."""

Driven = Callable[[str], StudyStore]


def evaluated(problem: AnalyticEvaluator, asked: PendingTrial) -> Outcome:
    """Return what a trial's candidate costs."""
    return problem.evaluate(Request(folder="", candidate=asked.candidate, epochs=0))


def opened(folder: Path, url: str, problem: AnalyticEvaluator) -> StudyStore:
    """Open a study for the driver of a run directory."""
    folder.mkdir(exist_ok=True)
    store = StudyStore(folder, open_database(url), "shared", problem.space, Limits(TARGET_MS))
    profile = Profile.from_dict(problem.profile())
    store.study.sampler = create("mutation", space=problem.space, profile=profile, judge=store, seed=0, finished=0)
    store.begin(warm_start(problem.space, profile, TARGET_MS))
    return store


def closed(store: StudyStore) -> None:
    """Close a driver's store, and the database that it was opened for."""
    store.close()
    close_storage(store._storage)


@pytest.fixture
def driven(server: Any, tmp_path: Path, small: AnalyticEvaluator) -> Any:
    """Open one new study for drivers that are named, each with a directory of its own."""
    url, stores = server.database(), []

    def open_for(name: str) -> StudyStore:
        stores.append(opened(tmp_path / name, url, small))
        return stores[-1]

    yield open_for
    for store in stores:
        closed(store)


def die(store: StudyStore) -> None:
    """End a driver without a word: nobody hears its heart any more."""
    closed(store)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take a driver for dead after a few seconds."""
    monkeypatch.setattr(drivers, "SILENT_S", SILENT_S)
    monkeypatch.setattr(heartbeat, "BEAT_S", 0.2)


def test_what_is_read_at_once_is_what_optuna_reads(server: Any, tmp_path: Path, small: AnalyticEvaluator) -> None:
    """Trials of every state are Optuna's own, one for one."""
    url = server.database()
    store = opened(tmp_path / "a", url, small)
    for _ in range(4):
        asked = store.ask()
        outcome = evaluated(small, asked)
        store.tell(asked.number, Infeasible(reason="it", rung="build") if asked.number % 3 == 1 else outcome)
    store.lost(store.ask().number, "it died")
    store.ask()
    ours, theirs = database.PatientRDBStorage(url), RDBStorage(url)
    study_id = store.study._study_id
    found = ours._get_trials(study_id, None, set(), -1)
    assert {trial.state for trial in found} == set(TrialState)
    assert found == theirs.get_all_trials(study_id)
    for storage in (ours, theirs):
        storage.engine.dispose()
    closed(store)


def test_two_that_begin_at_once_begin_once(server: Any, tmp_path: Path, small: AnalyticEvaluator) -> None:
    """An empty database gets one set of tables, one study and one warm start."""
    url = server.database()
    with ThreadPoolExecutor(4) as pool:
        stores = list(pool.map(lambda name: opened(tmp_path / name, url, small), "abcd"))
    roles = Counter(t.user_attrs.get("role") for t in stores[0].study.get_trials() if t.user_attrs.get("role"))
    assert roles[BASELINE] == 1
    assert set(roles.values()) == {1}
    candidates = Counter(str(t.system_attrs["fixed_params"]) for t in stores[0].study.get_trials())
    assert set(candidates.values()) == {1}
    for store in stores:
        closed(store)


def test_a_trial_has_one_driver(driven: Driven) -> None:
    """Drivers that ask at once get different trials, each with a number of its own."""
    stores = [driven(name) for name in "abc"]
    with ThreadPoolExecutor(3) as pool:
        asked = [each for one in pool.map(lambda store: [store.ask() for _ in range(3)], stores) for each in one]
    assert len({each.number for each in asked}) == 9
    assert len({each.candidate for each in asked}) == 9


def test_a_driver_that_lives_keeps_its_trials(driven: Driven, small: AnalyticEvaluator, impatient: None) -> None:
    """However long a trial takes, no other driver takes it for lost."""
    first = driven("a")
    asked = first.ask()
    second = driven("b")
    assert second.ask().candidate != asked.candidate
    time.sleep(2 * SILENT_S)
    second.recover()
    assert first._trial(asked.number).state == TrialState.RUNNING
    first.tell(asked.number, evaluated(small, asked))
    assert second.count() == first.count() == 1


def test_what_a_dead_driver_ran_is_run_by_another(driven: Driven, small: AnalyticEvaluator, impatient: None) -> None:
    """Its trials come back in the other driver, counted, after the silence; too many deaths end a trial."""
    other = driven("b")
    for attempt in range(ATTEMPTS):
        store = driven("a" + str(attempt))
        asked = store.ask()
        assert (asked.role, asked.attempt) == (BASELINE, attempt)
        die(store)
        other.recover()
        assert other._trial(asked.number).state == TrialState.RUNNING
        time.sleep(1.2 * SILENT_S)
        other.recover()
    assert other._trial(asked.number).state == TrialState.PRUNED
    found = other.outcome_of(asked.candidate, BASELINE)
    assert found == Infeasible(reason="it was started 3 times, and each time the driver died", rung="build")


def test_ones_own_trials_come_back_at_once(driven: Driven) -> None:
    """A driver that resumes a directory knows that its former driver is dead."""
    first = driven("a")
    asked = first.ask()
    die(first)
    again = driven("a").ask()
    assert (again.candidate, again.role, again.attempt) == (asked.candidate, asked.role, 1)


def test_who_was_taken_for_dead_loses_no_outcome(driven: Driven, small: AnalyticEvaluator, impatient: None) -> None:
    """An outcome that comes too late goes to the trial that took its place."""
    first, second = driven("a"), driven("b")
    asked = first.ask()
    first._drivers.close()  # silent, though alive
    time.sleep(1.2 * SILENT_S)
    second.recover()
    assert second._trial(asked.number).state == TrialState.FAIL
    told = evaluated(small, asked)
    first.tell(asked.number, told)
    assert [second._trial(t.number).user_attrs["retry_of"] for t in second.finished()] == [asked.number]
    assert second.outcome_of(asked.candidate, asked.role) == told


def test_an_outcome_that_was_half_told_is_told(
    driven: Driven, small: AnalyticEvaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver that died between an outcome and its trial's end left an outcome."""
    first = driven("a")
    asked = first.ask()
    told = evaluated(small, asked)

    def killed(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(first.study, "tell", killed)
    with pytest.raises(KeyboardInterrupt):
        first.tell(asked.number, told)
    die(first)
    again = driven("a")
    assert again.outcome_of(asked.candidate, asked.role) == told
    assert again._trial(asked.number).state == TrialState.COMPLETE


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_restarted_database_is_waited_for(mode: str, server: Any, driven: Driven, small: AnalyticEvaluator) -> None:
    """Asking and telling continue when the server is back, and say meanwhile that it is away."""
    store = driven("a")
    before = store.ask()
    heard: list[str] = []
    store.notice = heard.append
    server.stop(mode)
    back = threading.Timer(1.5, server.start)
    back.start()
    store.tell(before.number, evaluated(small, before))
    after = store.ask()
    store.tell(after.number, evaluated(small, after))
    back.join()
    assert heard[0] == "the database does not answer, trying again (0 s)"
    assert store.count() == 2


def test_an_outcome_outlives_a_database_that_is_gone(
    server: Any, driven: Driven, small: AnalyticEvaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that gives up keeps what it could not tell, and the next run of the directory tells it."""
    store = driven("a")
    asked = store.ask()
    told = evaluated(small, asked)
    store._storage.patience_s = 0.5  # type: ignore[attr-defined]
    server.stop()
    try:
        with pytest.raises(StorageError, match=r"must answer; it has not for 1 s .* run the same command to resume"):
            store.tell(asked.number, told)
    finally:
        server.start()
    die(store)
    again = driven("a")
    assert again.outcome_of(asked.candidate, asked.role) == told
    assert not list((again._folder / "untold").iterdir())
