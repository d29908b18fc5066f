"""Whether a study loses anything while its processes are killed at random, hundreds of times.

    python bench/chaos.py [--kills 50] [--workers 2] [--nodes 2] [--drivers 2 --storage postgresql://user@host/empty]

Real drivers and real worker processes search a problem that is evaluated by formula, so that a trial takes some tens of
milliseconds. What dies by `kill -9` is a driver, a worker, or with `--nodes` a whole node of a Ray cluster on this
machine, beside the one that the drivers are on. A driver is begun again by the same command, a node has a successor.
At the end all that was ever seen finished must be there unchanged, and the front must be that of the stored trials.
Exit code 0 if so.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import optuna
import psutil
from common.chaos_nodes import Nodes, evaluating
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from autocompress.errors import StorageError
from autocompress.evaluators.analytic import AnalyticEvaluator
from autocompress.evaluators.evaluator import BARE, Host, Request
from autocompress.evaluators.measurement import Measurement, Outcome
from autocompress.evaluators.outcome_json import from_json, to_json
from autocompress.pareto.front import select
from autocompress.pareto.limits import Limits
from autocompress.profiles.profile import Profile
from autocompress.search.dispatch import RunContext
from autocompress.search.driver import Driver
from autocompress.search.options import Options
from autocompress.search.progress import Lines
from autocompress.search.samplers import create
from autocompress.search.samplers.initial_design import warm_start
from autocompress.search.workers.cluster import joined
from autocompress.search.workers.start import workers_for
from autocompress.storage import heartbeat
from autocompress.storage import ownership as drivers
from autocompress.storage.backends import open_database
from autocompress.storage.run_directory import RunDirectory, room
from autocompress.storage.study_store import StudyStore

NAME, TARGET_MS = "chaos", 4.0
TRIAL_S = 0.03
ENDLESS = 1_000_000
MARK = "AUTOCOMPRESS_CHAOS"
"""Environment variable that all processes of a driver have."""

AWAY_S = 60.0
"""How long a command is repeated that cannot open the study."""

SILENT_S, BEAT_S = 10.0, 1.0
"""A driver that is not heard of for so long is dead; sooner than in earnest, as there is little time."""

NODES = 0.4
"""Share of the kills that are of nodes, where there are any."""

FAMILY_S = 15.0
"""How long the processes of a killed driver may take to end."""

DONE = (TrialState.COMPLETE, TrialState.PRUNED)


class Slow:
    """Takes a moment for each candidate, and writes down what came of it."""

    def __init__(self, problem: AnalyticEvaluator, log: Path) -> None:
        self.problem = problem
        self.log = log

    def evaluate(self, request: Request, host: Host = BARE) -> Outcome:
        """Evaluate a request."""
        time.sleep(TRIAL_S)
        outcome = self.problem.evaluate(request)
        append(self.log, request.candidate.to_json())
        return outcome


def append(log: Path, line: str) -> None:
    """Write a line at once, even if others write too."""
    with log.open("ab", buffering=0) as file:
        file.write(f"{line}\n".encode())


def begun(folder: Path, url: str | None, problem: AnalyticEvaluator) -> StudyStore:
    """Open the study. A command that begins while the database is away ends at once; here somebody repeats it."""
    end = time.monotonic() + AWAY_S
    while True:
        try:
            return StudyStore(folder, open_database(url) if url else None, NAME, problem.space, Limits(TARGET_MS))
        except StorageError:
            if time.monotonic() > end:
                raise
            time.sleep(0.5)


def drive(folder: Path, options: Options) -> None:
    """Be a driver, to the end of the budget."""
    drivers.SILENT_S, heartbeat.BEAT_S = SILENT_S, BEAT_S  # type: ignore[attr-defined]
    url, seed = options.storage, options.seed
    progress = Lines(lambda text: print(text, flush=True), every_s=1.0)
    problem = AnalyticEvaluator(12, seed=seed)
    profile = Profile.from_dict(problem.profile())
    with (
        room(folder),
        closing(RunDirectory(folder, {"study": NAME})) as rundir,
        closing(begun(folder, url, problem)) as store,
    ):
        store.study.sampler = create(
            "mutation",
            space=problem.space,
            profile=profile,
            judge=store,
            seed=seed,
            finished=store.count(),
        )
        store.begin(warm_start(problem.space, profile, TARGET_MS))
        tell = store.tell

        def told(number: int, outcome: Outcome) -> None:
            tell(number, outcome)
            append(folder / "told.log", json.dumps([number, to_json(outcome)]))

        store.tell = told  # type: ignore[method-assign]
        slow = Slow(problem, folder / "evaluated.log")
        with joined(options, progress) as cluster, workers_for(slow, BARE, options.workers, cluster) as pool:
            context = RunContext(options=options, rundir=rundir, workers=pool, epochs=1.0, progress=progress)
            Driver(context, store).run()
        front = last_front(store)
    (folder / "front.json").write_text(json.dumps(front))


def last_front(store: StudyStore) -> dict[str, list[int] | list[str]]:
    """Return the front at a driver's end, and the trials that it knows then: another driver may still have some."""
    while True:
        known = [trial.number for trial in store.finished()]
        front = sorted(model.path for model in store.found.front())
        if known == [trial.number for trial in store.finished()]:
            return {"front": front, "of": known}


