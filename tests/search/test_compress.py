"""What a program can ask for in one call: all that the command line takes, checked before anything is done."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
import typer
from PIL import Image
from torch import nn

import autocompress
from autocompress import Interrupted, Limits, Options, Task, UsageError, compress
from autocompress.cli import app
from autocompress.commands.groups import DEFAULT
from autocompress.pareto.limit_options import LIMITS
from autocompress.reports.pick.selection import parse_selection
from autocompress.search import compress as api
from autocompress.search.options import QUANTITIES
from autocompress.search.progress import Lines

ON_A_TERMINAL = {"quiet", "whole", "dry_run", "version"}
"""What only a command line has: how it prints, and other things to do than to compress."""

IN_A_PROGRAM = {"progress"}

FIELDS = {
    "target_latency": "target_ms",
    "max_size": "max_size_bytes",
    "max_memory": "max_memory_bytes",
    "max_energy": "max_energy_mj",
    **{name: field for name, (field, _) in QUANTITIES.items()},
}

Asked = Callable[..., tuple[str, Options, Any, dict[str, object]]]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """Return a function that calls `compress` up to where a run begins, and returns what that is asked for."""

    def call(*given: object, **options: object) -> tuple[str, Options, Any, dict[str, object]]:
        found: list[Any] = []
        monkeypatch.setattr(api, "run", lambda *args, source: found.extend([*args, source]))
        compress(*given, **options)  # type: ignore[arg-type]
        name, load, asked, progress, source = found
        assert progress is None or isinstance(progress, Lines)
        return name, asked, load, source

    return call


def network() -> Task:
    """Return a small task."""
    net, batch = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), (torch.zeros(2, 4), torch.zeros(2).long())
    return Task(net, torch.zeros(1, 4), [batch], [batch])


def test_a_call_takes_what_the_command_line_takes() -> None:
    """Every option of the command is a parameter of `compress` with the same default, and every field of `Options`."""
    command = typer.main.get_command(app).commands[DEFAULT]  # type: ignore[attr-defined]
    typed = {param.name.replace("runtime", "runtimes"): param.default for param in command.params}
    taken = {name: param.default for name, param in inspect.signature(compress).parameters.items()}
    assert typed.keys() - ON_A_TERMINAL == taken.keys() - IN_A_PROGRAM - {"min_change"} | (
        typed.keys() & {"min_change"}
    )
    optional = {"target_latency", "runtimes", "measure_on"}  # of which a command line has none, or a list
    assert {n: d for n, d in typed.items() if n in taken and n not in optional} == {
        n: d for n, d in taken.items() if n in typed and n not in optional
    }
    beside = {"study", "data", "data_dir", "weights", *IN_A_PROGRAM}
    given = {field.name for field in fields(Options)} - {"unit"}  # that comes with a least accuracy
    assert {FIELDS.get(name, name) for name in taken.keys() - beside} == given
    defaults = {field.name: field.default for field in fields(Options) if field.default is not MISSING}
    as_typed = {n: d for n, d in taken.items() if n in defaults and n not in (*LIMITS, *optional, "out")}
    assert as_typed == {name: defaults[name] for name in as_typed}


def test_quantities_are_words_or_numbers(asked: Asked) -> None:
    """Both ask for the same, and a number of a metric may have any sign."""
    words = {"max_size": "4MB", "max_memory": "60MB", "max_energy": "5mJ", "time_budget": "10m", "trial_memory": "8GB"}
    numbers = {"max_size": 4_000_000, "max_memory": 6e7, "max_energy": 5.0, "time_budget": 600, "trial_memory": 8e9}
    _, in_words, _, _ = asked("digits", "5ms", min_accuracy="-0.5%", trial_timeout="2m", **words)
    _, in_numbers, _, _ = asked("digits", 5, min_change=-0.005, trial_timeout=120.0, **numbers)
    assert in_words == in_numbers
    assert in_words.limits == Limits(
        5.0, min_change=-0.005, max_size_bytes=4e6, max_memory_bytes=6e7, max_energy_mj=5.0
    )
    assert asked("digits", 5, min_accuracy=-0.35)[1].limits == Limits(5.0, min_accuracy=-0.35)


def test_choosing_takes_what_asking_takes() -> None:
    """`pick` has what chooses a model written out, and its limits are of the same types as `compress`'s."""
    asked, taken = (inspect.signature(f).parameters for f in (compress, autocompress.pick))
    assert {*inspect.signature(parse_selection).parameters} - {"run"} <= {*taken}
    limits = {name for name in LIMITS if name in taken}
    assert len(limits) == 5
    for name in limits - {"target_latency"}:
        assert taken[name].annotation == asked[name].annotation


