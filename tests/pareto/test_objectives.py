"""The objectives of a study and the hypervolume of its models."""

from __future__ import annotations

import numpy as np
import pytest

from autocompress.evaluators.measurement import Latency, Measurement, Window
from autocompress.pareto.dominance import hypervolume
from autocompress.pareto.objectives import front_hypervolume, minimised, reference_accuracy, relative


def measured(*, accuracy: float = 0.9, ms: float = 1.0, size: int = 1000, spread: float = 0.0) -> Measurement:
    """Return a measurement with a latency interval of about ms · (1 ± 2.5 · spread)."""
    windows = tuple(
        Window(baseline_ns=(10**9,), candidate_ns=(round(ms * 1e8 * (1 + i * spread)),)) for i in (-1, 0, 1)
    )
    latency = Latency(windows=windows, baseline_ms=10.0)
    return Measurement(accuracy=accuracy, latency=latency, size_bytes=size, params=10, macs=100)


def test_no_points_no_volume() -> None:
    """The empty front has no volume."""
    assert hypervolume(np.empty((0, 3)), np.ones(3)) == 0.0
    assert front_hypervolume([], measured(), 5.0) == 0.0


def test_front_hypervolume_lies_between_nothing_and_everything() -> None:
    """An ideal model fills the box; one that is slower than the target or loses a tenth adds nothing."""
    baseline = measured(accuracy=0.9, ms=10.0, size=1000)
    ideal = measured(accuracy=0.95, ms=1e-6, size=0)
    assert front_hypervolume([ideal], baseline, 5.0) == pytest.approx(1.0)
    useless = [measured(ms=6.0, size=10), measured(accuracy=0.8, size=10)]
    assert front_hypervolume(useless, baseline, 5.0) == 0.0


@pytest.mark.parametrize("accuracy", [0.9, -0.35, 0.0])
def test_points_are_relative_to_an_ideal_and_a_reference_point(accuracy: float) -> None:
    """The baseline's accuracy for nothing is 0, and the reference point is 1 in every objective."""
    ideal, reference = (-accuracy, 0.0, 0.0), (-reference_accuracy(accuracy), 5.0, 1000.0)
    found = relative(np.array([ideal, reference]), accuracy=accuracy, latency_ms=5.0, size_bytes=1000)
    assert found == pytest.approx(np.array([[0.0] * 3, [1.0] * 3]))


def test_every_objective_is_minimised() -> None:
    """A more accurate, a faster and a smaller model each have a lower coordinate."""
    one, other = minimised([measured(), measured(accuracy=0.95, ms=0.5, size=10)])
    assert (other < one).all()
