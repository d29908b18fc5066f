"""The front as a Plotly figure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import autocompress
from autocompress.pareto.front import ParetoFront

MadeRun = Callable[..., Path]


@pytest.fixture(scope="module")
def front(made_run: MadeRun, tmp_path_factory: pytest.TempPathFactory) -> ParetoFront:
    """Return the front of a run, by the public names alone."""
    opened = autocompress.open_run(made_run(tmp_path_factory.mktemp("runs") / "run", trials=24))
    found = opened.front()
    assert isinstance(found, autocompress.ParetoFront)
    return found


def test_a_figure_shows_every_model_with_its_interval(front: ParetoFront) -> None:
    """The front, the unchanged network and the target are in it."""
    figure = autocompress.plot_front(front)
    by_name = {trace.name: trace for trace in figure.data}
    assert list(by_name["Pareto front"].x) == [m.measurement.latency.median_ms for m in front.models]
    assert len(by_name["Pareto front"].error_x.array) == len(front.models)
    assert list(by_name["unchanged network"].y) == [front.baseline.measurement.accuracy]
    assert figure.layout.shapes[0].x0 == front.target_ms