class Family:
    """A driver in a process of its own, with all the processes that it starts."""

    def __init__(self, folder: Path, url: str | None, workers: int, seed: int, address: str | None = None) -> None:
        self.folder = folder
        self.left_behind = 0
        self._command = [
            sys.executable,
            __file__,
            "--drive",
            str(folder),
            "--workers",
            str(workers),
            "--seed",
            str(seed),
        ]
        self._command += ["--storage", url] if url else []
        self._command += ["--address", address] if address else []

    def begin(self, trials: int) -> None:
        """Start the driver."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with self.folder.with_suffix(".out").open("a") as out:
            self.process = psutil.Popen(
                [*self._command, "--trials", str(trials)],
                env={**os.environ, MARK: str(self.folder), "OMP_NUM_THREADS": "1", "SPT_NOENV": "1"},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def workers(self) -> list[psutil.Process]:
        """Return the processes that evaluate, where the driver has started them."""
        return evaluating(self.process)

    def kill(self) -> None:
        """Kill the driver, and wait until all its processes have ended by themselves."""
        family = self.process.children(recursive=True)
        self.process.kill()
        self.process.wait()
        _, alive = psutil.wait_procs(family, timeout=FAMILY_S)
        self.left_behind += len(alive)
        self._end(alive)

    def close(self) -> None:
        """End everything."""
        with suppress(psutil.Error):
            self._end([*self.process.children(recursive=True), self.process])

    def _end(self, processes: list[psutil.Process]) -> None:
        for process in processes:
            with suppress(psutil.Error):
                process.kill()


def until(condition: Callable[[], object], what: str, patience_s: float = 300.0) -> None:
    """Wait for a condition."""
    end = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"waited in vain for {what}")
        time.sleep(0.05)


@contextmanager
def opened(folder: Path, url: str | None) -> Iterator[Callable[[], list[FrozenTrial]]]:
    """Yield what reads all trials of a study, by Optuna's own means."""
    made: list[BaseStorage] = []

    def read() -> list[FrozenTrial]:
        if not made:
            if url is None and not (folder / "study.journal").exists():
                return []
            journal = str(folder / "study.journal")
            made.append(RDBStorage(url) if url else JournalStorage(JournalFileBackend(journal)))
        for study in made[0].get_all_studies():
            return made[0].get_all_trials(study._study_id)
        return []

    try:
        yield read
    finally:
        for storage in made:
            if isinstance(storage, RDBStorage):
                storage.engine.dispose()


def outcomes(trials: list[FrozenTrial]) -> dict[int, tuple[object, ...]]:
    """Return what is known of each finished trial, by its number."""
    return {t.number: (t.state, t.values, t.params, t.user_attrs) for t in trials if t.state in DONE}


def patiently(read: Callable[[], list[FrozenTrial]]) -> list[FrozenTrial]:
    """Read trials, though the database may be away for a moment."""
    while True:
        try:
            return read()
        except (optuna.exceptions.StorageInternalError, SQLAlchemyError, ValueError):
            time.sleep(0.2)


def defects(trials: list[FrozenTrial], seen: dict[int, tuple[object, ...]], folders: list[Path]) -> list[str]:
    """Return what a study has lost, or has twice, or says of its front that its trials do not."""
    now, found = outcomes(trials), []
    found += [f"trial {number} is not what it was" for number in seen if now.get(number) != seen[number]]
    numbers = Counter(trial.number for trial in trials)
    found += [f"number {number} is there {count} times" for number, count in numbers.items() if count > 1]
    begun = [t for t in trials if "candidate" in t.user_attrs]  # else its driver died while it asked for it
    found += [f"trial {t.number} is {t.state.name}" for t in begun if t.state == TrialState.RUNNING]
    by_number = {trial.number: trial for trial in trials}
    for folder in folders:
        for line in (folder / "told.log").read_text().splitlines():
            number, text = json.loads(line)
            trial = by_number[number]
            if trial.state == TrialState.FAIL:  # told too late; what took its place has the outcome
                trial = next(t for t in trials if t.user_attrs.get("retry_of") == number)
            if trial.state not in DONE or from_json(trial.user_attrs["outcome"]) != from_json(text):
                found.append(f"the outcome of trial {number} is not there")
        last = json.loads((folder / "front.json").read_text())
        if last["front"] != stored_front([trial for trial in trials if trial.number in last["of"]]):
            found.append(f"the front of {folder.name} is not that of the stored trials")
    return found


