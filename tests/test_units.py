"""Quantities with a unit are parsed, and what is none is refused."""

from __future__ import annotations

import pytest

from autocompress.errors import UsageError
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
