"""Who is trained, what that saves, and how often it was wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autocompress.evaluators.measurement import Infeasible, Latency, Measurement, Window
from autocompress.evaluators.promotion import LEAST, learned, savings


def latency(milliseconds: float) -> Latency:
    """Return a latency with no spread."""
    window = Window(baseline_ns=(1000,), candidate_ns=(round(100 * milliseconds),))
    return Latency(windows=(window,) * 3, baseline_ms=10.0)


def model(
    one_shot: float, accuracy: float, *, milliseconds: float = 2.0, size: int = 1000, doubted: str = ""
) -> Measurement:
    """Return a trained model."""
    return Measurement(
        accuracy=accuracy,
        latency=latency(milliseconds),
        size_bytes=size,
        params=1,
        macs=1,
        one_shot_accuracy=one_shot,
        doubted=doubted,
        epochs=1.0,
        seconds={"build": 1.0, "train": 8.0, "accuracy": 1.0},
    )


def on_a_line(count: int, noise: float = 0.01) -> list[Measurement]:
    """Return models whose accuracy is half of that before training, and a half."""
    rng = np.random.default_rng(0)
    return [model(x, 0.5 + x / 2 + noise * rng.standard_normal()) for x in np.linspace(0.1, 0.9, count)]


def test_the_line_is_learned() -> None:
    """Accuracies that go together are found to do so; how far they may lie off is about what they do."""
    promotion = learned(on_a_line(40), [], np.random.default_rng(0))
    assert promotion is not None
    assert promotion.slope == pytest.approx(0.5, abs=0.05)
    assert promotion.intercept == pytest.approx(0.5, abs=0.03)
    assert 0.01 < promotion.give < 0.03


def test_those_that_training_made_worse_count_too() -> None:
    """They keep what they had, and predict little."""
    vain = [replace(m, accuracy=0.9, epochs=0.0) for m in [model(0.9, 0.9)] * 20]
    hopeful = learned(on_a_line(20), [], np.random.default_rng(0))
    sober = learned([*on_a_line(20), *vain], [], np.random.default_rng(0))
    assert hopeful is not None
    assert sober is not None
    assert sober.intercept + 0.9 * sober.slope < hopeful.intercept + 0.9 * hopeful.slope


@pytest.mark.parametrize("models", [on_a_line(LEAST - 1), [], [model(0.5, 0.8)] * 3])
def test_few_models_tell_nothing(models: Sequence[Measurement]) -> None:
    """Until some models were trained, nobody is doubted."""
    assert learned(models, models, np.random.default_rng(0)) is None


@given(st.floats(0.0, 1.0), st.floats(0.5, 4.0), st.integers(100, 5000))
def test_only_the_dominated_are_doubted(one_shot: float, milliseconds: float, size: int) -> None:
    """Doubts name a model of the front that is as fast and as small, and more accurate than the optimistic estimate."""
    models = on_a_line(20)
    promotion = learned(models, models, np.random.default_rng(0))
    assert promotion is not None
    hoped = max(one_shot, promotion.intercept + promotion.slope * one_shot + promotion.give)
    rivals = [m for m in models if m.accuracy > hoped]
    dominated = any(r.latency.median_ms <= latency(milliseconds).median_ms and r.size_bytes <= size for r in rivals)
    assert bool(promotion.doubt(one_shot, latency(milliseconds), size)) == dominated


def test_some_of_the_doubted_are_spared() -> None:
    """About a tenth, by chance, to learn how often doubts are wrong."""
    models = on_a_line(20)
    found = [learned(models, models, np.random.default_rng(seed)) for seed in range(400)]
    spared = [promotion.spared for promotion in found if promotion is not None]
    assert 0.04 < np.mean(spared) < 0.17


def test_what_was_saved_is_told() -> None:
    """Each candidate that ended early would have taken the mean training; those spared tell how often it was wrong."""
    trained = [*on_a_line(8), model(0.1, 0.9, doubted="behind the front"), model(0.1, 0.4, doubted="nor of it")]
    slow = [Infeasible(reason="too slow", rung="latency", latency=latency(9.0))] * 6
    cut = [Infeasible(reason="behind the front", rung="one-shot", one_shot_accuracy=0.1)] * 4
    broken = [Infeasible(reason="ValueError: no", rung="one-shot")]
    text = savings([*((each,) for each in trained), *slow, *cut, *broken], trained[:9])
    assert "6 candidates stopped after timing, 4 before training" in text
    assert "50% of all training" in text
    assert "of 2 trained despite a poor prediction, 1 came onto the front" in text
    assert savings([(each,) for each in trained], trained) == ""
