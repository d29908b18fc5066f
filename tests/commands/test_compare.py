"""The command that puts two runs beside each other."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from autocompress import cli

MadeRun = Callable[..., Path]


@pytest.fixture(scope="module")
def folder(made_run: MadeRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two runs of a runtime and one of another."""
    folder = tmp_path_factory.mktemp("user")
    made_run(folder / "one", trials=30)
    made_run(folder / "two", trials=30, seed=3, faster=1.2)
    made_run(folder / "other", runtime="openvino")
    return folder


def told(*words: object, code: int = 0) -> str:
    """Return what the command prints."""
    done = CliRunner(env={"COLUMNS": "80"}).invoke(cli.app, ["compare", *map(str, words)], catch_exceptions=False)
    assert done.exit_code == code, done.output
    return done.output


@pytest.mark.parametrize("other", ["two", "other"])
def test_the_table_fits_eighty_columns(other: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every model has a row, with a mark where the other run dominates it; the scale is reported."""
    monkeypatch.chdir(folder)
    text = told("one", other)
    assert max(map(len, text.splitlines())) <= 80 or other == "other"
    found = json.loads(told("one", other, "--json"))
    for side in ("a", "b"):
        for row in found[side]["models"][1:]:
            assert row["id"] in text
            assert not row["dominated_by"] or f"< {row['dominated_by']}" in text
    assert "B/A" in text
    assert found["by"] == ("milliseconds" if other == "two" else "ratios")
    assert found["hypervolume_ratio"] == pytest.approx(found["b"]["hypervolume"] / found["a"]["hypervolume"])
    for warning in found["warnings"]:
        assert f"Note: {warning}" in text


@pytest.mark.parametrize(("name", "start"), [("both.png", b"\x89PNG"), ("new/both.svg", b"<?xml")])
def test_both_fronts_are_drawn(name: str, start: bytes, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a file of the kind that its name says."""
    monkeypatch.chdir(folder)
    told("one", "other", "--plot", name)
    assert (folder / name).read_bytes().startswith(start)


@pytest.mark.parametrize(
    ("words", "said"), [(("one", "none"), "has none"), (("one", "two", "--plot", "a.gif"), "--plot must name a file")]
)
def test_what_cannot_be_compared_is_told(
    words: tuple[str, ...], said: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With exit code 2."""
    monkeypatch.chdir(folder)
    assert said in told(*words, code=2)
