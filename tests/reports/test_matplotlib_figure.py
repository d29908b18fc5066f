"""The front as a picture."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest

from autocompress.reports.matplotlib_figure import draw

from .conftest import front_for

PNG, SVG = b"\x89PNG\r\n\x1a\n", b"<?xml"


@pytest.mark.parametrize("target_ms", [4.0, 0.5])
def test_the_plot_is_a_picture(target_ms: float) -> None:
    """A PNG or an SVG is written, also where the front is empty and no trial was measured."""
    front = front_for(target_ms)
    for shown_front in (front, replace(front, models=(), references=())):
        for kind, begins in (("png", PNG), ("svg", SVG)):
            picture = io.BytesIO()
            draw(shown_front, [], picture, kind=kind)
            assert picture.getvalue().startswith(begins)
