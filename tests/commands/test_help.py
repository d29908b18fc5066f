"""What a command says of itself."""

from __future__ import annotations

import json
import re
from importlib import import_module

import pytest
import typer
from typer.testing import CliRunner

from autocompress.cli import app
from autocompress.commands.groups import DEFAULT
from autocompress.commands.output import INTERRUPTED, MISSES, OK, USAGE
from autocompress.studies.names import STUDIES

COMMANDS = sorted(name for name in typer.main.get_group(app).commands if name != DEFAULT)
RUNNER = CliRunner()


def said(*words: str, columns: int = 80) -> str:
    """Return what a command prints on a terminal."""
    done = RUNNER.invoke(
        app, words, prog_name="autocompress", env={"COLUMNS": str(columns), "TERMINAL_WIDTH": str(columns)}
    )
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_has_examples_within_eighty_columns(command: str) -> None:
    """Each command shows how it is called, and no line is wider than 80 columns."""
    text = said(*filter(None, (command, "--help")))
    assert max(map(len, text.splitlines())) <= 80
    assert re.search(rf"Examples:\s+autocompress {command}", text)


def test_help_groups_options_and_tells_exit_codes() -> None:
    """Options are in panels by topic, and each exit code has its line."""
    text = said("--help")
    panels = re.findall(r"^╭─ (\w+)", text, flags=re.MULTILINE)
    assert panels == ["Arguments", "Options", "Target", "Search", "Measuring", "Cluster", "Files", "Output", "Commands"]
    for code in (OK, MISSES, USAGE, INTERRUPTED):
        assert re.search(rf"^ +{code} \w+", text, flags=re.MULTILINE)


def test_studies_lists_what_is_built_in() -> None:
    """Each built-in study with its network, data and metric, and what else a study may be."""
    text = said("studies", columns=200)
    for study in STUDIES:
        assert all(words in text for words in (study.name, study.network, study.data, study.metric))
    assert "FILE.py" in text
    assert "torchvision:NAME" in text
    assert "pip install 'autocompress[timm]'" in text
    assert max(map(len, said("studies").splitlines())) <= 80
    assert [study["name"] for study in json.loads(said("studies", "--json"))["studies"]] == [s.name for s in STUDIES]


def test_each_listed_study_is_there() -> None:
    """What is listed can be imported, and defines a task."""
    for study in STUDIES:
        assert callable(import_module(f"autocompress.studies.{study.name}").task)
