"""Records what candidates of a study really cost and how accurate they get, as a table that searches can be run on.

    OMP_NUM_THREADS=1 python bench/record.py --data-dir DIR --out bench/recorded/fashion_mnist.jsonl

Each candidate climbs the product's own ladder, with no target that could cut it: it is built, timed, scored, trained
for a long time and scored again; then it is trained from its beginning and scored once more, for a short time. The
candidates are the warm start for several targets, and a mixture: children of the front so far, random points made fast
enough, and random points left as slow or as small as they are. After the first target's warm start, every fourth
candidate is of the others'. Each core has a worker, as in a search. The table grows by a line a candidate; the same
command resumes where it stopped.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass, field, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from common.environment import describe
from common.record_choices import TARGETS, Chooser
from common.recorded import Row, Training, header

from autocompress.compressors.pipeline import apply_candidate
from autocompress.errors import InfeasibleError
from autocompress.evaluators import runtimes
from autocompress.evaluators.device_lock import pause, training
from autocompress.evaluators.evaluator import Host, Request
from autocompress.evaluators.ladder.ladder import Ladder
from autocompress.evaluators.ladder.served import Served, source_of
from autocompress.evaluators.measurement import Infeasible, Latency, Measurement, Outcome, representative
from autocompress.evaluators.meters.isolated_engine import engine
from autocompress.evaluators.meters.latency import SEARCH, Plan, ProcessMeter
from autocompress.search.options import Options
from autocompress.search.prepare import Prepared, prepare
from autocompress.search.progress import Lines
from autocompress.spaces.candidate import Candidate
from autocompress.storage.run_directory import RunDirectory
from autocompress.storage.study_store import PendingTrial
from autocompress.studies import loading
from autocompress.studies.task import Task

RUNTIME = "onnxruntime"

TRAININGS = ("short", "long")

EPOCHS = (1.0, 4.0)
"""Passes over the training data for each; those of the study's trials and of its front."""


@dataclass
class Heard:
    """A metric that keeps what it finds.

    Attributes:
        metric: finds it.
        found: all values since they were last taken away.
    """

    metric: Any
    found: list[float] = field(default_factory=list)

    def __call__(self, model: Any, loader: Any) -> float:
        """Return the metric."""
        self.found.append(float(self.metric(model, loader)))
        return self.found[-1]


@dataclass(frozen=True, kw_only=True, eq=False)
class FewProcesses(ProcessMeter):
    """Measures fast models in so many processes, whatever the plan wants.

    Attributes:
        processes: see `Plan`.
    """

    processes: int

    @classmethod
    def of(cls, meter: ProcessMeter, processes: int) -> FewProcesses:
        """Return a meter like another one."""
        return cls(**{each.name: getattr(meter, each.name) for each in fields(meter)}, processes=processes)

    def measure(
        self, artefact: bytes, plan: Plan, *, runtime: str | None = None, timeout_s: float | None = None
    ) -> Latency:
        """Time a file; see `Meter.measure`."""
        return super().measure(artefact, replace(plan, processes=self.processes), runtime=runtime, timeout_s=timeout_s)


