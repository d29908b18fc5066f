"""A user's study in a folder of its own, and the real command in processes of its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import optuna
import psutil
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial

STUDIES = ("my_study.py", "fragile_study.py")
PATIENCE_S = 480.0
"""How long anything may take before a test gives it up; nothing promises a speed."""

MARK = "AUTOCOMPRESS_TEST"
"""Environment variable that names the folder of the command a process descends from."""

Completed = subprocess.CompletedProcess[str]
Command = Callable[..., Completed]
Begin = Callable[..., AbstractContextManager[psutil.Popen]]


def environment(folder: Path) -> dict[str, str]:
    """Return the environment of a command; its descendants keep it when they change their titles."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "SPT_NOENV": "1", "COLUMNS": "80", MARK: str(folder)}


def arguments(given: tuple[object, ...]) -> list[str]:
    """Return the command line as a user would type it."""
    return [str(Path(sys.executable).with_name("autocompress")), *map(str, given)]


@pytest.fixture(scope="session")
def command() -> Command:
    """Return a function that runs the command in a folder to its end."""

    def run(folder: Path, *given: object) -> Completed:
        return subprocess.run(
            arguments(given),
            cwd=folder,
            env=environment(folder),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )

    return run


@pytest.fixture(scope="session")
def warm() -> Iterator[Command]:
    """Return what `command` is, but that its processes have imported torch when they begin; see ``warm.py``.

    They differ from a user's in what is random at the start of Python, so that nothing can be said of determinism.
    """
    with tempfile.TemporaryDirectory(prefix="ac") as name:  # pytest's are too long for sockets
        place = Path(name)
        server = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("warm.py"), place / "socket", str(os.getpid())],
            env=environment(place),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert server.wait() == 0

        def run(folder: Path, *given: object) -> Completed:
            with socket.socket(socket.AF_UNIX) as connection, tempfile.TemporaryDirectory(dir=place) as printed:
                connection.settimeout(PATIENCE_S)
                while connection.connect_ex(str(place / "socket")):
                    time.sleep(0.05)
                files = [Path(printed) / name for name in ("stdout", "stderr")]
                for file in files:
                    file.touch()
                line, asked = arguments(given), {"folder": str(folder), "environment": environment(folder)}
                asked |= {"arguments": line, "stdout": str(files[0]), "stderr": str(files[1])}
                connection.sendall(f"{json.dumps(asked)}\n".encode())
                return Completed(line, int(connection.recv(10)), *(file.read_text() for file in files))

        try:
            yield run
        finally:
            os.killpg(server.pid, signal.SIGKILL)


@pytest.fixture(scope="session")
def script() -> Command:
    """Return a function that runs a Python script in a folder to its end."""

    def run(folder: Path, code: str, *given: object) -> Completed:
        return subprocess.run(
            [sys.executable, "-c", code, *map(str, given)],
            cwd=folder,
            env=environment(folder),
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )

    return run


@pytest.fixture
def begin(descendants: Callable[[Path], list[psutil.Process]]) -> Begin:
    """Return a function that begins the command in a folder; its output goes to files there.

    The process leads a session of its own, so that a signal to its group is what Ctrl-C on its terminal is.
    Whatever is left of it is killed at the end.
    """

    @contextmanager
    def started(folder: Path, *given: object) -> Iterator[psutil.Popen]:
        with (folder / "stdout.txt").open("w") as out, (folder / "stderr.txt").open("w") as err:
            process = psutil.Popen(
                arguments(given),
                cwd=folder,
                env=environment(folder),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
            try:
                yield process
            finally:
                for left in descendants(folder):
                    with suppress(psutil.NoSuchProcess):
                        left.kill()
                process.wait()

    return started


@pytest.fixture(scope="session")
def descendants() -> Callable[[Path], list[psutil.Process]]:
    """Return a function that finds the living processes of a folder's commands, whatever their parents are now."""

    def find(folder: Path) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                marked = process.environ().get(MARK) == str(folder)
                if marked and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    return find


@pytest.fixture(scope="session")
def until() -> Callable[[Callable[[], object], str], None]:
    """Return a function that waits for a condition, however slow the machine is."""

    def wait(condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"waited {PATIENCE_S:g} s in vain for: {what}")
            time.sleep(0.1)

    return wait


@pytest.fixture(scope="session")
def trials() -> Callable[[Path], list[FrozenTrial]]:
    """Return a function that reads the trials of a run directory; empty before there are any."""

    def read(out: Path) -> list[FrozenTrial]:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        journal = out / "study.journal"
        if not journal.exists():
            return []
        storage = JournalStorage(JournalFileBackend(str(journal)))
        return [trial for study in storage.get_all_studies() for trial in storage.get_all_trials(study._study_id)]

    return read


@pytest.fixture(scope="session")
def study_folder() -> Callable[[Path], Path]:
    """Return a function that writes the user's studies into a folder, and returns it."""

    def fill(folder: Path) -> Path:
        for name in STUDIES:
            shutil.copyfile(Path(__file__).with_name(name), folder / name)
        return folder

    return fill


@pytest.fixture
def folder(tmp_path: Path, study_folder: Callable[[Path], Path]) -> Path:
    """Return a user's folder with studies in it."""
    return study_folder(tmp_path)


FINISHED = ("my_study.py", "--target-latency", "50ms", "--out", "run", "--trials", "4", "--workers", "2")


@pytest.fixture(scope="session")
def finished(
    tmp_path_factory: pytest.TempPathFactory, study_folder: Callable[[Path], Path], command: Command
) -> tuple[Path, tuple[str, ...], Completed]:
    """Return the folder of a run that went to its end, its command line, and how it ended."""
    folder = study_folder(tmp_path_factory.mktemp("user"))
    return folder, FINISHED, command(folder, *FINISHED)
