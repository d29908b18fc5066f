"""What was asked of a run is kept, without passwords, and printed as the command that resumes it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from autocompress import cli
from autocompress.commands import compress as command
from autocompress.pareto.limits import Limits
from autocompress.search.options import Options
from autocompress.storage.invocation import Invocation

RUN = Path("my runs/a")

EVERYTHING: dict[str, Any] = {
    "runtimes": ("onnxruntime", "openvino:bf16"),
    "trials": 40,
    "time_budget_s": 600.0,
    "workers": 0,
    "sampler": "tpe",
    "seed": 3,
    "threads": 2,
    "batch": 8,
    "percentile": 95.0,
    "promote": False,
    "inherit": False,
    "compact": True,
    "min_change": -0.005,
    "max_size_bytes": 4e6,
    "max_memory_bytes": 6e7,
    "storage": "sqlite:///study.db",
    "tensorboard": "events",
    "epochs": 2.0,
    "final_epochs": 4.5,
}


def test_what_was_kept_reads_back_equal() -> None:
    """JSON in between changes nothing."""
    asked = Options(target_ms=5.0, out=RUN, **EVERYTHING).invocation("net.py", {"data_dir": Path("data"), "data": None})
    assert Invocation.read(json.loads(json.dumps(asked.to_dict()))) == asked
    assert asked.source == {"data_dir": "data"}
    assert asked.limits == Limits(5.0, min_change=-0.005, max_size_bytes=4e6, max_memory_bytes=6e7)


@pytest.mark.parametrize("options", [{}, EVERYTHING])
def test_the_command_asks_for_the_same(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The printed command line parses to the options that were kept."""
    given = Options(target_ms=5.0, out=RUN, **options)
    words = shlex.split(given.invocation("net.py", {"weights": "a b.pt"}).command(RUN))
    found: list[object] = []
    monkeypatch.setattr(command, "_run", lambda *args, **_: found.extend(args) or 0)
    assert words[0] == "autocompress"
    result = CliRunner().invoke(cli.app, words[1:], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert found == ["net.py", "net", given, {"data": None, "data_dir": None, "weights": Path("a b.pt")}]


def test_the_command_tells_what_shall_change() -> None:
    """Another target and more trials take the place of those that were asked for."""
    asked = Options(target_ms=5.0, out=RUN, trials=24).invocation("digits")
    told = asked.command(RUN, limits=Limits(4.0), trials=44)
    assert told == "autocompress --target-latency 4ms --trials 44 --out 'my runs/a'"


@pytest.mark.parametrize("name", ["storage", "artifacts", "ray_address"])
@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("postgresql://me:secret@host/db", "postgresql://host/db"),
        ("mysql://host/db?user=me&pass=secret", "mysql://host/db"),
        ("s3://bucket/models?sig=secret", "s3://bucket/models"),
        ("webdav://me:se/secret@host/models", "webdav://host/models"),
    ],
)
def test_passwords_are_not_kept(name: str, url: str, kept: str) -> None:
    """Of a URL with a user, a password or a query the rest is kept, and the command names its option."""
    secret: dict[str, Any] = {name: url}
    asked = Options(target_ms=5.0, out=RUN, **secret).invocation("digits")
    assert "secret" not in json.dumps(asked.to_dict())
    assert kept in (asked.storage, *asked.options.values())
    assert asked.hidden == (name,)
    assert f"--{name.replace('_', '-')} URL" in asked.command(RUN)
    assert kept not in asked.command(RUN)


def test_an_address_without_a_secret_is_kept() -> None:
    """The command that resumes is whole then."""
    asked = Options(target_ms=5.0, out=RUN, storage="postgresql://host/db").invocation("digits")
    assert (asked.storage, asked.hidden) == ("postgresql://host/db", ())
    assert "--storage postgresql://host/db" in asked.command(RUN)


def test_a_task_from_python_has_no_command() -> None:
    """Nothing is printed that would run another network."""
    assert Options(target_ms=5.0, out=RUN).invocation().command(RUN) == ""
