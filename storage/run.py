"""Opens a run directory for reading, without its task, even while a driver works in it.

Nothing is written or locked. To see later changes, open the directory again.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import optuna
from optuna.storages import BaseStorage

from ..errors import RunDirectoryError, StorageError
from ..evaluators.measurement import Measurements, ranked
from ..pareto.front import ParetoFront, build_front
from ..pareto.limits import Limits
from ..pareto.model import BASELINE, Model
from ..profiles.profile import Profile
from .backends import close_storage, quiet, read_storage
from .invocation import Invocation
from .measured_models import stopped_model
from .run_directory import FORMAT, enclosed, read_json, read_record
from .study_results import StudyResults
from .trials import Trial, started_trials

FINISHED = "finished.json"
"""File in a run directory that says after which trials the final evaluation was done."""

STORAGE = "AUTOCOMPRESS_STORAGE"
"""Environment variable with the URL of the database that has the studies of opened runs."""

NAME = re.compile(r"\w[\w.-]{0,199}")
"""Of a study; it becomes that of a folder."""

NO_TARGET_MS = 1e12
"""A target that every model meets."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run directory, as it was when it was opened.

    Attributes:
        path: the directory.
        identity: identity of the study: its name, runtimes, threads, batch, percentile, device.
        asked: the last invocation; None if it was not kept.
        profile: profile of the network; None before it is done.
        trials: started trials, by number.
        measured: every completely measured candidate, with its trial's measurement.
    """

    path: Path
    identity: Mapping[str, str]
    asked: Invocation | None
    profile: Profile | None
    trials: tuple[Trial, ...]
    measured: tuple[Model, ...]

    @cached_property
    def limits(self) -> Limits:
        """The last limits of the run; a least change of accuracy becomes a least accuracy.

        Raises:
            RunDirectoryError: that was not kept.
        """
        if self.asked is None:
            raise RunDirectoryError(
                f"a run directory must tell what was asked for; {str(self.path)!r} is of an older version. "
                "Give --target-latency."
            )
        return self.against_baseline(self.asked.limits)

    def against_baseline(self, limits: Limits) -> Limits:
        """Return limits in their unit that compare accuracies with the baseline's, if that is known."""
        baseline = next((m.measurement for m in self.models if m.role == BASELINE), None)
        known = self.asked.limits.unit if self.asked is not None else None
        return replace(limits, unit=known).against(baseline).told_by(m.measurement for m in self.models)

    @cached_property
    def models(self) -> tuple[Model, ...]:
        """Every completely measured candidate, with its final evaluation if it had one, otherwise as in its trial.

        The path of a model whose files were not kept is empty.
        """
        return tuple(self._final_models())

    @cached_property
    def finished(self) -> bool:
        """Whether the final evaluation was done after the last trial."""
        return self._finished is not None

    def front(self, limits: Limits | None = None) -> ParetoFront:
        """Return the front for the limits of the last run, or for others: no trial is run for that.

        If the run finished for these limits, the front has the models of its final evaluation, and the reference
        baselines that were too slow to need one. Otherwise it has all models, and some may have been trained only
        briefly (rung ``short``).

        Raises:
            RunDirectoryError: the baseline was not measured yet.
        """
        limits = self.limits if limits is None else self.against_baseline(limits)
        models: tuple[Model, ...] = self.models
        if not any(m.role == BASELINE for m in models):
            raise RunDirectoryError(
                f"a run directory must have a measured baseline before there is a front; {str(self.path)!r} has "
                f"{len(self.trials)} trials and no baseline yet. Wait, or resume the run."
            )
        if self._finished is not None and limits == self.against_baseline(self._finished):
            models = tuple(m for m in models if m.id in self._records and _is_final(m))
        judged = [replace(m, measurements=ranked(m.measurements, limits.distance)) for m in models]
        return build_front(judged, self.profile, limits, where=self.path)

    @property
    def _finished(self) -> Limits | None:
        """The limits of the final evaluation after the last trial."""
        content = read_json(self.path / FINISHED) or {}
        if content.get("trials") != sum(trial.outcome is not None for trial in self.trials):
            return None
        with as_written(self.path):
            fields = dict(content["limits"])
            return Limits(fields.pop("target_ms"), **fields)

    @cached_property
    def _records(self) -> dict[str, Measurements]:
        """The measurements in the models' folders, by model; a folder without one is incomplete."""
        folders = [self.path / BASELINE, *sorted((self.path / "models").glob("*"))]
        return {folder.name: record for folder in folders if (record := read_record(folder)) is not None}

    def _final_models(self) -> Iterator[Model]:
        """Yield models with the measurements of their records, and those that only have a trial."""
        by_id = {model.id: model for model in self.measured}
        trials = {trial.id: trial for trial in self.trials}
        for name, record in self._records.items():
            model = by_id.get(name) or (stopped_model(trials[name]) if name in trials else None)
            if model is not None:
                path = name if name == BASELINE else f"models/{name}"
                by_id[name] = replace(model, measurements=record, path=path)
        for model in by_id.values():
            there = (self.path / model.path / model.measurement.file).is_file()
            yield model if there else replace(model, path="")


