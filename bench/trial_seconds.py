"""What a trial costs: the seconds of a worker by rung and part, and the accuracies, for a fixed list of candidates.

    OMP_NUM_THREADS=1 python bench/trial_seconds.py --study fashion_mnist --data-dir DIR [--against REVISION]

Each candidate climbs the product's own ladder with its own meter, without a target: it is built, timed, scored, trained
and scored again. With `--against` the same candidates climb the ladder of another revision too, in a process of its
own that takes turns with this tree's, candidate by candidate. CPU seconds include those of child processes, as a timing
process; wall seconds mean something on a quiet machine only. `--untimed` leaves the latency out.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from common.trees import ROOT, checked_out, importable

PARTS = {
    "apply": [
        ("compressors.pruning.prune", "Prune.apply"),
        ("compressors.lowrank.factorize", "Factorize.apply"),
        ("compressors.quantization.quantize", "Quantize.apply"),
    ],
    "statistics": [("compressors.pipeline", "estimate_batch_norm")],
    "export": [("compressors.pipeline", "_export")],
    "convert": [("evaluators.runtimes.onnxruntime", "OnnxRuntime.convert")],
    "parity": [("evaluators.ladder.served", "parity")],
    "steps": [("compressors.distillation.distill", "distil")],
    "files": [("evaluators.ladder.ladder", "_Evaluation._write")],
}
"""The functions of each part, by their modules; one that a revision lacks is a part of what calls it."""

Spent = dict[str, list[float]]
"""Wall and CPU seconds, by rung and part."""


@dataclass
class Clock:
    """Divides the time of an evaluation among rungs and parts; what a part calls may be another's."""

    spent: Spent = field(default_factory=lambda: defaultdict(lambda: [0.0, 0.0]))
    rung: str = ""
    parts: list[str] = field(default_factory=list)
    since: tuple[float, float] = (0.0, 0.0)

    def tick(self) -> None:
        """Give the time since the last call to the current rung and part."""
        times = os.times()
        now = time.perf_counter(), sum(times[:4])
        name = " · ".join(filter(None, (self.rung, self.parts[-1] if self.parts else "")))
        self.spent[name] = [old + b - a for old, a, b in zip(self.spent[name], self.since, now, strict=True)]
        self.since = now

    @contextmanager
    def on(self, part: str) -> Iterator[None]:
        """Count the time in the context for a part."""
        self.tick()
        self.parts.append(part)
        try:
            yield
        finally:
            self.tick()
            self.parts.pop()

    def watch(self, part: str, module: str, path: str) -> None:
        """Count a function's time for a part."""
        owner: Any = import_module(f"autocompress.{module}")
        *above, name = path.split(".")
        owner = functools.reduce(lambda it, attribute: getattr(it, attribute, None), above, owner)
        function = getattr(owner, name, None)
        if function is None:
            return

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.on(part):
                return function(*args, **kwargs)

        setattr(owner, name, timed)

    def watch_rungs(self) -> None:
        """Know the rung that an evaluation is on."""
        from autocompress.evaluators.ladder.rungs import Rungs

        entered = Rungs.on

        @contextmanager
        def on(rungs: Rungs, rung: str, **how: bool) -> Iterator[None]:
            self.tick()
            before, self.rung = self.rung, rung
            try:
                with entered(rungs, rung, **how):
                    yield
            finally:
                self.tick()
                self.rung = before

        Rungs.on = on  # type: ignore[assignment, method-assign]

    def watch_teacher(self, network: Any) -> None:
        """Count one network's forward passes in training as a part."""
        kind, forward = type(network), type(network).forward

        def timed(module: Any, *args: Any, **kwargs: Any) -> Any:
            if module is not network or "steps" not in self.parts:
                return forward(module, *args, **kwargs)
            with self.on("teacher"):
                return forward(module, *args, **kwargs)

        kind.forward = timed


def candidates_of(space: Any) -> dict[str, Any]:
    """Return what is evaluated, by name: uniform candidates as the first ones of a search, and a mixture."""
    from autocompress.spaces.candidate import BITS, RANK
    from autocompress.spaces.uniform import uniform

    mixed = uniform(space, 0.375, quantized=True).to_dict()
    mixed[BITS] = dict(list(mixed.get(BITS, {}).items())[::2])
    ranks = uniform(space, 0.0, quantized=False, rank=0.5).to_dict().get(RANK, {})
    mixed[RANK] = dict(list(ranks.items())[1::4])
    kind = type(uniform(space, 0.0, quantized=False))
    return {
        "int8": uniform(space, 0.0, quantized=True),
        "−25 %": uniform(space, 0.25, quantized=False),
        "int8 −50 %": uniform(space, 0.5, quantized=True),
        "mixed": kind({axis: choices for axis, choices in mixed.items() if choices}),
    }


