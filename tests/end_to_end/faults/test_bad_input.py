"""What cannot be done is refused in one message, before anything is written."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from autocompress.evaluators.meters.energy import sources
from autocompress.storage.run_directory import RunDirectory

Command = Callable[..., subprocess.CompletedProcess[str]]

MISTAKES = {
    "no_task": "x = 1\n",
    "raises": "def task():\n    raise OSError('the disk is gone')\n",
    "returns": "def task():\n    return 42\n",
    "shapes": """
import dataclasses, torch, my_study

def task():
    made = my_study.task()
    return dataclasses.replace(made, validation=[(torch.zeros(8, 1, 10, 10), torch.zeros(8).long())])
""",
    "unpicklable": """
import dataclasses, threading, my_study

LOCK = threading.Lock()

def locked(batch):
    with LOCK:
        return (batch[0],)

def task():
    return dataclasses.replace(my_study.task(), inputs=locked)
""",
}
TARGET = ("--target-latency", "5ms", "--runtime", "fake", "--workers", 0)
HERE = ("my_study.py", *TARGET, "--out", "run")


class Refusal(NamedTuple):
    """How a command ended, what was in its folder before and after, and whether there is a run directory."""

    done: subprocess.CompletedProcess[str]
    before: dict[str, bytes]
    after: dict[str, bytes]
    wrote_run: bool


def study(name: str) -> tuple[object, ...]:
    """Return the command line for one of the studies."""
    return (name, *TARGET, "--out", "run")


def target(*latency: str) -> tuple[object, ...]:
    """Return the command line with a target, or without one."""
    return ("my_study.py", *latency, "--out", "run")


UNCOUNTED = ((*HERE, "--max-energy", "5mJ"), "--max-energy needs a counter", "leave --max-energy out")

CASES = {
    "unknown study": (study("my_studdy"), "A study is digits", "'my_studdy' is none of them", "ends with .py"),
    "close to a study": (study("digit"), "'digit' is none of them", "Did you mean 'digits'?"),
    "no such file": (study("nowhere.py"), "is the path of a Python file", "there is no file", "nowhere.py"),
    "no task": (study("no_task.py"), "`task() -> Task`", "no_task.py has none", "Add it"),
    "task raises": (
        study("raises.py"),
        "must return a Task",
        "the disk is gone (raises.py:2 in task)",
        "Fix the file",
    ),
    "task returns a number": (study("returns.py"), "must return a Task", "it returned int", "Return Task"),
    "batches of another shape": (study("shapes.py"), "`validation`", "(N, 1, 10, 10)", "Change one of them"),
    "target without a unit": (target("--target-latency", "5"), "--target-latency", "unit", "'5'", "such as 5ms"),
    "target below zero": (target("--target-latency", "-1ms"), "--target-latency", "positive", "'-1ms'", "5ms"),
    "target of letters": (target("--target-latency", "abc"), "--target-latency", "number", "'abc'", "5ms"),
    "no target": (target(), "--target-latency must be the latency", "none was given", "such as 5ms", "--help"),
    "size without a unit": ((*HERE, "--max-size", "4"), "--max-size must be", "MB", "'4'", "such as 4MB"),
    "memory in bits": ((*HERE, "--max-memory", "60Mb"), "--max-memory must be", "'60Mb'", "such as 4MB"),
    "energy in megajoules": ((*HERE, "--max-energy", "5MJ"), "--max-energy must be", "mJ", "'5MJ'", "5mJ"),
    "accuracy of letters": ((*HERE, "--min-accuracy", "good"), "--min-accuracy must be", "'good'", "-0.5%"),
    **({} if sources() else {"energy uncounted": UNCOUNTED}),
    "unknown runtime": ((*HERE, "--runtime", "tpu"), "--runtime must be one of: onnxruntime", "'tpu'"),
    "unknown sampler": ((*HERE, "--sampler", "cmaes"), "--sampler must be one of: surrogate", "'cmaes'"),
    "no trials": ((*HERE, "--trials", 0), "--trials must be 1 or more", "got 0"),
    "fewer than no workers": ((*HERE, "--workers", -1), "--workers must be 0 or more", "got -1"),
    "a file in the way": ((*HERE, "--out", "my_study.py"), "--out must be", "'my_study.py'", "--out DIR"),
    "a place without files": ((*HERE, "--out", "/proc/x"), "--out must be", "'/proc/x'", "--out DIR"),
    "a folder of the user's": ((*HERE, "--out", "photos"), "--out must be", "'photos'", "--out DIR"),
    "run of another study": ((*HERE, "--out", "other"), "study 'another'", "'my_study'", "--out DIR"),
    "run in use": ((*HERE, "--out", "busy"), "one process at a time", "'busy'", "Wait for it", "--out DIR"),
    "no database": ((*HERE, "--storage", "nonsense"), "--storage must be the URL", "'nonsense'", "postgresql://"),
    "unpicklable": ((*study("unpicklable.py"), "--workers", 1), "must be picklable", "lock", "--workers 0"),
}


@contextmanager
def desk(folder: Path) -> Iterator[Path]:
    """Put everything that a mistake needs into a user's folder; one run in it is in use."""
    for name, text in MISTAKES.items():
        (folder / f"{name}.py").write_text(text)
    (folder / "photos").mkdir()
    (folder / "photos" / "cat.jpg").write_text("a cat")
    identity = {
        "study": "my_study",
        "runtime": "fake",
        "threads": "1",
        "batch": "as in the task",
        "percentile": "50",
        "device": "this machine",
    }
    RunDirectory(folder / "other", {**identity, "study": "another"}).close()
    busy = RunDirectory(folder / "busy", identity)
    try:
        yield folder
    finally:
        busy.close()


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder, but for Python's cache."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.parent.name != "__pycache__")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def refusals(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    study_folder: Callable[[Path], Path],
    warm: Command,
) -> dict[str, Refusal]:
    """Return what became of each mistake that is tested; the commands run two at a time, as each takes a while."""

    def make(case: str, user: Path) -> Refusal:
        with desk(study_folder(user)) as folder:
            before = contents(folder)
            done = warm(folder, *CASES[case][0])
            return Refusal(done, before, contents(folder), (folder / "run").exists())

    wanted = [item.callspec.params["case"] for item in request.session.items if item.path == request.path]
    users = [tmp_path_factory.mktemp("user") for _ in wanted]  # here, as pytest's folders are not for several threads
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(wanted, pool.map(make, wanted, users), strict=True))


@pytest.mark.parametrize("case", CASES)
def test_a_mistake_is_told_and_nothing_is_written(refusals: dict[str, Refusal], case: str) -> None:
    """The exit code is 2, and the message gives the rule, the value that came and the way out."""
    refusal = refusals[case]
    stderr = refusal.done.stderr
    assert refusal.done.returncode == 2, stderr
    message = " ".join(stderr.split())
    assert [part for part in CASES[case][1:] if part not in message] == [], message
    assert "Traceback" not in stderr
    assert refusal.done.stdout == ""
    assert refusal.after == refusal.before
    assert not refusal.wrote_run
