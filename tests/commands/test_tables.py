"""What the commands print."""

from __future__ import annotations

import io

from rich.console import Console, RenderableType

from autocompress.commands.tables import of_health, of_report
from autocompress.evaluators.measurement import Latency, Window
from autocompress.evaluators.meters.energy import Energy
from autocompress.evaluators.meters.serve_once import Serving
from autocompress.evaluators.parity import Parity
from autocompress.evaluators.standalone.doctor import FAILS, IMPORTED, MISSING, WORKS, Check, Health, Noise
from autocompress.evaluators.standalone.measure_file import Conditions, FileMeasurement, RuntimeResult
from autocompress.evaluators.standalone.model_inputs import Input


def printed(renderable: RenderableType) -> list[str]:
    """Return the lines on a terminal of 80 columns."""
    console = Console(file=io.StringIO(), width=80)
    console.print(renderable)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_report_has_all_numbers_in_80_columns() -> None:
    """Also with long names and large numbers, and with energy; what is flagged is said below."""
    windows = tuple(Window(baseline_ns=(100,), candidate_ns=(c,), contention=1.5) for c in (49, 50, 51))
    row = RuntimeResult(
        runtime="onnxruntime:tensorrt",
        artefact=bytes(1_234_567),
        serving=Serving(
            outputs=(),
            build_s=123.4,
            peak_bytes=2_345_000_000,
            macs={32: 1, 8: 2, 16: 1},
            energy=Energy(joules=1.5, source="nvml", runs=20, seconds=3.0),
        ),
        latency=Latency(windows=windows, baseline_ms=246.0),
        parity=Parity(difference=0.0123, agreement=0.8),
    )
    failed = RuntimeResult(runtime="/home/me/mine.py:fast", reason="It cannot be built.")
    report = FileMeasurement(
        model="model.onnx",
        reference="float.onnx",
        reference_runtime="onnxruntime",
        inputs=(Input(name="x", shape=(1, 3), dtype="float32"),),
        conditions=Conditions(energy=True, percentile=95.0, threads=2),
        rows=(row, failed),
    )
    lines = printed(of_report(report))
    text = " ".join(lines)
    for number in ("8 bit 75%", "123.00", "116.89–129.11", "0.50 ±0.02", "2345", "1.23", "123.4", "1500.0"):
        assert number in text
    assert "x 1×3 float32 · 2 threads · 95th percentile of the runs" in lines
    assert "Ratios and outputs are relative to float.onnx on onnxruntime." in lines
    assert "onnxruntime:tensorrt: outputs for random inputs differ by 1.23% of their range," in text
    assert "onnxruntime:tensorrt: other programs ran while it was timed" in text
    assert "energy from nvml, over 20 runs" in text
    assert "mine.py:fast: It cannot be built." in lines


def test_health_is_a_line_each_in_80_columns() -> None:
    """With the version's head; what is wrong, the machine and its noise are below."""
    checks = (
        Check(
            runtime="openvino:bf16",
            state=WORKS,
            version="2026.4.1-22982-e213a147257-releases",
            float_difference=0.001,
            int8_difference=0.02,
            int8_share=0.97,
            batch_times_ms=(8.0, 1.0),
        ),
        Check(runtime="litert", state=IMPORTED, version="2.3.0"),
        Check(runtime="onnxruntime:tensorrt", state=MISSING, reason="--runtime x needs y: pip install y"),
        Check(runtime="/home/me/mine.py", state=FAILS, reason="fails at INT8: It crashed."),
    )
    noise = Noise(runtime="onnxruntime", milliseconds=0.5, ratio=1.001, half_width=0.004, worst=0.0123, contention=1.02)
    machine = {
        "cpu": "a processor",
        "cores": "2",
        "load": "0.10 0.20 0.30",
        "governor": "unknown",
        "locks": "/run/lock",
    }
    lines = printed(of_health(Health(checks=checks, noise=noise, machine=machine, energy={"gpu": "nvml"})))
    assert lines[1].split() == ["openvino:bf16", "2026.4.1", "works", "0.10%", "2.00%", "97%", "8.0"]
    assert [line.split()[0] for line in lines[2:5]] == ["litert", "onnxruntime:tensorrt", "mine.py"]
    text = " ".join(lines)
    for said in (
        "imported: not tried",
        "pip install y",
        "mine.py fails at INT8: It crashed.",
        "against itself 1.001 ±0.004, worst window 1.2% off, wall / CPU 1.02",
        "energy: gpu by nvml",
        "locks: in /run/lock",
    ):
        assert said in text
