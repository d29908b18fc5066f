"""The journal is read fast and means what Optuna takes it to mean, and a full disk leaves it whole."""

from __future__ import annotations

import json
import random
import resource
from pathlib import Path

import optuna
import pytest
from optuna.distributions import IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from autocompress.storage.journal import Journal, condensed


def everything(storage: JournalStorage) -> list[tuple[dict[str, object], list[FrozenTrial]]]:
    """Return what a storage knows of each study."""
    return [(s.user_attrs, storage.get_all_trials(s._study_id)) for s in storage.get_all_studies()]


def use(study: optuna.Study, rng: random.Random, steps: int) -> None:
    """Do to a study what drivers may do, in a random order, and what Optuna refuses too."""
    open_trials: list[int] = []
    storage = study._storage
    for step in range(steps):
        if not open_trials or rng.random() < 0.3:
            if rng.random() < 0.3:
                study.enqueue_trial({"x": rng.randrange(5)}, user_attrs={"role": f"r{step}"})
            open_trials.append(study.ask()._trial_id)
            continue
        trial_id = rng.choice(open_trials)
        match rng.randrange(6):
            case 0 | 1:
                optuna.Trial(study, trial_id).suggest_int(rng.choice("xyz"), 0, 4)
            case 2:
                storage.set_trial_user_attr(trial_id, rng.choice("ab"), rng.choice([1, "text", [1.5, None]]))
            case 3:
                storage.set_trial_system_attr(trial_id, "s", {"n": step})
            case 4:
                storage.set_trial_state_values(trial_id, TrialState.RUNNING)  # which it is
            case 5:
                open_trials.remove(trial_id)
                state = rng.choice([TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL])
                storage.set_trial_state_values(trial_id, state, [rng.random()] if state.name == "COMPLETE" else None)
                with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
                    storage.set_trial_user_attr(trial_id, "late", 1)
        if rng.random() < 0.1:
            study.set_user_attr("note", step)


@pytest.mark.parametrize("seed", range(5))
def test_a_journal_means_what_optuna_takes_it_to_mean(seed: int, tmp_path: Path) -> None:
    """Trials and attributes are Optuna's, also of what is written after the first reading."""
    path, rng = tmp_path / "study.journal", random.Random(seed)
    sampler = optuna.samplers.RandomSampler(seed=seed)
    use(optuna.create_study(study_name="s", storage=JournalStorage(Journal(path)), sampler=sampler), rng, 120)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(condensed(lines)) < len(lines) / 2
    again = JournalStorage(Journal(path))
    assert everything(again) == everything(JournalStorage(JournalFileBackend(str(path))))
    use(optuna.load_study(study_name="s", storage=again, sampler=sampler), rng, 60)
    for storage in (again, JournalStorage(Journal(path))):
        assert everything(storage) == everything(JournalStorage(JournalFileBackend(str(path))))


def test_what_is_unusual_is_left_to_optuna(tmp_path: Path) -> None:
    """Two studies, a deleted one, intermediate values and changed ranges are read line by line."""
    path = tmp_path / "study.journal"
    storage = JournalStorage(Journal(path))
    for name in ("one", "two"):
        trial = optuna.create_study(study_name=name, storage=storage).ask({"x": IntDistribution(0, 3)})
        trial.report(0.5, 1)
    other = optuna.load_study(study_name="two", storage=storage).ask({"x": IntDistribution(0, 4)})
    assert other.params["x"] in range(5)
    optuna.create_study(study_name="three", storage=storage)
    optuna.delete_study(study_name="three", storage=storage)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert condensed(lines) is lines
    assert everything(JournalStorage(Journal(path))) == everything(JournalStorage(JournalFileBackend(str(path))))


def test_a_full_disk_leaves_the_journal_whole(tmp_path: Path) -> None:
    """A line that does not fit is not there, in no part; when there is room again, the journal continues."""
    path = tmp_path / "study.journal"
    storage = JournalStorage(Journal(path))
    study = optuna.create_study(study_name="s", storage=storage)
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            study.set_user_attr("note", "x" * 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    study.set_user_attr("note", "y")
    assert optuna.load_study(study_name="s", storage=JournalStorage(Journal(path))).user_attrs == {"note": "y"}
