"""Options are checked where they enter."""

from __future__ import annotations

from pathlib import Path

import pytest

from autocompress.errors import UsageError
from autocompress.pareto.limit_options import parse_limits
from autocompress.pareto.limits import Limits
from autocompress.search.options import SAMPLERS, Options


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
        ("batch", 0, "--batch must be 1 or more; got 0."),
        ("percentile", 100.0, "--percentile must be between 1 and 99; got 100."),
        (
            "runtimes",
            ("fake", "fake"),
            "--runtime must name one runtime or several different ones; got ['fake', 'fake'].",
        ),
        ("runtimes", (), "--runtime must name one runtime or several different ones; got []."),
        ("trials", 2.5, "--trials must be a whole number; got 2.5, of type float."),
        ("seed", True, "--seed must be a whole number; got True, of type bool."),
        ("target_ms", float("nan"), "--target-latency must be a finite number; got nan, of type float."),
        ("measure_on", "edge", "--measure-on must be names, in a tuple; got 'edge', of type str."),
        ("epochs", -0.5, "--epochs must be 0 or more; got -0.5."),
        ("final_epochs", -1.0, "--final-epochs must be 0 or more; got -1."),
        ("sampler", "gp", f"--sampler must be one of: {', '.join(SAMPLERS)}; got 'gp'."),
    ],
)
def test_values_out_of_range_are_refused(name: str, value: object, said: str) -> None:
    """The message gives the rule and the value that came."""
    with pytest.raises(UsageError) as caught:
        Options(**{"target_ms": 5.0, "out": Path("out"), name: value})  # type: ignore[arg-type]
    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"ray_address": "auto", "workers": 0}, "--ray-address needs --workers 1 or more"),
        ({"measure_on": ("edge",)}, "--measure-on edge needs --ray-address"),
        ({"ray_address": "auto", "measure_on": ("edge", "edge")}, "--measure-on must name different resources"),
        ({"ray_address": "ray://head:10001"}, "--ray-address ray://HOST:PORT needs --measure-on NAME"),
        ({"trial_memory_bytes": 1e9, "workers": 0}, "Give --workers 1 or more"),
    ],
)
def test_options_that_do_not_fit_together_are_refused(more: dict[str, object], said: str) -> None:
    """The message names both options."""
    with pytest.raises(UsageError, match=said):
        Options(target_ms=5.0, out=Path("out"), **more)  # type: ignore[arg-type]


def test_deployments_are_runtimes_times_devices() -> None:
    """Each runtime serves a model on each device."""
    two = ("fake", "onnxruntime")
    options = Options(target_ms=5.0, out=Path("out"), runtimes=two, ray_address="auto", measure_on=("edge", "server"))
    assert options.deployments == 4
    assert Options(target_ms=5.0, out=Path("out"), runtimes=two).deployments == 2


@pytest.mark.parametrize(
    ("name", "value"), [("trials", 1), ("workers", 0), ("seed", 0), ("epochs", 0.0), ("final_epochs", None)]
)
def test_the_least_values_are_taken(name: str, value: object) -> None:
    """A range includes its end."""
    assert getattr(Options(target_ms=5.0, out=Path("out"), **{name: value}), name) == value  # type: ignore[arg-type]