def stored_front(trials: list[FrozenTrial]) -> list[str]:
    """Return the front as the stored trials have it: each candidate's first trial."""
    first: dict[str, tuple[int, Measurement]] = {}
    for trial in trials:
        if trial.state == TrialState.COMPLETE:
            outcome = from_json(trial.user_attrs["outcome"])
            assert isinstance(outcome, tuple)
            first.setdefault(trial.user_attrs["candidate"], (trial.number, outcome[0]))
    chosen = list(first.values())
    return sorted(f"trials/{chosen[i][0]:05d}" for i in select([m for _, m in chosen], Limits(TARGET_MS)))


def torment(asked: argparse.Namespace, root: Path) -> int:
    """Kill the victims, resume the study, and count what is left."""
    rng, began = random.Random(asked.seed), time.monotonic()
    folders = [root / f"driver{i}" for i in range(asked.drivers)]
    killed: Counter[str] = Counter()
    seen: dict[int, tuple[object, ...]] = {}
    with ExitStack() as stack:
        nodes = Nodes(asked.nodes, -(-asked.workers * asked.drivers // asked.nodes)) if asked.nodes else None
        if nodes is not None:
            stack.callback(nodes.close)
        address = nodes.address if nodes else None
        families = [Family(folder, asked.storage, asked.workers, asked.seed, address) for folder in folders]
        read = stack.enter_context(opened(folders[0], asked.storage))
        for family in families:
            family.begin(ENDLESS)
            stack.callback(family.close)
        while killed.total() < asked.kills:
            until(lambda: len(outcomes(patiently(read))) > len(seen), "a trial to be finished")
            time.sleep(rng.random() * 0.3)
            family = rng.choice(families)
            if family.process.poll() is not None:
                raise SystemExit(f"a driver ended by itself:\n{family.folder.with_suffix('.out').read_text()[-3000:]}")
            for number, known in outcomes(patiently(read)).items():
                if seen.setdefault(number, known) != known:
                    raise SystemExit(f"trial {number} has changed")
            victims = (nodes or family).workers()
            if nodes is not None and rng.random() < NODES:
                nodes.kill(rng)
                killed["node"] += 1
            elif victims and rng.random() < asked.share:
                with suppress(psutil.Error):
                    rng.choice(victims).kill()
                    killed["worker"] += 1
            else:
                family.kill()
                killed["driver"] += 1
                family.begin(ENDLESS)
        for family in families:
            family.kill()
        total = len(outcomes(patiently(read))) + asked.more
        for family in families:
            family.begin(total)
        for family in families:
            if family.process.wait(timeout=600):
                raise SystemExit(f"a driver failed:\n{family.folder.with_suffix('.out').read_text()[-3000:]}")
        trials = patiently(read)
        found = defects(trials, seen, folders)
    evaluated = Counter(line for folder in folders for line in _lines(folder / "evaluated.log"))
    states = Counter(trial.state.name.lower() for trial in trials)
    given_up = sum("it was started" in str(t.user_attrs.get("outcome", "")) for t in trials)
    which = ", ".join(f"{killed[kind]} of {kind}s" for kind in ("driver", "worker", *["node"] * bool(asked.nodes)))
    print(f"{killed.total()} kills: {which}")
    print(f"{len(outcomes(trials))} trials finished, of which {len(seen)} were seen before a kill; {dict(states)}")
    twice, left = sum(count > 1 for count in evaluated.values()), sum(family.left_behind for family in families)
    print(f"{twice} of {len(evaluated)} candidates were evaluated more than once; {given_up} were given up as deadly")
    print(f"{left} processes outlived their driver by {FAMILY_S:.0f} s")
    print(f"{len(stored_front(trials))} models on the front; {time.monotonic() - began:.0f} s")
    print("\n".join(found) or "nothing is lost, nothing is twice, and the front is that of the stored trials")
    return bool(found)


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def main() -> None:
    """Torment a study, or be one of its drivers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--quick", action="store_true", help="two kills, three trials after them: a smoke test")
    parser.add_argument("--workers", type=int, default=2, help="of each driver; 0 evaluates in the driver")
    parser.add_argument("--drivers", type=int, default=1, help="more than one need --storage")
    parser.add_argument("--nodes", type=int, default=0, help="of a Ray cluster, to be killed too; 0 needs none")
    parser.add_argument("--storage", help="URL of an empty database; else a journal")
    parser.add_argument(
        "--share", type=float, default=0.75, help="of the kills that are of workers, where there are any"
    )
    parser.add_argument("--more", type=int, default=10, help="trials after the last kill")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--drive", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--trials", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--address", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.quick:
        asked.kills, asked.more = 2, 3
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    if asked.drive is not None:
        options = Options(
            target_ms=TARGET_MS,
            out=asked.drive,
            trials=asked.trials,
            workers=asked.workers,
            seed=asked.seed,
            storage=asked.storage,
            ray_address=asked.address,
        )
        drive(asked.drive, options)
        return
    with tempfile.TemporaryDirectory(prefix="chaos-") as root:
        sys.exit(torment(asked, Path(root)))


if __name__ == "__main__":
    main()
