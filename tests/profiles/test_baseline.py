"""A study whose unchanged network cannot be served is refused."""

from __future__ import annotations

import pytest

from autocompress.errors import InfeasibleError, StudyError
from autocompress.profiles.baseline import baseline_required


def test_the_reason_and_the_way_out_are_told() -> None:
    """An infeasible baseline is a mistake of the study, with the rule, the reason and the way out."""
    with pytest.raises(StudyError) as caught, baseline_required():
        raise InfeasibleError("it does not export.", rung="build")
    assert str(caught.value) == (
        "the unchanged network must be exported, served and timed before anything can be compared to it; that failed: "
        "it does not export. Change what its forward does, or serve it with another runtime"
    )


def test_decisions_of_the_exporter_are_named() -> None:
    """Lines whose decisions the exporter fixed are the likely cause."""
    said = r"differ \(the exporter fixed decisions .*, in net\.py:7, net\.py:9\)"
    with pytest.raises(StudyError, match=said), baseline_required(["net.py:7", "net.py:9"]):
        raise InfeasibleError("the outputs differ", rung="build")


def test_other_errors_pass() -> None:
    """A defect is no mistake of the study."""
    with pytest.raises(ZeroDivisionError), baseline_required():
        raise ZeroDivisionError