class Recorder:
    """Takes candidates up the ladder and notes what each rung gives.

    Args:
        ladder: evaluates requests; its task's metric is ``heard``.
        host: has the meter, and the folder for the files.
        heard: the metric.
        epochs: passes over the training data of ``short`` and ``long``.
        seed: of the training.
    """

    def __init__(self, ladder: Ladder, host: Host, heard: Heard, epochs: Mapping[str, float], *, seed: int) -> None:
        self.ladder = ladder
        self.host = host
        self.heard = heard
        self.epochs = epochs
        self.seed = seed

    def record(self, number: int, origin: str, candidate: Candidate) -> tuple[Row, Outcome]:
        """Return a candidate's row, and what became of it after the longest training."""
        trained = candidate.compresses
        epochs = self.epochs["long"] if trained else 0.0
        request = Request(folder="recorded", candidate=candidate, epochs=epochs, unchanged=not trained, seed=self.seed)
        self.heard.found.clear()
        started = time.monotonic()
        outcome = self.ladder.evaluate(request, self.host)
        row = Row(number=number, origin=origin, candidate=candidate, latency=representative(outcome).latency)
        row = self._noted(row, outcome, round(time.monotonic() - started, 3))
        if row.trained and not isinstance(outcome, Infeasible):
            row = replace(row, trained={"short": self._trained(candidate, self.epochs["short"]), **row.trained})
        return row, outcome

    def _noted(self, row: Row, outcome: Outcome, took_s: float) -> Row:
        """Add to a row what the ladder gave; the metric was heard without training first."""
        found: list[float | None] = [*self.heard.found, None, None]
        one_shot, accuracy = found[:2]
        row = replace(row, one_shot=one_shot)
        if isinstance(outcome, Infeasible):
            if one_shot is None:
                return replace(row, reason=outcome.reason, rung=outcome.rung, seconds={outcome.rung: took_s})
            failed = Training(accuracy=None, seconds={"train": took_s}, reason=outcome.reason)
            return replace(row, trained={"long": failed})
        measured = outcome[0]
        seconds = dict(measured.seconds)
        rungs = [rung for rung in seconds if rung in ("train", "accuracy")]
        spent = {rung: seconds.pop(rung) for rung in rungs}
        return replace(
            row,
            size_bytes=measured.size_bytes,
            params=measured.params,
            macs=measured.macs,
            seconds=seconds,
            trained={"long": Training(accuracy=accuracy, seconds=spent)} if spent else {},
        )

    def _trained(self, candidate: Candidate, epochs: float) -> Training:
        """Train and score as the ladder does, without timing the model again."""
        task, supplies, runtime = self.ladder.task, self.ladder.supplies, self.ladder.runtimes[0]
        started = time.monotonic()
        try:
            with training():
                built = apply_candidate(task, candidate, supplies, epochs=epochs, seed=self.seed, pause=pause)
                artefact = runtime.convert(source_of(built, supplies))
                train_s = time.monotonic() - started
                with engine(runtime, artefact, threads=1) as served:
                    accuracy = task.metric(Served(served), task.validation)
        except InfeasibleError as error:
            spent = {"train": round(time.monotonic() - started, 3)}
            return Training(accuracy=None, seconds=spent, reason=error.reason)
        score_s = time.monotonic() - started - train_s
        return Training(accuracy=accuracy, seconds={"train": round(train_s, 3), "accuracy": round(score_s, 3)})


_recorder: Recorder
"""A worker's own."""


def folder_of(asked: argparse.Namespace) -> Path:
    """Return where the profile and the models' files are."""
    folder: Path = asked.work or asked.out.with_suffix(".work")
    return folder.absolute()


def prepared(asked: argparse.Namespace) -> tuple[Prepared, Heard]:
    """Profile a study as the product does; what an earlier call found in the folder is used again."""
    task: Task = loading.load(asked.study, data_dir=asked.data_dir)
    heard = Heard(task.metric)
    runtime = runtimes.load(RUNTIME)
    folder = folder_of(asked)
    options = Options(target_ms=1.0, out=folder, seed=asked.seed)
    rundir = RunDirectory(folder, {"study": asked.study, "runtime": RUNTIME})
    progress = Lines(lambda text: print(text, flush=True))
    with closing(rundir):
        return prepare(replace(task, metric=heard), [runtime], rundir, options, progress), heard


