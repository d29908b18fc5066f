"""Searches where INT8, or float, has a fixed cost that a profile shares out among layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from autocompress.evaluators.analytic import OTHER_MS, AnalyticEvaluator
from autocompress.pareto.front import select
from autocompress.pareto.limits import Limits
from autocompress.spaces.candidate import BITS, Candidate
from autocompress.storage.study_store import StudyStore

FIXED_MS = 3.15
TARGET_MS = 4.0
TRIALS = 40


class Fixed(AnalyticEvaluator):
    """An analytic problem with a fixed cost for networks with any layer that is (or is not) in INT8.

    Args:
        dear: whether that is INT8, or float.

    """

    def __init__(self, *, dear: str) -> None:
        super().__init__(6)
        self.dear = dear

    def profile(self) -> dict[str, Any]:
        """Return what timing the whole network in float and in INT8 tells, shared out among the layers."""
        whole = self._latency_ms(self.space.at(lambda choice: int(choice.axis == BITS)))
        factor = (whole - OTHER_MS) / (self._latency_ms(Candidate()) - OTHER_MS)
        told = super().profile()
        told["costs"]["factors"] = {BITS: {name: {"8": factor} for name in self.layer_ms}}
        return told

    def _latency_ms(self, candidate: Candidate) -> float:
        integer, layers = candidate[BITS], self.layer_ms
        fast, slow = (0.15, 1.0) if self.dear == "int8" else (0.3, 1 - FIXED_MS / sum(layers.values()))
        kept = self._kept(candidate)
        work = sum(ms * kept[name] * (fast if name in integer else slow) for name, ms in layers.items())
        charged = bool(integer) if self.dear == "int8" else len(integer) < len(layers)
        return OTHER_MS + work + FIXED_MS * charged


@pytest.mark.parametrize("dear", ["int8", "float"])
def test_the_kind_that_pays_is_found(dear: str, search: Callable[..., StudyStore]) -> None:
    """Where networks in INT8 cannot meet the target the front is in float, where only they can it is in INT8."""
    store = search(Fixed(dear=dear), trials=TRIALS, sampler="surrogate", target_ms=TARGET_MS)
    starts = {trial.number for trial in store.study.trials if "fixed_params" in trial.system_attrs}
    met = [store.feasible(trial.outcome) for trial in store.finished() if trial.number not in starts]
    models = store.models()
    front = [models[i].candidate for i in select([model.measurement for model in models], Limits(TARGET_MS))]
    assert len(front) >= 5
    assert all(len(candidate[BITS]) == (0 if dear == "int8" else 6) for candidate in front)
    assert sum(met) >= 0.7 * len(met)
