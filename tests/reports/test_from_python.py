"""A front is used from Python: picked from, loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import autocompress
from autocompress.errors import AutocompressError, UsageError
from autocompress.pareto.front import ParetoFront

MadeRun = Callable[..., Path]


def test_a_model_is_picked_from_a_front(front: ParetoFront, tmp_path: Path) -> None:
    """By default the recommended one; else by id, by the knee, or by another target."""
    best, knee = front.recommended, front.knee
    assert best is not None
    assert knee is not None
    assert autocompress.pick(front, out=tmp_path / "best").model == best
    assert autocompress.pick(front, best.id, out=str(tmp_path / "id")).model == best
    assert autocompress.pick(front, knee=True, out=tmp_path / "knee").model == knee
    other = autocompress.pick(front, target_latency="3ms", out=tmp_path / "other")
    assert other.model.measurement.latency.high_ms <= 3.0
    assert (other.folder / "load.py").exists()


def test_a_front_picks_by_its_own_limits(front: ParetoFront, tmp_path: Path) -> None:
    """One that was asked for with another target recommends for that."""
    strict = autocompress.open_run(front.where).front(replace(front.limits, target_ms=2.5))
    assert autocompress.pick(strict, out=tmp_path / "copy").model == strict.recommended
    impossible = autocompress.open_run(front.where).front(replace(front.limits, target_ms=0.01))
    with pytest.raises(AutocompressError, match=r"must meet 0\.01 ms; none does"):
        autocompress.pick(impossible, out=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_model_is_loaded(front: ParetoFront) -> None:
    """It answers as it did when it was measured."""
    model = front.models[0]
    predict = autocompress.load_model(front, model)
    with np.load(Path(front.where) / model.path / "predictions.npz") as stored:
        np.testing.assert_allclose(predict(stored["input0"]), stored["output"], rtol=1e-5)


def test_a_model_without_files_is_not_loaded(front: ParetoFront) -> None:
    """The message names the model."""
    gone = replace(front.models[0], path="")
    with pytest.raises(UsageError, match=f"those of {gone.id} were not kept"):
        autocompress.load_model(front, gone)


def test_a_front_without_a_directory_has_no_files(front: ParetoFront) -> None:
    """Its models are neither picked nor loaded, and the message says how to get such a front."""
    alone = replace(front, where="")
    message = r"must come from a run directory.* Take the front of autocompress\.open_run"
    with pytest.raises(UsageError, match=message):
        autocompress.pick(alone)
    with pytest.raises(UsageError, match=message):
        autocompress.load_model(alone, alone.models[0])
