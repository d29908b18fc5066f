"""What is found in each family of networks, and whether 30 % pruned and INT8 it is exact and fast in ONNX Runtime.

    python bench/families.py --out families.json         all of them, about half an hour on two quiet cores
    python bench/families.py --networks deit_tiny bert
    python bench/families.py --functions --networks efficientnet_b0 mobilenet_v3_small
                                                         with the cheapest activation functions, too
    python bench/families.py --quick                     a smoke test
    AUTOCOMPRESS_DATA=data python bench/families.py --agreement    what INT8 changes of a trained network's answers

Each network has a process of its own, so that its peak of memory is its own. Times are ratios to the unchanged network
in ONNX Runtime, interleaved with it, one thread, one example. Nothing is fine-tuned.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from common.environment import describe
from common.families_networks import FAMILIES, QUICK_FAMILIES, mobilenet_with_images
from common.peers_tools import Job, Points, has_nncf, nncf, onnxruntime
from runtimes import PLAN, QUICK
from torch import Tensor

from autocompress.compressors.activations import levels
from autocompress.compressors.pipeline import apply_candidate, supplies_of
from autocompress.compressors.pruning.inspect import inspect
from autocompress.compressors.pruning.prune import ratios
from autocompress.compressors.quantization.calibration import METHODS
from autocompress.errors import InfeasibleError
from autocompress.evaluators.ladder.served import Served, source_of
from autocompress.evaluators.meters.latency import ProcessMeter
from autocompress.evaluators.parity import compare
from autocompress.evaluators.runtimes import load
from autocompress.spaces.candidate import ACTIVATION, BITS, PRUNING_RATIO, QUANTIZATION, Candidate
from autocompress.spaces.layers import Network
from autocompress.studies.task import Task

SHARE = 0.3
MULTIPLE = 8
TIMEOUT_S = 1800.0


@dataclass(kw_only=True)
class Row:
    """A network; where it ends with a reason, what would come after is None.

    Attributes:
        macs: share of the multiply-accumulates that is left.
        difference: the largest between ONNX Runtime and PyTorch, as a share of the outputs' range.
        top1: share of the examples whose largest output is PyTorch's.
        moved: the largest difference that INT8 makes in PyTorch; a network that is not trained amplifies its noise.

    """

    network: str
    groups: int = 0
    layers: int = 0
    left_alone: Sequence[tuple[str, str]] = ()
    inspect_s: float | None = None
    apply_s: float | None = None
    macs: float | None = None
    difference: float | None = None
    top1: float | None = None
    moved: float | None = None
    ratio: float | None = None
    half_width: float | None = None
    baseline_ms: float | None = None
    peak_mb: float | None = None
    reason: str = ""


def candidate_of(network: Network, *, functions: bool = False) -> Candidate:
    """Return the candidate that prunes every group by the level nearest to 30 %, and rounds all layers to INT8.

    Args:
        network: its layers, groups and activation functions.
        functions: whether these are exchanged for the cheapest.

    """
    shares = {
        group.name: min(ratios(group, MULTIPLE), key=lambda ratio: abs(ratio - SHARE)) for group in network.groups
    }
    pruned = {name: share for name, share in shares.items() if share}
    cheapest = {each.name: levels(each.functions)[-1] for each in network.activations if functions}
    return Candidate({ACTIVATION: cheapest, PRUNING_RATIO: pruned, BITS: {layer.name: 8 for layer in network.layers}})


def row_of(name: str, *, quick: bool, functions: bool = False) -> Row:
    """Inspect, compress, serve and time a network, in this process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    row, task, plan = Row(network=name), FAMILIES[name](), QUICK if quick else PLAN
    runtime = load("onnxruntime")
    try:
        supplies = supplies_of(task, integers=runtime.capabilities.integers)
        started = time.perf_counter()
        network = inspect(task.model, task.examples)
        row.inspect_s = time.perf_counter() - started
        row.groups, row.layers, row.left_alone = len(network.groups), len(network.layers), network.left_alone
        baseline = apply_candidate(task, Candidate(), supplies, epochs=0)
        started = time.perf_counter()
        small = apply_candidate(task, candidate_of(network, functions=functions), supplies, epochs=0)
        row.apply_s, row.macs = time.perf_counter() - started, small.macs / baseline.macs
        artefact = runtime.convert(source_of(small, supplies))
        batches = supplies.calibration[:2]
        with runtime.build(artefact, threads=1) as engine, torch.no_grad():
            served = [[Served(engine)(*inputs).numpy()] for inputs in batches]
            simulated, plain = ([[net(*inputs).numpy()] for inputs in batches] for net in (small.model, small.plain))
        found, moved = compare(simulated, served), compare(plain, simulated)
        assert found is not None
        assert moved is not None
        row.difference, row.top1, row.moved = found.difference, found.agreement, moved.difference
        meter = ProcessMeter(
            baseline=runtime.convert(source_of(baseline, supplies)),
            runtime="onnxruntime",
            inputs=[x.numpy() for x in supplies.examples],
        )
        row.baseline_ms = meter.calibrate(plan).median_ms
        latency = replace(meter, baseline_ms=row.baseline_ms).measure(artefact, plan)
        row.ratio, row.half_width = latency.ratio, latency.half_width
    except InfeasibleError as error:
        row.reason = str(error)
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    row.peak_mb = int(peak[1]) / 1e3 if peak else None
    return row


