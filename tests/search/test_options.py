"""What the user asked for is checked where it enters."""

from __future__ import annotations

from pathlib import Path

import pytest

from autocompress.errors import UsageError
from autocompress.pareto.limit_options import parse_accuracy, parse_limits
from autocompress.pareto.limits import Limits, same_unit
from autocompress.search.options import SAMPLERS, Options
from autocompress.units import parse_duration, parse_energy, parse_latency, parse_size

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
    ("text", "size"),
    [
        *(("4MB", 4e6), (" 4 MB ", 4e6), ("900kB", 9e5), ("900KB", 9e5), ("64KiB", 65536.0)),
        *(("1.5MiB", 1.5 * 2**20), ("1GB", 1e9), ("2GiB", 2.0**31), ("12B", 12.0), (".5MB", 5e5)),
    ],
)
def test_sizes_are_read_in_their_unit(text: str, size: float) -> None:
    """Multiples of a thousand and of 1024 all become bytes."""
    assert parse_size(text, "--max-size") == size


@pytest.mark.parametrize("text", [*BAD, "4", "4M", "4Mb", "4mb", "0MB", "-4MB", "5mJ"])
def test_bad_sizes_are_refused(text: str) -> None:
    """The message names the option that was given, the rule, an example, and what came; bits are no bytes."""
    with pytest.raises(UsageError) as caught:
        parse_size(text, "--max-memory")
    for part in ("--max-memory", "positive number with a unit", "4MB", repr(text)):
        assert part in str(caught.value)


@pytest.mark.parametrize(("text", "energy"), [("5mJ", 5.0), ("0.25 J", 250.0), ("800uJ", 0.8), ("800µJ", 0.8)])
def test_energies_are_read_in_their_unit(text: str, energy: float) -> None:
    """Microjoules, millijoules and joules all become millijoules."""
    assert parse_energy(text) == pytest.approx(energy)


@pytest.mark.parametrize("text", [*BAD, "5MJ", "5mj", "5", "0J", "-1mJ", "5W"])
def test_bad_energies_are_refused(text: str) -> None:
    """The message names the option, the rule, an example, and what came; megajoules are no millijoules."""
    with pytest.raises(UsageError) as caught:
        parse_energy(text)
    for part in ("--max-energy", "positive number with a unit", "5mJ", repr(text)):
        assert part in str(caught.value)


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


def test_limits_are_fields_of_the_options() -> None:
    """What was asked for reaches the limits of a run, and nothing else does."""
    asked = parse_limits("5ms", min_accuracy="-1%", max_size="4MB", max_memory="60MB", max_energy="5mJ")
    assert Options(out=Path("out"), **asked).limits == Limits(  # type: ignore[arg-type]
        5.0, min_change=-0.01, max_size_bytes=4e6, max_memory_bytes=6e7, max_energy_mj=5.0
    )
    assert Options(out=Path("out"), **parse_limits("5ms", min_accuracy=0.9)).limits == Limits(5.0, min_accuracy=0.9)  # type: ignore[arg-type]
    assert Options(out=Path("out"), **parse_limits("5ms")).limits == Limits(5.0)  # type: ignore[arg-type]


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