def test_names_may_be_one_alone(asked: Asked, tmp_path: Path) -> None:
    """A runtime, a device and a path are taken as they are written."""
    name, options, _, source = asked(
        "digits", "5ms", runtimes="openvino", ray_address="auto", measure_on="edge", out=str(tmp_path), progress=print
    )
    assert (options.runtimes, options.measure_on, options.out) == (("openvino",), ("edge",), tmp_path)
    assert (name, source["study"]) == ("digits", "digits")
    assert asked("digits", "5ms", runtimes=["openvino", "mnn"])[1].runtimes == ("openvino", "mnn")
    assert asked(network(), "5ms")[1].out == Path("runs", "task")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"target_latency": -5}, "--target-latency must be a positive number with a unit .* got -5"),
        ({"target_latency": True}, "--target-latency must be a positive number .* got True"),
        ({"max_size": "4 parsecs"}, "--max-size must be a positive number with a unit .* got '4 parsecs'"),
        ({"trials": "12"}, "--trials must be a whole number; got '12', of type str"),
        ({"trials": 2.5}, "--trials must be a whole number; got 2.5, of type float"),
        ({"promote": "no"}, "--promote must be True or False; got 'no'"),
        ({"epochs": float("nan")}, "--epochs must be a finite number; got nan"),
        ({"min_accuracy": None, "min_change": "a lot"}, "--min-accuracy must be a number .* got 'a lot'"),
        ({"min_accuracy": "-1%", "min_change": -0.01}, "one least change can be asked for; got '-1%' and -0.01"),
        ({"sampler": "gp"}, "--sampler must be one of: surrogate"),
        ({"runtimes": [1]}, "--runtime must be names, in a tuple; got"),
        ({"study": 5}, "`study` must be a built-in name, .* got an object of type int"),
        ({"study": nn.Linear(2, 2)}, "got an object of type Linear. A network with its data is a Task"),
        ({"study": network(), "data": "imagefolder:x"}, "`data` belongs to a study that is loaded; a Task came with"),
    ],
)
def test_values_of_a_wrong_kind_are_refused(options: dict[str, Any], said: str, tmp_path: Path) -> None:
    """The message gives the rule and the value that came, before anything is loaded or written."""
    with pytest.raises(UsageError, match=said):
        compress(**{"out": tmp_path / "run", **options})
    assert list(tmp_path.iterdir()) == []


def test_pretrained_networks_take_data_and_weights(asked: Asked, tmp_path: Path) -> None:
    """A network of torchvision is made ready from a folder of images and a state dict, with nothing downloaded."""
    for label in ("cat", "dog"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (40, 30), (60 * i, 90, 7)).save(tmp_path / "images" / label / f"{i}.png")
    torch.save(torchvision.models.squeezenet1_1(num_classes=2).state_dict(), tmp_path / "weights.pth")
    data, weights = f"imagefolder:{tmp_path / 'images'}", str(tmp_path / "weights.pth")
    name, _, load, source = asked("torchvision:squeezenet1_1", "5ms", data=data, weights=weights)
    assert name == "torchvision-squeezenet1_1"
    assert source == {"study": "torchvision:squeezenet1_1", "data": data, "data_dir": None, "weights": weights}
    task = load()
    assert task.model(task.examples[0]).shape == (1, 2)


def test_what_is_raised_and_returned_is_public() -> None:
    """Type checkers see the same names as programs, and what is raised can be caught by name."""
    tree = ast.parse(Path(autocompress.__file__).read_text())
    seen = [node for node in tree.body if isinstance(node, ast.If)]
    imported = {
        alias.name: f"autocompress.{node.module}"
        for node in seen[0].body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert imported == autocompress._PUBLIC
    assert set(autocompress.__all__) == {"__version__", *autocompress._PUBLIC}
    for name in autocompress._PUBLIC:
        assert getattr(autocompress, name).__name__ == name
    assert issubclass(Interrupted, BaseException)
    assert not issubclass(Interrupted, Exception)
