"""A least accuracy is parsed with its sign and its unit."""

from __future__ import annotations

import pytest

from autocompress.errors import UsageError
from autocompress.pareto.limit_options import parse_accuracy
from autocompress.pareto.limits import same_unit


@pytest.mark.parametrize(
    ("text", "accuracy"),
    [
        *(("0.88", (0.88, False, None)), ("88%", (0.88, False, "%")), ("1", (1.0, False, None))),
        *(("0", (0.0, False, None)), ("-0.5%", (-0.005, True, "%")), ("-0.005", (-0.005, True, None))),
        *((" -2 % ", (-0.02, True, "%")), ("+1%", (0.01, True, "%")), ("+0", (0.0, True, None))),
        *(("-0%", (0.0, True, "%")), ("27.5", (27.5, False, None)), ("27.5 dB", (27.5, False, "dB"))),
        *(("-0.3dB", (-0.3, True, "dB")), ("-1e-3dB", (-0.001, True, "dB")), ("-1300px", (-1300.0, True, "px"))),
    ],
)
def test_an_accuracy_with_a_sign_is_a_difference(text: str, accuracy: tuple[float, bool, str | None]) -> None:
    """A plain number is on the metric's scale, one with a sign is to the unchanged network's; each may have a unit."""
    assert parse_accuracy(text) == accuracy


@pytest.mark.parametrize(
    "text", ["", "abc", "nan", "inf", "0.88.1", "--1", "-", "%", "0,88", "88 %%", "3 d B", "5 thirteenths"]
)
def test_bad_accuracies_are_refused(text: str) -> None:
    """The message names the option, all forms, and what came."""
    with pytest.raises(UsageError) as caught:
        parse_accuracy(text)
    for part in ("--min-accuracy", "0.88", "unchanged network", "-0.5%", "-0.3dB", repr(text)):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("text", "unit", "example"),
    [("-0.5%", "dB", "-0.3dB"), ("-0.3dB", "%", "-0.5%"), ("88 percent", "%", "-0.5%"), ("-0.3dB", "px", "-0.3px")],
)
def test_a_least_accuracy_has_the_metrics_unit(text: str, unit: str, example: str) -> None:
    """Another unit than the metric's is refused with the one that it has, an example and the one that came."""
    _, _, given = parse_accuracy(text)
    with pytest.raises(UsageError) as caught:
        same_unit(given, unit)
    for part in ("--min-accuracy", f"its unit, {unit}", example, f"got one in {given}"):
        assert part in str(caught.value)


@pytest.mark.parametrize("unit", [None, ""])
def test_a_unit_that_is_not_known_is_not_guessed(unit: str | None) -> None:
    """Where the task says no unit, a word is refused with the way to say it; per cent may yet be right."""
    with pytest.raises(UsageError, match='Task\\(metric_unit="dB"\\)'):
        same_unit("dB", unit)
    same_unit(None, unit)
    same_unit("%", None)
    with pytest.raises(UsageError, match="got one in %"):
        same_unit("%", "")
    same_unit("db", "dB")