def in_its_own_process(name: str, *, quick: bool, functions: bool) -> Row:
    """Return a network's row from a fresh process; one that crashes, hangs or eats all memory has a reason."""
    with tempfile.TemporaryDirectory(prefix="autocompress-") as folder:
        out = Path(folder) / "row.json"
        asked = [*(["--quick"] if quick else []), *(["--functions"] if functions else [])]
        command = [sys.executable, __file__, "--row", name, "--out", str(out), *asked]
        try:
            done = subprocess.run(command, timeout=TIMEOUT_S, capture_output=True, text=True)
        except subprocess.TimeoutExpired:
            return Row(network=name, reason=f"not done within {TIMEOUT_S:g} s")
        if done.returncode:
            said = done.stderr.strip().splitlines() or [f"exit {done.returncode}"]
            return Row(network=name, reason=said[-1])
        return Row(**json.loads(out.read_text()))


def table(rows: Sequence[Row]) -> str:
    """Return rows as Markdown."""

    def text(value: float | None, form: str) -> str:
        return "" if value is None else format(value, form)

    lines = [
        "| network | groups | layers | left alone | inspect s | compress s | MACs | difference | top-1 "
        "| INT8 moves | baseline ms | ratio | ± | peak MB | |",
        "|---|" + "--:|" * 13 + "---|",
    ]
    for row in rows:
        reasons = list(dict.fromkeys(reason for _, reason in row.left_alone))[:2]
        cells = (
            row.network,
            str(row.groups),
            str(row.layers),
            str(len(row.left_alone)),
            text(row.inspect_s, ".1f"),
            text(row.apply_s, ".1f"),
            text(row.macs, ".0%"),
            text(row.difference, ".2%"),
            text(row.top1, ".0%"),
            text(row.moved, ".2%"),
            text(row.baseline_ms, ".2f"),
            text(row.ratio, ".3f"),
            text(row.half_width, ".3f"),
            text(row.peak_mb, ".0f"),
            "; ".join(filter(None, (row.reason, *reasons))).replace("|", "\\|"),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def agreement(*, quick: bool) -> Iterator[str]:
    """Yield what INT8 without training leaves of a trained MobileNetV2's answers: by our ways, and by other tools.

    All have their ranges from the same photographs, are asked about all others, and run in ONNX Runtime.
    """
    torch.set_num_threads(1)
    task, runtime = (
        mobilenet_with_images(Path(os.environ["AUTOCOMPRESS_DATA"]) / "imagenet-1-per-class"),
        load("onnxruntime"),
    )
    supplies = supplies_of(task, integers=runtime.capabilities.integers)
    layers = [layer.name for layer in inspect(task.model, task.examples).layers]

    def ours(**settings: str) -> bytes:
        candidate = Candidate({BITS: dict.fromkeys(layers, 8), QUANTIZATION: settings})
        return runtime.convert(source_of(apply_candidate(task, candidate, supplies, epochs=0), supplies))

    base = runtime.convert(source_of(apply_candidate(task, Candidate(), supplies, epochs=0), supplies))
    meter = ProcessMeter(baseline=base, runtime="onnxruntime", inputs=[x.numpy() for x in supplies.examples])
    meter = replace(meter, baseline_ms=meter.calibrate(QUICK if quick else PLAN).median_ms)
    labels = torch.cat([labels for _, labels in task.validation])
    expected = answers(base, task)

    def compared(artefact: bytes) -> str:
        found = answers(artefact, task)
        same, right = found.argmax(1) == expected.argmax(1), found.argmax(1) == labels
        noise = (found - expected).square().sum() / expected.square().sum()
        ratio = meter.measure(artefact, QUICK if quick else PLAN).ratio
        top1, agrees = (float(each.float().mean()) for each in (right, same))
        return f"top-1 {top1:.1%}, agrees with float on {agrees:.1%}, {-10 * noise.log10():.1f} dB, ratio {ratio:.3f}"

    yield f"{len(labels)} images; float: top-1 {(expected.argmax(1) == labels).float().mean():.1%}"
    for method in METHODS:
        yield f"ranges by {method}: {compared(ours(calibration=method))}"
    job = Job(task=task, supplies=supplies, runtime=runtime, epochs=0)
    for name, make in others(job):
        yield f"{name}: {compared(make().artefact)}"


def others(job: Job) -> Points:
    """Yield what ONNX Runtime's own tool makes, and NNCF, where it is installed, in its two presets."""
    yield from ((f"quantize_static, {name}", make) for name, make in onnxruntime(job))
    if has_nncf():
        yield from ((f"NNCF, {name}", make) for name, make in itertools.islice(nncf(job), 2))


def answers(artefact: bytes, task: Task) -> Tensor:
    """Return the logits of all validation images, from ONNX Runtime."""
    with load("onnxruntime").build(artefact, threads=1) as engine:
        served = Served(engine)
        return torch.cat([served(images) for images, _ in task.validation])


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--functions", action="store_true", help="exchange activation functions for the cheapest, too")
    parser.add_argument("--quick", action="store_true", help="two small networks, short windows: a smoke test")
    parser.add_argument("--agreement", action="store_true", help="only a trained MobileNetV2: float, INT8, other tools")
    parser.add_argument("--out", type=Path, help="a JSON file for everything")
    parser.add_argument("--row", choices=FAMILIES, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.row:
        asked.out.write_text(json.dumps(asdict(row_of(asked.row, quick=asked.quick, functions=asked.functions))))
        return
    environment = describe(load("onnxruntime"))
    print(f"{environment}\n", flush=True)
    if asked.agreement:
        for line in agreement(quick=asked.quick):
            print(line, flush=True)
        return
    rows: list[Row] = []
    for name in QUICK_FAMILIES if asked.quick else asked.networks:
        rows.append(in_its_own_process(name, quick=asked.quick, functions=asked.functions))
        print(f"{name}: {rows[-1].reason or 'done'}", flush=True)
        if asked.out is not None:  # after each network, so that little is lost
            asked.out.write_text(json.dumps({"environment": environment, "rows": [asdict(row) for row in rows]}))
    print(f"\n{table(rows)}")


if __name__ == "__main__":
    main()
