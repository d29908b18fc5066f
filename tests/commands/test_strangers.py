"""A run directory that a stranger has made: nothing of it runs, nothing is written elsewhere, and an error says why."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from autocompress import cli
from autocompress.storage.run import open_run

MadeRun = Callable[..., Path]

Attack = Callable[[Path], None]


@pytest.fixture
def run(made_run: MadeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a finished run, two folders below the user's, who works in that above it."""
    monkeypatch.delenv("AUTOCOMPRESS_STORAGE", raising=False)
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "secret").write_text("a secret")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return made_run(tmp_path / "work" / "runs" / "theirs", trials=8)


def call(*words: object) -> Result:
    """Return what a command line does."""
    return CliRunner().invoke(cli.app, list(map(str, words)))


def refused(result: Result, said: str) -> None:
    """Check that a command has ended with a sentence of ours."""
    assert (result.exit_code, type(result.exception)) == (2, SystemExit), result.output
    assert said in result.output.replace("\n", " ")
    assert "Traceback" not in result.output


def files(tmp_path: Path, but: Path) -> dict[str, bytes]:
    """Return all files that are not the run's."""
    found = (path for path in tmp_path.rglob("*") if path.is_file() and not path.is_relative_to(but))
    return {str(path): path.read_bytes() for path in found}


def rewritten(file: Path, change: Callable[[Any], object]) -> None:
    """Change a JSON file in place."""
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def best(run: Path) -> Path:
    """Return the folder of the model that would be picked."""
    opened = open_run(run)
    recommended = opened.front().recommended
    assert recommended is not None
    return run / recommended.path


def code_in(place: Path) -> Path:
    """Write Python code that leaves a mark where it runs."""
    path = place / "evil.py"
    mark = str(place / "it ran")
    path.write_text(f"from pathlib import Path\nPath({mark!r}).touch()\nVARIANTS = {{}}\n")
    return path


@pytest.mark.parametrize("name", ["../../../evil", "/etc/passwd", "..", "", "numpy.py", "a/model.onnx", 7])
def test_a_record_cannot_name_a_file_elsewhere(name: object, run: Path, tmp_path: Path) -> None:
    """It is refused by all that reads the run."""
    (run / "evil").write_text("theirs")
    rewritten(best(run) / "measurement.json", lambda record: record.update(file=name))
    before = files(tmp_path, run)
    for words in (("pick", run, "-o", "copy"), ("report", run), ("compare", run, run)):
        refused(call(*words), "must name a file such as model.onnx")
    assert files(tmp_path, run) == before


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ('x"""\nimport os\n"""', "no line of text"),
        ('x"""', "no study's name"),
        ("../../home/x", "no study's name"),
        ("\x1b[2Jx", "no line of text"),
    ],
)
def test_a_study_s_name_is_a_name(name: str, said: str, run: Path, tmp_path: Path) -> None:
    """It becomes part of a program and of a folder's name."""
    rewritten(run / "study.json", lambda study: study.update(study=name))
    before = files(tmp_path, run)
    for words in (("pick", run), ("report", run)):
        refused(call(*words), said)
    assert files(tmp_path, run) == before


def test_a_runtime_in_a_file_runs_only_where_it_is_named(run: Path, tmp_path: Path) -> None:
    """A report and a copy that is not tried need it not; else the user must say so."""
    evil = code_in(tmp_path / "home")
    rewritten(best(run) / "measurement.json", lambda record: record["latency"].update(runtime=str(evil)))
    assert call("report", run).exit_code == 0
    refused(call("pick", run, "-o", "copy"), f"name it: --runtime {evil}")
    assert not Path("copy").exists()
    copied = call("pick", run, "-o", "copy", "--no-check")
    assert copied.exit_code == 0, copied.output
    assert not (tmp_path / "home" / "it ran").exists()


