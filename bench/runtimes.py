"""How fast, exact, large and hungry five networks are on every runtime that works here, in float and in INT8.

    python bench/runtimes.py --out runtimes.json         all of them, about twelve minutes on two quiet cores
    python bench/runtimes.py --networks resnet20 --runtimes onnxruntime openvino
    python bench/runtimes.py --quick                     a smoke test

Times are ratios to the float network in ONNX Runtime, interleaved with it, one thread, one example. Differences are to
PyTorch, on eight examples, as a share of the outputs' range. Networks are not trained and nothing is fine-tuned, so
that differences tell of the runtimes, not of what training would mend. A table is printed for each network; the JSON
file keeps everything, raw times included.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from common.environment import describe
from common.networks import NETWORKS, task_of
from common.reasons import dearest, tedious, why_slower

from autocompress.compressors.pipeline import Compressed, apply_candidate, supplies_of
from autocompress.compressors.pruning.inspect import inspect
from autocompress.errors import InfeasibleError, MissingRuntimeError
from autocompress.evaluators.ladder.served import source_of
from autocompress.evaluators.measurement import Latency
from autocompress.evaluators.meters.latency import Plan, ProcessMeter
from autocompress.evaluators.meters.serve_once import serve_once
from autocompress.evaluators.parity import compare
from autocompress.evaluators.runtime import Arrays, Runtime, Source
from autocompress.evaluators.runtimes import RUNTIMES, load, variants_of
from autocompress.spaces.candidate import BITS, Candidate

PLAN = Plan(min_windows=3, max_windows=6, gap_s=0.2, min_runs=10, min_window_s=0.25, tolerance=0.03)
QUICK = Plan(min_windows=2, max_windows=2, gap_s=0.0, min_runs=5, min_window_s=0.05, tolerance=1.0)

EXAMPLES = 8
TIMEOUT_S = 600.0

SMALL_MACS = 50e6
"""Networks below this are served by all runtimes, also by those that compile for long."""


@dataclass(kw_only=True)
class Row:
    """A network on a runtime; where it ends with a reason, what would come after is None.

    Attributes:
        precision: ``float`` or ``INT8`` for what is asked of the layers; a variant may serve floats in its own way.
        reason: why there are no numbers, or why INT8 is not faster than float on this runtime.
        difference: the largest from PyTorch, as a share of the outputs' range.
        top1: share of the examples whose largest output is PyTorch's.
        executed: share of the multiply-accumulates on fewer than 32 bits; None where the runtime does not tell.
        intended: the same, as it was meant: what attention multiplies besides its layers stays in float.
        kernels: the dearest of a network in INT8, as texts.

    """

    network: str
    runtime: str
    precision: str
    reason: str = ""
    ratio: float | None = None
    half_width: float | None = None
    difference: float | None = None
    top1: float | None = None
    executed: float | None = None
    intended: float | None = None
    convert_s: float | None = None
    build_s: float | None = None
    size_bytes: int | None = None
    peak_bytes: int | None = None
    kernels: Sequence[str] = ()
    latency: Latency | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A network, ready to be served."""

    name: str
    forms: Mapping[str, tuple[Compressed, Source]]
    batches: Sequence[Arrays]
    meter: ProcessMeter
    plan: Plan

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one example."""
        return self.forms["float"][0].macs

    @property
    def title(self) -> str:
        """What the ratios are to, as a heading in Markdown."""
        count = f"{self.macs / 1e6:,.0f} million multiply-accumulates"
        return f"### {self.name}: {count}, {self.meter.baseline_ms:.2f} ms in ONNX Runtime"

    @classmethod
    def of(cls, name: str, plan: Plan) -> Bench:
        """Compress a network in both precisions, and time it in ONNX Runtime."""
        task = task_of(name)
        supplies = supplies_of(task)
        layers = [layer.name for layer in inspect(task.model, task.examples).layers]
        candidates = {"float": Candidate(), "INT8": Candidate({BITS: dict.fromkeys(layers, 8)})}
        forms = {}
        for precision, candidate in candidates.items():
            compressed = apply_candidate(task, candidate, supplies, epochs=0)
            forms[precision] = (compressed, source_of(compressed, supplies))
        images = next(iter(task.train))[0][:EXAMPLES]
        batches = [[x[None].numpy()] for x in images]
        baseline = load("onnxruntime").convert(forms["float"][1])
        meter = ProcessMeter(baseline=baseline, runtime="onnxruntime", inputs=batches[0])
        meter = replace(meter, baseline_ms=meter.calibrate(plan).median_ms)
        return cls(name=name, forms=forms, batches=batches, meter=meter, plan=plan)

    def row(self, runtime: Runtime, precision: str) -> Row:
        """Convert, serve and time one form of the network on one runtime."""
        row = Row(network=self.name, runtime=runtime.name, precision=precision)
        compressed, source = self.forms[precision]
        try:
            runtime.describe()  # raises before anything slow begins
            started = time.perf_counter()
            artefact = runtime.convert(source)
            row.convert_s = time.perf_counter() - started
            row.size_bytes, row.intended = len(artefact), compressed.low_precision
            served = serve_once(runtime.name, artefact, self.batches, timeout_s=TIMEOUT_S, kernels=True)
            row.build_s, row.peak_bytes = served.build_s, served.peak_bytes
            parity = compare(self._expected(compressed), served.outputs)
            if parity is not None:
                row.difference, row.top1 = parity.difference, parity.agreement
            row.executed = served.low_precision
            if row.executed is not None:
                row.intended *= min(1.0, compressed.macs / sum(served.macs.values()))
            row.latency = self.meter.measure(artefact, self.plan, runtime=runtime.name, timeout_s=TIMEOUT_S)
        except (InfeasibleError, MissingRuntimeError) as error:
            row.reason = str(error)
            return row
        row.ratio, row.half_width = row.latency.ratio, row.latency.half_width
        if precision == "INT8" and not runtime.capabilities.isolated:
            row.kernels = dearest(runtime, artefact, self.batches[0])
        return row

    def _expected(self, compressed: Compressed) -> list[Arrays]:
        with torch.no_grad():
            return [[compressed.model(*map(torch.from_numpy, batch)).numpy()] for batch in self.batches]


def rows_of(bench: Bench, names: Sequence[str], *, slow: bool) -> Iterator[Row]:
    """Yield the rows of a network; INT8 only where a runtime has layers in INT8, and is no variant for whole models."""
    small = bench.macs < SMALL_MACS
    for name in names:
        runtime = load(name)
        if not (small or slow) and tedious(name):
            yield Row(network=bench.name, runtime=name, precision="float", reason=tedious(name))
            continue
        plain = bench.row(runtime, "float")
        yield plain
        if ":" not in name and 8 in runtime.capabilities.bits and plain.ratio is not None:
            rounded = bench.row(runtime, "INT8")
            if rounded.ratio is not None and rounded.ratio > plain.ratio:
                rounded.reason = why_slower(rounded.executed, rounded.intended, rounded.kernels)
            yield rounded


def table(rows: Sequence[Row]) -> str:
    """Return rows as Markdown."""

    def text(value: float | None, form: str, unit: float = 1.0) -> str:
        return "" if value is None else format(value / unit, form)

    lines = [
        "| runtime | precision | ratio | ± | difference | top-1 | low precision, executed / meant "
        "| convert s | build s | file MB | peak MB | |",
        "|---|---|" + "--:|" * 9 + "---|",
    ]
    for row in rows:
        share = f"{text(row.executed, '.0%') or '?'} / {text(row.intended, '.0%')}" if row.build_s is not None else ""
        cells = (
            row.runtime,
            row.precision,
            text(row.ratio, ".3f"),
            text(row.half_width, ".3f"),
            text(row.difference, ".2%"),
            text(row.top1, ".0%"),
            share,
            text(row.convert_s, ".1f"),
            text(row.build_s, ".2f"),
            text(row.size_bytes, ".2f", 1e6),
            text(row.peak_bytes, ".0f", 1e6),
            row.reason.replace("|", "\\|"),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def everything() -> list[str]:
    """Return the names of all runtimes with all their variants."""
    families = [family for family in RUNTIMES if family != "fake"]
    return [f"{family}:{variant}".rstrip(":") for family in families for variant in variants_of(family)]


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--runtimes", nargs="+", choices=everything(), default=everything(), metavar="NAME")
    parser.add_argument("--slow", action="store_true", help="also what compiles large networks for minutes")
    parser.add_argument("--quick", action="store_true", help="one network, two runtimes, short windows: a smoke test")
    parser.add_argument("--out", type=Path, help="a JSON file for everything")
    asked = parser.parse_args()
    if asked.quick:
        asked.networks, asked.runtimes = ["resnet20"], ["onnxruntime", "openvino"]
    plan = QUICK if asked.quick else PLAN
    environment = describe(load("onnxruntime"))
    print(f"{environment}\n")
    torch.set_num_threads(1)
    started = time.monotonic()
    rows: list[Row] = []
    for name in asked.networks:
        bench = Bench.of(name, plan)
        measured = list(rows_of(bench, asked.runtimes, slow=asked.slow))
        print(f"{bench.title}\n\n{table(measured)}\n", flush=True)
        rows += measured
        print(f"{time.monotonic() - started:.0f} s so far\n", flush=True)
        if asked.out is not None:  # after each network, so that little is lost
            kept = {"environment": environment, "plan": asdict(plan), "rows": [asdict(row) for row in rows]}
            asked.out.write_text(json.dumps(kept, default=dict))


if __name__ == "__main__":
    main()
