"""What the user asked for is checked where it enters."""

from __future__ import annotations

from pathlib import Path

import pytest

from autocompress.errors import UsageError
from autocompress.search.options import SAMPLERS, Options, parse_duration, parse_latency

BAD = ["", "5", "ms", "-1ms", "0ms", "0.0s", "abc", "5 parsecs", "5ms5", "1e3ms", "5 m s", "nan ms", "infms", "5,5ms"]


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [("5ms", 5.0), (" 5 ms ", 5.0), (".5ms", 0.5), ("2.ms", 2.0), ("800us", 0.8), ("800µs", 0.8), ("0.02s", 20.0)],
)
def test_latencies_are_read_in_their_unit(text: str, milliseconds: float) -> None:
    """Microseconds, milliseconds and seconds all become milliseconds."""
    assert parse_latency(text) == milliseconds


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90.0), ("10m", 600.0), ("10min", 600.0), ("1.5h", 5400.0), (" 2 h", 7200.0)]
)
def test_durations_are_read_in_their_unit(text: str, seconds: float) -> None:
    """Seconds, minutes and hours all become seconds."""
    assert parse_duration(text, "--time-budget") == seconds


@pytest.mark.parametrize("text", [*BAD, "5m", "5h"])
def test_bad_latencies_are_refused(text: str) -> None:
    """The message names the option, the rule, an example, and what came."""
    with pytest.raises(UsageError) as caught:
        parse_latency(text)
    for part in ("--target-latency", "positive number with a unit", "5ms", repr(text)):
        assert part in str(caught.value)


@pytest.mark.parametrize("text", [*BAD, "5ms", "5us"])
def test_bad_durations_are_refused(text: str) -> None:
    """The message names the option that was given, the rule, an example, and what came."""
    with pytest.raises(UsageError) as caught:
        parse_duration(text, "--trial-timeout")
    for part in ("--trial-timeout", "positive number with a unit", "10m", repr(text)):
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("trials", 0, "--trials must be 1 or more; got 0."),
        ("workers", -1, "--workers must be 0 or more; got -1."),
        ("threads", 0, "--threads must be 1 or more; got 0."),
        ("seed", -3, "--seed must be 0 or more; got -3."),
        ("epochs", -0.5, "--epochs must be 0 or more; got -0.5."),
        ("final_epochs", -1.0, "--final-epochs must be 0 or more; got -1."),
        ("sampler", "gp", f"--sampler must be one of: {', '.join(SAMPLERS)}; got 'gp'."),
    ],
)
def test_values_out_of_range_are_refused(name: str, value: object, said: str) -> None:
    """The message gives the rule and the value that came."""
    with pytest.raises(UsageError) as caught:
        Options(target_ms=5.0, out=Path("out"), **{name: value})  # type: ignore[arg-type]
    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("name", "value"), [("trials", 1), ("workers", 0), ("seed", 0), ("epochs", 0.0), ("final_epochs", None)]
)
def test_the_least_values_are_taken(name: str, value: object) -> None:
    """A range includes its end."""
    assert getattr(Options(target_ms=5.0, out=Path("out"), **{name: value}), name) == value  # type: ignore[arg-type]