def serve(study: str, data_dir: Path | None, *, untimed: bool) -> None:
    """Evaluate each candidate that is asked for by a line with its name and a seed; answer by a line of JSON."""
    from autocompress.evaluators import runtimes
    from autocompress.evaluators.evaluator import Host, Request
    from autocompress.evaluators.ladder.ladder import Ladder
    from autocompress.evaluators.measurement import Infeasible, Latency, Window
    from autocompress.evaluators.meters.latency import PROBE
    from autocompress.profiles.baseline import export_baseline
    from autocompress.profiles.setup import set_up
    from autocompress.search.options import Options
    from autocompress.search.prepare import baseline_meter
    from autocompress.studies import loading

    runtime = runtimes.load("onnxruntime")
    setup = set_up(loading.load(study, data_dir=data_dir), [runtime])
    ladder, candidates = Ladder(setup.task, setup.supplies, [runtime]), candidates_of(setup.space)
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        options = Options(target_ms=1.0, out=Path(folder))
        artefact = export_baseline(setup.task, runtime, setup.supplies)[1]
        meter = baseline_meter(runtime, artefact, setup.supplies, options)
        known: tuple[Latency, ...] = ()
        if untimed:
            window = Window(baseline_ns=(1,), candidate_ns=(1,))
            known = (Latency(windows=(window,) * 2, baseline_ms=1.0, runtime=runtime.name),)
        else:
            calibrated = meter.calibrate(PROBE)
            meter = baseline_meter(runtime, artefact, setup.supplies, options, (calibrated.median_ms, 0.0))
        for part, functions in PARTS.items():
            for module, path in functions:
                clock.watch(part, module, path)
        clock.watch_rungs()
        clock.watch_teacher(setup.task.model if setup.task.teacher is None else setup.task.teacher)
        print(json.dumps(list(candidates)), flush=True)
        for line in sys.stdin:
            name, seed = json.loads(line)
            request = Request(
                folder="trial", candidate=candidates[name], epochs=setup.task.epochs, seed=seed, latencies=known
            )
            clock.spent.clear()
            clock.since = time.perf_counter(), sum(os.times()[:4])
            outcome = ladder.evaluate(request, Host(folder=Path(folder), meters={"": meter}))
            clock.tick()
            result: dict[str, Any] = {"spent": clock.spent}
            if isinstance(outcome, Infeasible):
                result["reason"] = outcome.reason
            else:
                result |= {"one_shot": outcome[0].one_shot_accuracy, "accuracy": outcome[0].accuracy}
            print(json.dumps(result), flush=True)


Ask = Callable[[str, int], Mapping[str, Any]]


@contextmanager
def evaluator_of(tree: Path, arguments: list[str]) -> Iterator[tuple[list[str], Ask]]:
    """Start a tree's process; yield the candidates' names, and a function that evaluates one with a seed."""
    with importable(tree) as environment:
        command = [sys.executable, __file__, "--serve", *arguments]
        with subprocess.Popen(
            command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            to, answers = process.stdin, process.stdout

            def ask(name: str, seed: int) -> Mapping[str, Any]:
                print(json.dumps([name, seed]), file=to, flush=True)
                found: Mapping[str, Any] = json.loads(answers.readline())
                return found

            yield json.loads(answers.readline()), ask
            to.close()


def show(results: Mapping[str, list[Mapping[str, Any]]]) -> None:
    """Print the mean seconds of each tree by rung and part, and their sums."""
    spent = {
        tree: [{name: seconds for name, seconds in found["spent"].items() if sum(seconds)} for found in all_of]
        for tree, all_of in results.items()
    }
    names = dict.fromkeys(name for all_of in spent.values() for each in all_of for name in each)
    print(f"\n{'mean seconds of a trial':28}" + "".join(f"{tree + ' wall':>20}{'CPU':>8}" for tree in spent))
    totals: defaultdict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for name in names:
        row = f"{name or 'between rungs':28}"
        for tree, all_of in spent.items():
            wall, cpu = (statistics.mean(each.get(name, (0.0, 0.0))[i] for each in all_of) for i in range(2))
            totals[tree] = [totals[tree][0] + wall, totals[tree][1] + cpu]
            row += f"{wall:>20.2f}{cpu:>8.2f}"
        print(row)
    print(f"{'all':28}" + "".join(f"{wall:>20.2f}{cpu:>8.2f}" for wall, cpu in totals.values()))


def main() -> None:
    """Evaluate all candidates in all trees, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", default="digits")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--against", metavar="REVISION", help="another revision to evaluate the same candidates with")
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each candidate")
    parser.add_argument("--untimed", action="store_true", help="leave the latency out, as on a busy machine")
    parser.add_argument("--quick", action="store_true", help="one candidate, untimed: a smoke test")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    untimed = asked.untimed or asked.quick
    if asked.serve:
        serve(asked.study, asked.data_dir, untimed=untimed)
        return
    arguments = ["--study", asked.study, *(["--untimed"] if untimed else [])]
    arguments += ["--data-dir", str(asked.data_dir.absolute())] if asked.data_dir else []
    with ExitStack() as stack:
        trees = {"this": ROOT}
        if asked.against:
            trees[asked.against] = stack.enter_context(checked_out(asked.against))
        started = {tree: stack.enter_context(evaluator_of(path, arguments)) for tree, path in trees.items()}
        results: dict[str, list[Mapping[str, Any]]] = {tree: [] for tree in trees}
        names = started["this"][0][-1:] if asked.quick else started["this"][0]
        from common.environment import describe

        print(f"{asked.study}; {describe()}\n", flush=True)
        print(f"{'':16}{'seed':>4}" + "".join(f"{tree + ' CPU s':>18}{'one-shot':>10}{'trained':>9}" for tree in trees))
        for seed in range(asked.seeds):
            for name in names:
                row = f"{name:16}{seed:>4}"
                for tree, (_, ask) in started.items():
                    found = ask(name, seed)
                    results[tree].append(found)
                    cpu = sum(seconds[1] for seconds in found["spent"].values())
                    row += f"{cpu:>18.1f}"
                    row += found.get("reason") or f"{found['one_shot']:>10.2%}{found['accuracy']:>9.2%}"
                print(row, flush=True)
    show(results)


if __name__ == "__main__":
    main()
