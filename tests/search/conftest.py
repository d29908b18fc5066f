"""Searches of an analytic problem, on disk and in this process."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from autocompress.evaluators.analytic import AnalyticEvaluator
from autocompress.evaluators.evaluator import Evaluator
from autocompress.search.artifacts import Artifacts
from autocompress.search.drive import Driver, Interrupts
from autocompress.search.limits import Limits
from autocompress.search.options import Options
from autocompress.search.profile import Profile
from autocompress.search.progress import Silent
from autocompress.search.rundir import RunDirectory
from autocompress.search.samplers import create
from autocompress.search.store import Store
from autocompress.search.warmstart import warm_start
from autocompress.search.workers import InlineWorkers

TARGET_MS = 4.0

BENCH = Path(__file__).resolve().parents[2] / "bench"

Search = Callable[..., Store]


@pytest.fixture(scope="session")
def bench() -> Iterator[dict[str, ModuleType]]:
    """Import some files of the benchmarks as they are imported when they are run: each knows its neighbours."""
    sys.path.insert(0, str(BENCH))
    loaded = {}
    for name in ("environment", "recorded", "ladder", "problems", "latency_model", "stuck"):
        spec = importlib.util.spec_from_file_location(name, BENCH / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        loaded[name] = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded[name])
    yield loaded
    sys.path.remove(str(BENCH))
    for name in loaded:
        del sys.modules[name]


@pytest.fixture(scope="session")
def small() -> AnalyticEvaluator:
    """Return a problem whose 512 candidates can be enumerated."""
    return AnalyticEvaluator(3)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Search]:
    """Open the store of a problem, new or again, with a sampler; the warm start is enqueued on request."""
    stores: list[Store] = []

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
    ) -> Store:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        store = Store(folder, url, name, problem.space, limits or Limits(target_ms))
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


@pytest.fixture
def search(tmp_path: Path, opened: Search) -> Iterator[Search]:
    """Run a search, or go on with it, and return its store."""
    held: list[RunDirectory] = []

    def run(
        problem: AnalyticEvaluator,
        *,
        trials: int,
        evaluator: Evaluator | None = None,
        time_budget_s: float | None = None,
        name: str = "run",
        target_ms: float = TARGET_MS,
        artifacts: Artifacts | None = None,
        meanwhile: Callable[[], object] = lambda: None,
        **how: object,
    ) -> Store:
        while held:
            held.pop().close()
        rundir = RunDirectory(tmp_path / name, {"study": name})
        held.append(rundir)
        rundir.artifacts = artifacts or rundir.artifacts
        store = opened(problem, name=name, target_ms=target_ms, **how)
        Driver(
            store,
            InlineWorkers(evaluator or problem),
            Options(target_ms=target_ms, out=tmp_path / name, trials=trials, time_budget_s=time_budget_s),
            epochs=1.0,
            rundir=rundir,
            progress=Silent(),
            interrupts=Interrupts(),
            started=time.monotonic(),
            meanwhile=meanwhile,
        ).run()
        return store

    yield run
    while held:
        held.pop().close()
