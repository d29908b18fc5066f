"""The order of the tests, and what several rooms need: a database, a run, searches of an analytic problem."""

from __future__ import annotations

import importlib
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, settings
from optuna.storages import RDBStorage

from autocompress.evaluators.analytic import AnalyticEvaluator
from autocompress.evaluators.evaluator import Evaluator
from autocompress.pareto.limits import Limits
from autocompress.profiles.profile import Profile
from autocompress.search.dispatch import RunContext
from autocompress.search.driver import Driver
from autocompress.search.options import Options
from autocompress.search.samplers import create
from autocompress.search.samplers.initial_design import warm_start
from autocompress.search.workers.inline import InlineWorkers
from autocompress.storage.artifacts import ArtifactStore
from autocompress.storage.backends import close_storage, open_database
from autocompress.storage.run_directory import RunDirectory
from autocompress.storage.study_store import StudyStore

os.environ.setdefault("AUTOCOMPRESS_LOCKS", tempfile.gettempdir())  # tests leave the machine's own to its user

settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("first stage", settings.get_profile("busy"), max_examples=25)
settings.load_profile("busy")  # the machine's other work is no defect of a test

os.fsync = lambda fd: None  # type: ignore[assignment]  # no test cuts the power; thousands of trials are stored

TARGET_MS = 4.0

BENCH = Path(__file__).resolve().parents[1] / "bench"

Search = Callable[..., StudyStore]

LONGEST = (
    "faults/test_faults.py",
    "end_to_end/test_documentation.py",
    "test_strangers_networks.py",
    "faults/test_chaos.py",
    "end_to_end/test_determinism.py",
    "end_to_end/runtimes/test_runtimes.py",
    "faults/test_infeasible.py",
    "end_to_end/runtimes/test_devices.py",
    "end_to_end/test_run.py",
    "end_to_end/test_old_runs.py",
    "faults/test_bad_input.py",
    "/test_litert.py",
    "/test_browser.py",
)
"""Files that take minutes, the longest first."""


def pytest_configure(config: pytest.Config) -> None:
    """Try fewer of Hypothesis's examples in the first stage of the suite than where everything is run."""
    if config.option.markexpr == "not slow":
        settings.load_profile("first stage")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files, so that processes that share the tests end at about the same time."""

    def place(item: pytest.Item) -> tuple[int, bool]:
        path = item.path.as_posix()
        rank = next((i for i, ending in enumerate(LONGEST) if path.endswith(ending)), len(LONGEST))
        return rank, "end_to_end" not in item.path.parts

    items.sort(key=place)


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


@pytest.fixture(scope="session")
def bench() -> Iterator[dict[str, ModuleType]]:
    """Import some files of the benchmarks as they are imported when they are run: each knows its neighbours."""
    sys.path.insert(0, str(BENCH))
    names = ("environment", "recorded", "problems", "trees")
    names = (*(f"common.{name}" for name in names), "first_run", "ladder", "latency_model", "readme", "stuck")
    names = (*names, "trial_seconds", "workers")
    loaded = {name.removeprefix("common."): importlib.import_module(name) for name in names}
    yield loaded
    sys.path.remove(str(BENCH))
    for name in (*names, "common"):
        del sys.modules[name]


@pytest.fixture(scope="session")
def small() -> AnalyticEvaluator:
    """Return a problem whose 512 candidates can be enumerated."""
    return AnalyticEvaluator(3)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Search]:
    """Open the store of a problem, new or again, with a sampler; the warm start is enqueued on request."""
    stores: list[StudyStore] = []
    databases: list[RDBStorage] = []

    def open_store(
        problem: AnalyticEvaluator,
        *,
        sampler: str = "mutation",
        seed: int = 0,
        name: str = "run",
        url: str | None = None,
        warm: bool = True,
        target_ms: float = TARGET_MS,
        limits: Limits | None = None,
    ) -> StudyStore:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        database = None
        if url is not None:
            database = open_database(url)
            databases.append(database)
        store = StudyStore(folder, database, name, problem.space, limits or Limits(target_ms))
        stores.append(store)
        profile = Profile.from_dict(problem.profile())
        store.study.sampler = create(
            sampler,
            space=problem.space,
            profile=profile,
            judge=store,
            seed=seed,
            finished=len(store.finished()),
        )
        store.begin(warm_start(problem.space, profile, target_ms) if warm else [])
        return store

    yield open_store
    for store in stores:
        store.close()
    for database in databases:
        close_storage(database)


@pytest.fixture
def search(tmp_path: Path, opened: Search) -> Iterator[Search]:
    """Run a search, or resume it, and return its store."""
    held: list[RunDirectory] = []

    def run(
        problem: AnalyticEvaluator,
        *,
        trials: int,
        evaluator: Evaluator | None = None,
        time_budget_s: float | None = None,
        name: str = "run",
        target_ms: float = TARGET_MS,
        artifacts: ArtifactStore | None = None,
        meanwhile: Callable[[], object] = lambda: None,
        **how: object,
    ) -> StudyStore:
        while held:
            held.pop().close()
        rundir = RunDirectory(tmp_path / name, {"study": name})
        held.append(rundir)
        rundir.artifacts = artifacts or rundir.artifacts
        store = opened(problem, name=name, target_ms=target_ms, **how)
        context = RunContext(
            options=Options(target_ms=target_ms, out=tmp_path / name, trials=trials, time_budget_s=time_budget_s),
            rundir=rundir,
            workers=InlineWorkers(evaluator or problem),
            epochs=1.0,
        )
        Driver(context, store, meanwhile=meanwhile).run()
        return store

    yield run
    while held:
        held.pop().close()
