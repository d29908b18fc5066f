"""What a shell offers when Tab is pressed."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from autocompress.cli import app
from autocompress.search.options import SAMPLERS
from autocompress.storage.run_directory import RunDirectory

RUNNER = CliRunner()


def offered(line: str) -> list[str]:
    """Return what bash would offer at the end of a line."""
    words = line.split(" ")
    environment = {
        "_AUTOCOMPRESS_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    done = RUNNER.invoke(app, [], prog_name="autocompress", env=environment)
    assert done.exit_code == 0, done.output
    return done.stdout.split()


@pytest.fixture(autouse=True)
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder with a study, another Python file and a run directory."""
    monkeypatch.chdir(tmp_path)
    Path("my_net.py").write_text("def task():\n    ...\n")
    Path("helpers.py").write_text("x = 1\n")
    RunDirectory(Path("runs", "digits"), {"study": "digits"}).close()


def test_the_first_word_may_be_a_study_or_a_command() -> None:
    """Built-in studies, libraries of models, files with a task, and commands, but not the one without a name."""
    first = offered("autocompress ")
    assert {"digits", "fashion_mnist", "torchvision:", "timm:", "my_net.py", "measure", "studies"} <= set(first)
    assert not {"compress", "helpers.py"} & set(first)
    assert offered("autocompress di") == ["digits"]


def test_commands_are_not_offered_after_an_option() -> None:
    """Behind --target-latency a study may stand, and no command."""
    later = offered("autocompress --target-latency 5ms ")
    assert "digits" in later
    assert "measure" not in later


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("autocompress --target-latency 5ms --sampler ", list(SAMPLERS)),
        ("autocompress --runtime openv", ["openvino"]),
        ("autocompress --runtime openvino:b", ["openvino:bf16"]),
        ("autocompress measure --runtime lit", ["litert"]),
        ("autocompress doctor --runtime lit", ["litert"]),
        ("autocompress digits --out ", ["runs/digits"]),
        ("autocompress digits --out runs/d", ["runs/digits"]),
        ("autocompress report ", ["runs/digits"]),
        ("autocompress --target-l", ["--target-latency"]),
        ("autocompress measure --ref", ["--reference"]),
    ],
)
def test_values_and_options_are_offered(line: str, expected: list[str]) -> None:
    """Samplers, runtimes with their variants, run directories, and the options of the command that is meant."""
    assert offered(line) == expected


def test_the_script_for_a_shell_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """It calls the program for what it offers."""
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")  # there is no shell here to be found
    done = RUNNER.invoke(app, ["--show-completion", "bash"], prog_name="autocompress")
    assert done.exit_code == 0
    assert "_AUTOCOMPRESS_COMPLETE=complete_bash" in done.stdout
