"""A run directory is read without its task, while and after somebody works in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from autocompress.errors import RunDirectoryError, StorageError
from autocompress.evaluators.analytic import AnalyticEvaluator
from autocompress.evaluators.outcome_json import to_json
from autocompress.files import write_atomically
from autocompress.pareto.front import select
from autocompress.pareto.limits import Limits
from autocompress.search.options import Options
from autocompress.storage.run import open_run
from autocompress.storage.run_directory import RunDirectory
from autocompress.storage.study_store import StudyStore

Search = Callable[..., StudyStore]

TRIALS = 14


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Return every file of a folder, and when it was written."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def test_what_is_read_is_what_the_driver_knows(small: AnalyticEvaluator, search: Search, tmp_path: Path) -> None:
    """Trials, outcomes and models are the store's, though its driver still holds the directory; nothing is written."""
    store = search(small, trials=TRIALS)
    with (tmp_path / "run" / "study.journal").open("ab") as journal:
        journal.write(b'{"op_code": 4, "worker')  # of somebody who writes at this moment
    before = contents(tmp_path)
    run = open_run(tmp_path / "run")
    assert run.identity == {"study": "run"}
    assert [(t.number, t.outcome) for t in run.trials if t.outcome] == [(t.number, t.outcome) for t in store.finished()]
    assert [(m.id, m.candidate, m.role) for m in run.models] == [(m.id, m.candidate, m.role) for m in store.models()]
    assert contents(tmp_path) == before


@pytest.mark.parametrize("target_ms", [9.0, 4.0, 0.01])
def test_another_target_is_answered_from_what_is_known(
    target_ms: float, small: AnalyticEvaluator, search: Search, tmp_path: Path
) -> None:
    """The front is that of all models for the limits that are given."""
    search(small, trials=TRIALS)
    run = open_run(tmp_path / "run")
    limits = Limits(target_ms)
    front = run.front(limits)
    others = [m for m in run.models if m.role != "baseline"]
    expected = [others[i].id for i in select([m.measurement for m in others], limits)]
    assert [m.id for m in front.models] == expected
    assert front.baseline.id == "baseline"
    assert front.limits == limits
    assert front.meets_target == any(limits.satisfied_by(m.measurement) for m in others)


def test_a_model_that_was_taken_to_the_end_is_told_as_measured_then(
    small: AnalyticEvaluator, search: Search, tmp_path: Path
) -> None:
    """A record in the models' folder counts, and its files are where the model is."""
    store = search(small, trials=TRIALS)
    model = store.models()[3]
    place = tmp_path / "run" / "models" / model.id
    write_atomically(place / "measurement.json", to_json(model.measurements).encode())
    write_atomically(place / model.measurement.file, b"a file")
    by_id = {m.id: m for m in open_run(tmp_path / "run").models}
    assert by_id[model.id].path == f"models/{model.id}"
    assert {m.path for name, m in by_id.items() if name != model.id} == {""}


def test_the_front_of_a_finished_run_has_the_baselines_without_final_training(
    made_run: Callable[..., Path], tmp_path: Path
) -> None:
    """A reference baseline that stayed as its trial left it is on the front's list, as in the run's own report."""
    out = made_run(tmp_path / "run")
    before = open_run(out).front()
    late = next(m for m in before.references)
    record = out / late.path / "measurement.json"
    record.write_text(to_json((replace(late.measurement, rung="short"),)))
    front = open_run(out).front()
    assert [(m.id, m.path) for m in front.references] == [(m.id, m.path) for m in before.references]
    assert next(m.measurement.rung for m in front.references if m.id == late.id) == "short"
    trained = next(m for m in before.models if m.role == "front")
    (out / trained.path / "measurement.json").write_text(to_json((replace(trained.measurement, rung="short"),)))
    assert trained.id not in [m.id for m in open_run(out).front().models]


