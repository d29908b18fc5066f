"""The order of the tests, and what tests of several folders need."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("AUTOCOMPRESS_LOCKS", tempfile.gettempdir())  # tests leave the machine's own to its user

settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")  # the machine's other work is no defect of a test

LONGEST = ("test_faults.py", "test_runtimes.py", "test_run.py", "test_chaos.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files, so that processes that share the tests end at about the same time."""
    items.sort(key=lambda item: ("end_to_end" not in item.path.parts, item.path.name not in LONGEST))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Run torch on one thread, from the same seed in every test that asks for it."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


class Server:
    """A PostgreSQL server in a folder of its own, which tests may stop and start."""

    def __init__(self, folder: Path, user: str | None) -> None:
        self._folder = folder
        self._user = user
        self._count = 0

    def _call(self, *command: str) -> None:
        subprocess.run(
            command,
            user=self._user,
            cwd=self._folder,
            env={**os.environ, "HOME": str(self._folder)},
            check=True,
            stdout=subprocess.DEVNULL,
        )

    def database(self) -> str:
        """Return the URL of a new, empty database."""
        self._count += 1
        self._call("createdb", "-h", str(self._folder), "-U", "tester", f"study{self._count}")
        return f"postgresql://tester@/study{self._count}?host={self._folder}"

    def create(self) -> None:
        """Make the data folder."""
        self._call(
            "initdb",
            "-D",
            f"{self._folder}/data",
            "-U",
            "tester",
            "-A",
            "trust",
            "--no-sync",
            "-E",
            "UTF8",
            "--locale=C",
        )

    def start(self) -> None:
        """Start, and wait until it answers."""
        options = f"-F -c listen_addresses= -k {self._folder}"
        self._call("pg_ctl", "start", "-w", "-D", f"{self._folder}/data", "-l", f"{self._folder}/log", "-o", options)

    def stop(self, mode: str = "immediate") -> None:
        """Stop: ``fast`` ends all connections in order, ``immediate`` is a crash."""
        self._call("pg_ctl", "stop", "-m", mode, "-D", f"{self._folder}/data")


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """Start a throw-away PostgreSQL server on a socket, and stop and delete it at the end."""
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    if shutil.which("initdb") is None or shutil.which("pg_ctl") is None:
        pytest.skip("PostgreSQL's initdb and pg_ctl are not on the PATH")
    user = None if os.geteuid() else _somebody()
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    if user is not None:
        shutil.chown(folder, user)
    made = Server(folder, user)
    try:
        made.create()
        made.start()
        try:
            yield made
        finally:
            made.stop()
    finally:
        shutil.rmtree(folder)


def _somebody() -> str:
    """Return a user that is not the superuser, as whom the server refuses to run."""
    names = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in ("postgres", "nobody") if name in names)


@pytest.fixture(scope="session")
def made_run() -> Callable[..., Path]:
    """Return a function that makes a run directory whose costs are an analytic problem's, and its files real."""
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("made_run", Path(__file__).with_name("made_run.py"))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.made_run  # type: ignore[no-any-return]