def _is_final(model: Model) -> bool:
    """Return whether a finished run reports a model: reference baselines may keep their trials' results."""
    return model.measurement.rung == "final" or model.role not in ("front", BASELINE)


def open_run(path: str | Path, *, storage: str | None = None) -> Run:
    """Open a run directory for reading.

    Args:
        path: the directory.
        storage: URL of the database with the study, if it is in one; by default ``AUTOCOMPRESS_STORAGE``.

    Raises:
        RunDirectoryError: the path is no run directory, its format is another, or its content cannot be read.
        StorageError: the database was not given, cannot be reached, or does not have the study.
    """
    path = Path(path)
    if (path / "study.json").exists():
        enclosed(path)
    manifest = read_json(path / "study.json")
    if manifest is None:
        raise RunDirectoryError(
            f"RUN must be a run directory, which has a study.json; {str(path)!r} has none.{_others(path)}"
        )
    version = manifest.pop("format", None)
    if version != FORMAT:
        raise RunDirectoryError(
            f"RUN must be a run directory of format {FORMAT}; {str(path)!r} has format {version!r}. "
            "Read it with the version of autocompress that wrote it."
        )
    with as_written(path):
        kept = manifest.pop("asked", None)
        asked = None if kept is None else Invocation.read(kept)
        identity = {name: _line(value) for name, value in manifest.items()}
        if not NAME.fullmatch(identity["study"]):
            raise ValueError(f"{identity['study']!r} is no study's name")
        opened, study = _study(path, identity["study"], asked, storage or os.environ.get(STORAGE))
    with _closed(opened), as_written(path):
        limits = Limits(NO_TARGET_MS) if asked is None else asked.limits
        profile = read_json(path / "profile.json")
        return Run(
            path=path,
            identity=identity,
            asked=asked,
            profile=None if profile is None else Profile.from_dict(profile["profile"]),
            trials=started_trials(study),
            measured=tuple(StudyResults(study, limits, lambda: "read once").models()),
        )


@contextmanager
def _closed(storage: BaseStorage) -> Iterator[None]:
    try:
        yield
    finally:
        close_storage(storage)


@contextmanager
def as_written(path: Path) -> Iterator[None]:
    """Turn any error of reading into one kind: a run directory may be a stranger's."""
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise RunDirectoryError(
            f"a run directory must be as autocompress writes it; {str(path)!r} is not "
            f"({type(error).__name__}: {error}). Do not use it, or get it again."
        ) from error


def _line(value: object) -> str:
    """Return the identity of a study, which reports and terminals show."""
    text = str(value)
    if not text.isprintable():
        raise ValueError(f"{text!r} is no line of text")
    return text


def _study(path: Path, name: str, asked: Invocation | None, url: str | None) -> tuple[BaseStorage, optuna.Study]:
    """Return the storage of a run, and the study in it.

    A database is used only if the user has named it: a run directory may be a stranger's, and so may be the server that
    its ``study.json`` names.
    """
    elsewhere = asked is not None and (asked.storage is not None or "storage" in asked.hidden)
    if elsewhere and url is None:
        where = repr(asked.storage) if asked is not None and asked.storage else "whose URL is not kept"
        raise StorageError(
            f"the study of {str(path)!r} is in a database, {where}. Only a database that you name is asked, as anybody "
            f"may have written the directory: give --storage URL, or set {STORAGE}."
        )
    journal = (path / "study.journal").is_file()
    storage = read_storage(path, None if journal and not elsewhere else url)
    if storage is None:
        raise RunDirectoryError(
            f"RUN must have started trials; {str(path)!r} has no study.journal yet. "
            "Wait until its run is prepared, resume it, or give --storage URL where a database holds it."
        )
    try:
        with quiet():
            return storage, optuna.load_study(study_name=name, storage=storage)
    except KeyError as error:
        close_storage(storage)
        raise StorageError(f"the storage of {str(path)!r} must hold the study {name!r}; it does not.") from error


def _others(path: Path) -> str:
    """List the run directories near a path that is none."""
    places = (path.glob("*/study.json"), path.parent.glob("*/study.json"), Path("runs").glob("*/study.json"))
    found = sorted({str(file.parent) for place in places for file in place})
    return f" These are: {', '.join(found[:5])}." if found else " Give the directory that --out named."