@pytest.fixture(params=["sqlite", "postgresql"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'study.db'}"
    return str(request.getfixturevalue("server").database())


@pytest.mark.parametrize("kept", [True, False])
def test_a_database_is_read_where_one_was_used(
    kept: bool, address: str, small: AnalyticEvaluator, search: Search, tmp_path: Path
) -> None:
    """The user who opens the directory names it, whether or not it is said there."""
    store = search(small, trials=TRIALS, url=address)
    if kept:
        file = tmp_path / "run" / "study.json"
        asked = Options(target_ms=4.0, out=tmp_path, storage=address).invocation("digits")
        file.write_text(json.dumps({**json.loads(file.read_text()), "asked": asked.to_dict()}))
    run = open_run(tmp_path / "run", storage=address)
    assert [m.id for m in run.models] == [m.id for m in store.models()]
    assert run.front(Limits(4.0)).meets_target


@pytest.mark.parametrize("url", ["sqlite:///{path}/study.db", "postgresql://me:secret@host/db?x=1"])
def test_a_database_is_asked_only_where_it_is_named(
    url: str, small: AnalyticEvaluator, search: Search, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory may be a stranger's; the environment may name it, and a run with a journal needs no database."""
    url, address = url.format(path=tmp_path), f"sqlite:///{tmp_path / 'study.db'}"
    search(small, trials=TRIALS, url=address)
    file = tmp_path / "run" / "study.json"
    asked = Options(target_ms=4.0, out=tmp_path, storage=url).invocation("digits")
    file.write_text(json.dumps({**json.loads(file.read_text()), "asked": asked.to_dict()}))
    with pytest.raises(StorageError, match=r"Only a database that you name is asked.*--storage URL") as caught:
        open_run(tmp_path / "run")
    assert "secret" not in str(caught.value)
    monkeypatch.setenv("AUTOCOMPRESS_STORAGE", address)
    assert open_run(tmp_path / "run").models
    asked = Options(target_ms=4.0, out=tmp_path).invocation("digits")
    RunDirectory(tmp_path / "other", {"study": "run"}, asked.to_dict()).close()
    (tmp_path / "other" / "study.journal").touch()
    with pytest.raises(StorageError, match="must hold the study"):
        open_run(tmp_path / "other")


def test_a_database_that_is_away_is_told(small: AnalyticEvaluator, search: Search, tmp_path: Path) -> None:
    """At once, and not after the patience that a run has."""
    search(small, trials=1, url=f"sqlite:///{tmp_path / 'study.db'}")
    with pytest.raises(StorageError, match="can be reached"):
        open_run(tmp_path / "run", storage="postgresql://nobody@127.0.0.1:9/none")


@pytest.mark.parametrize(
    ("manifest", "storage", "said"),
    [
        (None, None, "must be a run directory, which has a study.json"),
        ('{"format": 1, "study": "run"}', None, "has format 1"),
        ("nonsense", None, "must be a run directory"),
        ('{"format": 2, "study": "run"}', None, "has no study.journal yet"),
        ('{"format": 2, "study": "run"}', "sqlite:///{path}/none.db", "--storage must be the URL of a database"),
        ('{"format": 2, "study": "run"}', "nonsense", "--storage must be the URL of a database"),
    ],
)
def test_what_is_no_run_is_told(manifest: str | None, storage: str | None, said: str, tmp_path: Path) -> None:
    """The message names the directory and a way out; nothing is made."""
    if manifest is not None:
        (tmp_path / "study.json").write_text(manifest)
    with pytest.raises((RunDirectoryError, StorageError), match=said):
        open_run(tmp_path, storage=storage and storage.format(path=tmp_path))


def test_other_runs_are_named_where_the_path_is_none(tmp_path: Path) -> None:
    """For the folder above, the message lists the runs in it."""
    runs = tmp_path / "runs"
    RunDirectory(runs / "digits", {"study": "digits"}).close()
    with pytest.raises(RunDirectoryError, match=f"These are: {runs / 'digits'}"):
        open_run(runs)


def test_a_database_must_hold_the_study(small: AnalyticEvaluator, search: Search, tmp_path: Path) -> None:
    """Another study's database is refused, with the study's name."""
    address = f"sqlite:///{tmp_path / 'study.db'}"
    search(small, trials=1, url=address, name="other")
    RunDirectory(tmp_path / "run", {"study": "run"}).close()
    with pytest.raises(StorageError, match="must hold the study 'run'"):
        open_run(tmp_path / "run", storage=address)


def test_a_run_without_a_baseline_has_no_front(small: AnalyticEvaluator, opened: Search, tmp_path: Path) -> None:
    """There is nothing to compare to, and the message has the way out."""
    RunDirectory(tmp_path / "run", {"study": "run"}).close()
    opened(small)
    run = open_run(tmp_path / "run")
    assert (run.trials, run.models) == ((), ())
    with pytest.raises(RunDirectoryError, match="no baseline yet"):
        run.front(Limits(4.0))
    with pytest.raises(RunDirectoryError, match="Give --target-latency"):
        run.front()
