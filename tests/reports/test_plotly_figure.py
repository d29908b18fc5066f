"""The front as a Plotly figure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import autocompress
from autocompress.pareto.front import ParetoFront

MadeRun = Callable[..., Path]


def test_a_figure_shows_every_model_with_its_interval(front: ParetoFront) -> None:
    """The front, the unchanged network and the target are in it."""
    figure = autocompress.plot_front(front)
    by_name = {trace.name: trace for trace in figure.data}
    assert list(by_name["Pareto front"].x) == [m.measurement.latency.median_ms for m in front.models]
    assert len(by_name["Pareto front"].error_x.array) == len(front.models)
    assert list(by_name["unchanged network"].y) == [front.baseline.measurement.accuracy]
    assert figure.layout.shapes[0].x0 == front.target_ms