@pytest.mark.parametrize("runtime", ["pytorch:eager", "pytorch:aoti"])
def test_a_model_that_is_code_runs_only_where_its_runtime_is_named(runtime: str, run: Path) -> None:
    """What PyTorch has exported or compiled can do anything when it is loaded."""
    rewritten(best(run) / "measurement.json", lambda record: record["latency"].update(runtime=runtime))
    refused(call("pick", run, "-o", "copy"), f"name it: --runtime {runtime}")
    assert not Path("copy").exists()


def test_no_database_is_asked_that_the_user_has_not_named(run: Path) -> None:
    """Whatever ``study.json`` says, nobody is reported that the directory was opened."""
    with socket.create_server(("127.0.0.1", 0)) as theirs:
        theirs.settimeout(0.2)
        url = f"postgresql://127.0.0.1:{theirs.getsockname()[1]}/study"
        rewritten(run / "study.json", lambda study: study["asked"].update(storage=url))
        for words in (("pick", run), ("report", run), ("compare", run, run)):
            refused(call(*words), "Only a database that you name is asked")
        with pytest.raises(TimeoutError):
            theirs.accept()


def linked_model(run: Path) -> None:
    """Have a secret copied with the model."""
    stored = best(run) / "predictions.npz"
    stored.unlink()
    stored.symlink_to("../../../../../home/secret")


def linked_models(run: Path) -> None:
    """Have folders of the user's tidied away."""
    (run / "models").rename(run.parent / "moved")
    (run / "models").symlink_to("../../../home")


def linked_report(run: Path) -> None:
    """Have a file of the user's written."""
    (run / "report.html").symlink_to("/tmp/somewhere")


def waiting(run: Path) -> None:
    """Make a process that opens it wait for ever."""
    (run / ".lock").unlink()
    os.mkfifo(run / ".lock")


def waiting_first(run: Path) -> None:
    """Make a process that reads it wait for ever."""
    (run / "study.json").unlink()
    os.mkfifo(run / "study.json")


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("attack", "said"),
    [
        (linked_model, "is a link out of it"),
        (linked_models, "is a link out of it"),
        (linked_report, "is a link out of it"),
        (waiting, "is neither"),
        (waiting_first, "is neither"),
    ],
)
def test_nothing_leads_out_of_a_run_directory(attack: Attack, said: str, run: Path, tmp_path: Path) -> None:
    """Neither to be read, nor to be written, nor to be resumed."""
    attack(run)
    before = files(tmp_path, run)
    for words in (("pick", run), ("report", run), ("--target-latency", "4ms", "--out", run)):
        refused(call(*words), said)
    assert files(tmp_path, run) == before


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("study.json", lambda study: study["asked"].update(limits=7)),
        ("study.json", lambda study: study["asked"].update(unheard_of=1)),
        ("study.json", lambda study: study.pop("study")),
        ("profile.json", lambda profile: profile.update(profile=[])),
        ("finished.json", lambda finished: finished.update(limits={})),
    ],
)
def test_what_is_not_as_it_was_written_is_a_sentence(
    file: str, change: Callable[[Any], object], run: Path, tmp_path: Path
) -> None:
    """No error of Python's is seen."""
    rewritten(run / file, change)
    refused(call("report", run), "must be as autocompress writes it")


def test_what_a_stranger_says_is_only_shown(run: Path) -> None:
    """A card has no markup of theirs, and a program no code."""
    rewritten(run / "study.json", lambda study: study["asked"]["about"].update(description="<script>evil()</script>"))
    evil = {"cpu](javascript:evil())": "<img src=x>"}
    rewritten(best(run) / "measurement.json", lambda record: record["latency"].update(environment=evil))
    done = call("pick", run, "-o", "copy")
    assert done.exit_code == 0, done.output
    text = (Path("copy") / "README.md").read_text()
    assert "<script" not in text.replace("\\<", "")
    assert "<img" not in text.replace("\\<", "")
    assert re.search(r"(?<!\\)\]\(", text) is None