def begin_worker(asked: argparse.Namespace, turn: Any) -> None:
    """Make this process one that records; a profile is read by one at a time."""
    global _recorder
    threading.Thread(target=end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    with turn:
        ready, heard = prepared(asked)
    [meter] = ready.meters.values()
    assert isinstance(meter, ProcessMeter)
    host = Host(folder=folder_of(asked), meters={"": FewProcesses.of(meter, asked.processes)})
    _recorder = Recorder(ready.ladder, host, heard, dict(zip(TRAININGS, asked.epochs, strict=True)), seed=asked.seed)


def end_with_parent() -> None:
    """End this process when the one that began it is gone, however it ended."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def record(origin: str, candidate: Candidate) -> tuple[Row, Outcome]:
    """Record a candidate in a worker; its number is given when it is written down."""
    return _recorder.record(-1, origin, candidate)


def begun(out: Path, ready: Prepared, asked: argparse.Namespace) -> dict[Candidate, Row]:
    """Return the rows of a table, a new one with its header alone; a line that was not finished is dropped."""
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        first = header(
            ready.space,
            ready.profile,
            epochs=dict(zip(TRAININGS, asked.epochs, strict=True)),
            study=asked.study,
            command=f"python bench/record.py {asked.study} --data-dir DIR --count {asked.count} --seed {asked.seed} "
            f"--epochs {asked.epochs[0]:g} {asked.epochs[1]:g} --processes {asked.processes} --workers {asked.workers}",
            seed=asked.seed,
            targets_ms=[round(share * ready.profile.baseline_ms, 4) for share in sorted(TARGETS)],
            environment=describe(runtimes.load(RUNTIME)),
            versions={n: version(n) for n in ("torch", "torch-pruning", "onnx", "onnxruntime", "optuna", "numpy")},
            begun=time.strftime("%Y-%m-%d", time.gmtime()),
        )
        out.write_text(first + "\n")
    whole = out.read_text().rpartition("\n")[0]
    out.write_text(whole + "\n")
    return {row.candidate: row for row in map(Row.from_json, whole.splitlines()[1:])}


def main() -> None:
    """Parse the command line, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", nargs="?", default="fashion_mnist")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--out", type=Path, default=Path("recorded.jsonl"))
    parser.add_argument("--count", type=int, default=150, help="candidates that the table has in the end")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=float, nargs=2, default=EPOCHS, help="of the short and of the long training")
    parser.add_argument("--processes", type=int, default=SEARCH.processes, help="that time a fast candidate")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--work", type=Path, help="where the profile is kept; by default beside the table")
    parser.add_argument("--quick", action="store_true", help="digits, three candidates, hardly trained: a smoke test")
    asked = parser.parse_args()
    os.nice(19 - os.nice(0))
    with tempfile.TemporaryDirectory() as scratch:
        if asked.quick:
            asked.study, asked.out = "digits", Path(scratch, "digits.jsonl")
            asked.epochs, asked.count, asked.processes, asked.workers = (0.01, 0.05), 3, 1, 1
        ready, _ = prepared(asked)
        recorded = begun(asked.out, ready, asked)
        targets_ms = [share * ready.profile.baseline_ms for share in TARGETS]
        chooser = Chooser(Path(scratch), ready.space, ready.profile, targets_ms, seed=asked.seed)
        for row in recorded.values():
            chooser.store.tell(chooser.again(row.candidate).number, as_outcome(row))
        context = multiprocessing.get_context("spawn")
        begin = (asked, context.Lock())
        with ProcessPoolExecutor(asked.workers, context, initializer=begin_worker, initargs=begin) as pool:
            fill(asked, chooser, recorded, pool)


def fill(
    asked: argparse.Namespace, chooser: Chooser, recorded: dict[Candidate, Row], pool: ProcessPoolExecutor
) -> None:
    """Record what is missing, a line each as it comes."""
    running: dict[Future[tuple[Row, Outcome]], PendingTrial] = {}
    while len(recorded) < asked.count:
        while len(running) < min(asked.workers, asked.count - len(recorded)):
            busy = {trial.candidate for trial in running.values()}
            trial, origin = chooser.next(recorded.keys() | busy)
            if trial.candidate in recorded:  # chance drew it twice
                chooser.store.tell(trial.number, as_outcome(recorded[trial.candidate]))
            elif trial.candidate not in busy:
                running[pool.submit(record, origin, trial.candidate)] = trial
        done, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            trial = running.pop(future)
            row, outcome = future.result()
            row = replace(row, number=len(recorded))
            chooser.store.tell(trial.number, outcome)
            recorded[trial.candidate] = row
            with asked.out.open("a") as file:
                file.write(row.to_json(chooser.space) + "\n")
            print(in_words(row), flush=True)


def as_outcome(row: Row) -> Outcome:
    """Return what a row says of the longest training."""
    accuracy = row.accuracy("long")
    failed = [training for training in row.trained.values() if training.accuracy is None]
    if row.latency is None or accuracy is None or failed:
        return Infeasible(reason=row.reason or failed[0].reason, rung=row.rung or "train", latency=row.latency)
    measured = Measurement(
        accuracy=accuracy, latency=row.latency, size_bytes=row.size_bytes, params=row.params, macs=row.macs
    )
    return (measured,)


def in_words(row: Row) -> str:
    """Return a row as one line for the log."""
    ms = "not timed" if row.latency is None else f"{row.latency.median_ms:.3f} ms"
    accuracies = " → ".join(
        "–" if value is None else f"{value:.2%}"
        for value in (row.one_shot, *(training.accuracy for training in row.trained.values()))
    )
    return f"{row.number} ({row.origin}): {ms}, {row.size_bytes / 1e6:.2f} MB, {accuracies} {row.reason}"


if __name__ == "__main__":
    main()
