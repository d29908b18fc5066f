"""Writes what a run leaves besides its models: tables for other programs, and a picture of the front."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Sequence
from dataclasses import asdict, fields

from optuna.trial import TrialState

from ...evaluators.runtimes import plain
from ..front import ParetoFront
from ..paying import Dropped
from ..rundir import RunDirectory, write_atomically
from ..store import Store, outcome
from .plot import draw


def write(rundir: RunDirectory, front: ParetoFront, store: Store, dropped: Sequence[Dropped] = ()) -> None:
    """Write ``pareto.csv``, ``trials.csv`` and ``pareto.png``, and delete models that are not on the front any more.

    What was not offered to the search, as it does not pay, is written to ``dropped.csv``.
    """
    write_atomically(rundir.path / "pareto.csv", front.to_pandas().to_csv(index=False).encode())
    for alone in front.portfolio:
        name = plain(alone.baseline.measurement.latency.runtime)
        write_atomically(rundir.path / f"pareto-{name}.csv", alone.to_pandas().to_csv(index=False).encode())
    write_atomically(rundir.path / "trials.csv", _trials(store).encode())
    if dropped:
        write_atomically(rundir.path / "dropped.csv", _dropped(dropped).encode())
    picture = io.BytesIO()
    draw(front, store.models(), picture)
    write_atomically(rundir.path / "pareto.png", picture.getvalue())
    kept = {model.path for each in (front, *front.portfolio) for model in (*each.models, *each.obvious)}
    for folder in rundir.models.iterdir() if rundir.models.exists() else ():
        if f"models/{folder.name}" not in kept:
            shutil.rmtree(folder, ignore_errors=True)


def _dropped(levels: Sequence[Dropped]) -> str:
    table = io.StringIO()
    writer = csv.DictWriter(table, [field.name for field in fields(Dropped)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(asdict, levels))
    return table.getvalue()


def _trials(store: Store) -> str:
    import pandas

    rows = []
    for trial in store.study.get_trials(deepcopy=False):
        if trial.state == TrialState.WAITING:
            continue
        attrs = trial.user_attrs
        result = outcome(trial) if "outcome" in attrs else None
        values = trial.values or (None, None, None)
        rows.append(
            {
                "trial": trial.number,
                "state": trial.state.name.lower(),
                "role": attrs.get("role", ""),
                "rung": result.rung if result else "",
                "accuracy": values[0],
                "one_shot_accuracy": result.one_shot_accuracy if result else None,
                "latency_ms": attrs.get("latency_ms"),
                "size_bytes": result.size_bytes if result else None,
                "memory_bytes": result.memory_bytes if result else None,
                "energy_mj": result.energy_mj if result else None,
                "reason": getattr(result, "reason", "") or getattr(result, "doubted", ""),
                "candidate": attrs.get("candidate", ""),
            }
        )
    return str(pandas.DataFrame(rows).to_csv(index=False))
