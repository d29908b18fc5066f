"""Importance of choices: the share of an objective's variance that a random forest explains with each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import optuna

from ..pareto.objectives import objectives
from ..storage.backends import quiet
from ..storage.trials import Trial

MOST_TRIALS = 600
"""How many measured trials are used, evenly taken from all: enough for a ranking, and a second's work."""

LEAST_TRIALS = 8
"""With fewer measured trials there is no result."""

SHOWN = 12
"""Choices reported for each objective, the most important first."""

TREES = 32

OBJECTIVES = {"accuracy": 0, "latency": 1, "size": 2}


def importances(trials: Sequence[Trial]) -> dict[str, Any]:
    """Return for each objective the shares of choices, and of their axes; empty if too few trials were measured.

    Uses Optuna's mean decrease in impurity over the levels, from the latest measured trials. All shares of an objective
    sum to 1, including those that are not reported.
    """
    measured = [trial for trial in trials if isinstance(trial.outcome, tuple)]
    step = -(-len(measured) // MOST_TRIALS) or 1
    chosen = [trial for trial in measured[::step] if trial.levels.keys() == measured[-1].levels.keys()]
    names = chosen[0].levels if chosen else ()
    most = {name: max(trial.levels[name] for trial in chosen) for name in names}
    varied = {name: most[name] for name in names if any(trial.levels[name] != most[name] for trial in chosen)}
    found: dict[str, Any] = {"trials": len(chosen), "choices": len(varied), "objectives": {}}
    if len(chosen) < LEAST_TRIALS or not varied:
        return found
    with quiet():  # else it logs that it made a study
        study = optuna.create_study(directions=["maximize"] * len(OBJECTIVES))
    study.add_trials([_only(trial, varied) for trial in chosen])
    for name, position in OBJECTIVES.items():
        evaluator = optuna.importance.MeanDecreaseImpurityImportanceEvaluator(n_trees=TREES, max_depth=12, seed=0)
        shares = evaluator.evaluate(study, params=list(varied), target=_at(position))
        found["objectives"][name] = {"choices": _first(shares), "axes": _by_axis(shares)}
    return found


def _at(position: int) -> Any:
    return lambda trial: trial.values[position]


def _only(trial: Trial, most: Mapping[str, int]) -> optuna.trial.FrozenTrial:
    """Return a trial with only some of its levels."""
    assert isinstance(trial.outcome, tuple)
    return optuna.trial.create_trial(
        values=list(objectives(trial.outcome[0])),
        params={name: trial.levels[name] for name in most},
        distributions={name: optuna.distributions.IntDistribution(0, level) for name, level in most.items()},
    )


def _first(shares: Mapping[str, float]) -> list[dict[str, Any]]:
    ordered = sorted(shares.items(), key=lambda item: -item[1])[:SHOWN]
    return [{"choice": name, "share": round(share, 4)} for name, share in ordered if share > 0]


def _by_axis(shares: Mapping[str, float]) -> list[dict[str, Any]]:
    summed: defaultdict[str, float] = defaultdict(float)
    for name, share in shares.items():
        summed[name.partition(":")[0]] += share
    ordered = sorted(summed.items(), key=lambda item: -item[1])
    return [{"axis": axis, "share": round(share, 4)} for axis, share in ordered]
