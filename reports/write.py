"""Writes the files of a run besides its models: tables, pictures of the front, and the report."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Literal

from ..evaluators.measurement import Infeasible, deciding, representative
from ..evaluators.runtimes import plain
from ..files import write_atomically
from ..pareto.front import ParetoFront
from ..pareto.limits import Limits
from ..pareto.model import Model
from ..pareto.objectives import objectives
from ..profiles.level_filter import DroppedLevel
from ..profiles.profile import Profile
from ..storage.invocation import Invocation
from ..storage.run import Run, as_written
from ..storage.run_directory import RunDirectory, read_json
from ..storage.study_results import StudyResults
from ..storage.trials import Trial, started_trials
from .html_page import render
from .markdown import summary
from .matplotlib_figure import draw
from .report_data import ReportContext, build
from .rows import ExampleCounts

State = Literal["running", "interrupted", "finished"]

COUNTED = "data.json"
"""File in a run directory with the numbers of examples that accuracies are shares of."""


def write(
    rundir: RunDirectory,
    front: ParetoFront,
    models: Iterable[Model],
    store: StudyResults,
    profile: Profile,
    *,
    state: State,
) -> None:
    """Write the tables, the pictures and the report, and delete the files of models without a final evaluation.

    Finally evaluated models keep their files, on the front or not, so that the next run does not train them again.
    """
    trials = started_trials(store.study)
    write_tables(rundir.path, front, trials, store.models(), profile)
    write_report(rundir.path, front, trials, profile, state=state)
    kept = {model.path for model in models}
    for folder in rundir.models.iterdir() if rundir.models.exists() else ():
        if f"models/{folder.name}" not in kept:
            shutil.rmtree(folder, ignore_errors=True)


def write_again(run: Run, front: ParetoFront) -> None:
    """Write the tables and the report of a run again, for a front of its models, even while a process works in it."""
    state: State = "finished" if run.finished else "running" if held(run.path) else "interrupted"
    write_tables(run.path, front, run.trials, run.models, run.profile)
    write_report(run.path, front, run.trials, run.profile, state=state)


def write_tables(
    folder: Path, front: ParetoFront, trials: Sequence[Trial], models: Sequence[Model], profile: Profile | None
) -> None:
    """Write ``pareto.csv``, ``trials.csv``, ``pareto.png`` and ``pareto.svg``.

    Levels that were not offered because they do not pay are written to ``dropped.csv``.
    """
    write_atomically(folder / "pareto.csv", front.to_pandas().to_csv(index=False).encode())
    for alone in front.portfolio:
        name = plain(alone.name)
        write_atomically(folder / f"pareto-{name}.csv", alone.to_pandas().to_csv(index=False).encode())
    write_atomically(folder / "trials.csv", _trials(trials, front.limits).encode())
    if profile is not None and profile.dropped:
        write_atomically(folder / "dropped.csv", _dropped(profile.dropped).encode())
    for kind in ("png", "svg"):
        picture = io.BytesIO()
        draw(front, models, picture, kind=kind)
        write_atomically(folder / f"pareto.{kind}", picture.getvalue())


def write_report(
    folder: Path,
    front: ParetoFront,
    trials: Sequence[Trial],
    profile: Profile | None,
    *,
    state: State,
    quick: bool = False,
) -> None:
    """Write ``report.html``, ``report.json`` and ``report.md``.

    Args:
        folder: the run directory.
        front: the front.
        trials: all started trials.
        profile: the network's profile; None if there is none yet.
        state: whether the run has ended.
        quick: whether to leave out what takes long.
    """
    data = build(front, trials, profile, _about(folder, state), quick=quick)
    write_atomically(folder / "report.json", (json.dumps(data, separators=(",", ":")) + "\n").encode())
    write_atomically(folder / "report.html", render(data).encode())
    write_atomically(folder / "report.md", summary(data).encode())


def _about(folder: Path, state: State) -> ReportContext:
    study = read_json(folder / "study.json") or {}
    asked = study.pop("asked", None)
    with as_written(folder):
        return ReportContext(
            study=study,
            folder=str(folder),
            state=state,
            command="" if asked is None else Invocation.read(asked).command(folder),
            calibration=read_json(folder / "calibration.json") or {},
            scored=ExampleCounts(**(read_json(folder / COUNTED) or {})),
        )


def held(path: Path) -> bool:
    """Return whether a process is working in a run directory."""
    try:
        with (path / ".lock").open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _dropped(levels: Sequence[DroppedLevel]) -> str:
    table = io.StringIO()
    writer = csv.DictWriter(table, [field.name for field in fields(DroppedLevel)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(asdict, levels))
    return table.getvalue()


def _trials(trials: Sequence[Trial], limits: Limits) -> str:
    import pandas  # noqa: PLC0415  # start-up time: pandas is slow to import

    rows = []
    for trial in trials:
        found = None if trial.outcome is None else representative(trial.outcome)
        measured = trial.outcome if isinstance(trial.outcome, tuple) else ()
        values = objectives(deciding(measured, limits.distance)) if measured else (None, None, None)
        why = found.reason if isinstance(found, Infeasible) else found.doubted if found else ""
        rows.append(
            {
                "trial": trial.number,
                "state": trial.state,
                "role": trial.role,
                "rung": found.rung if found else "",
                "accuracy": values[0],
                "one_shot_accuracy": found.one_shot_accuracy if found else None,
                "latency_ms": found.latency.median_ms if found and found.latency else None,
                "size_bytes": found.size_bytes if found else None,
                "memory_bytes": found.memory_bytes if found else None,
                "energy_mj": found.energy_mj if found else None,
                "reason": why,
                "candidate": trial.candidate.to_json() if trial.candidate else "",
            }
        )
    return str(pandas.DataFrame(rows).to_csv(index=False))
