"""Studies on other runtimes: one that does harm, several at a time."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pandas
import pytest

from autocompress.compressors.pipeline import apply_candidate, supplies_of
from autocompress.evaluators.meters.latency import PROBE, meter_for
from autocompress.spaces.candidate import Candidate
from autocompress.studies import loading

pytestmark = pytest.mark.slow

Command = Callable[..., subprocess.CompletedProcess[str]]

FAULTY = Path(__file__).parents[2] / "evaluators" / "faulty.py"

REASONS = ("SIGSEGV", "out of memory", "not finite", "do not depend on the input", "is empty")


def unchanged_ms(study: Path) -> float:
    """Return the milliseconds of a study's unchanged network."""
    task = loading.load(str(study))
    supplies = supplies_of(task)
    baseline = apply_candidate(task, Candidate(), supplies, epochs=0).onnx
    meter = meter_for("onnxruntime", baseline=baseline, inputs=[x.numpy() for x in supplies.examples])
    return meter.calibrate(PROBE).median_ms


def test_a_runtime_that_does_harm_costs_its_candidates_only(folder: Path, warm: Command) -> None:
    """Whatever it does to INT8 networks is an infeasible trial with its reason; the float ones make the front."""
    target = f"{0.6 * unchanged_ms(folder / 'my_study.py')}ms"
    line = ("my_study.py", "--target-latency", target, "--out", "run", "--trials", 6, "--workers", 0)
    done = warm(folder, *line, "--runtime", f"{FAULTY}:mixed", "--final-epochs", 0)
    assert done.returncode in (0, 1), done.stderr  # whether pruning in float goes so far is not asked here
    assert (folder / "run" / "trials.csv").exists(), done.stderr
    assert "Traceback" not in done.stderr
    trials = pandas.read_csv(folder / "run" / "trials.csv", keep_default_na=False)
    integer = trials[trials.candidate.str.contains('"bits"')]
    assert set(integer.state) == {"pruned"}
    kinds = {reason for reason in REASONS for given in integer.reason if reason in given}
    assert len(kinds) >= 2, list(integer.reason)
    front = pandas.read_csv(folder / "run" / "pareto.csv")
    assert len(front) > 1
    assert front.runtime.str.endswith("faulty.py:mixed").all()


@pytest.fixture(scope="module")
def several(
    tmp_path_factory: pytest.TempPathFactory, study_folder: Callable[[Path], Path], warm: Command
) -> tuple[Path, str]:
    """Return the run directory of a study on two runtimes, and what was printed."""
    folder = study_folder(tmp_path_factory.mktemp("user"))
    line = ("my_study.py", "--target-latency", "50ms", "--out", "run", "--trials", 2, "--workers", 0)
    both = ("--runtime", "onnxruntime", "--runtime", "openvino")
    done = warm(folder, *line, *both, "--threads", 2, "--batch", 4, "--percentile", 90)
    assert done.returncode == 0, done.stderr
    return folder / "run", done.stdout


def test_a_study_has_a_front_on_each_of_its_runtimes(several: tuple[Path, str], warm: Command) -> None:
    """Each model is built, scored and timed on both, all milliseconds by the first one's baseline."""
    out, printed = several
    front = pandas.read_csv(out / "pareto.csv")
    assert set(front.runtime) <= {"onnxruntime", "openvino"}
    for name, stem in (("onnxruntime", "model"), ("openvino", "model-openvino")):
        alone = pandas.read_csv(out / f"pareto-{name}.csv")
        assert set(alone.runtime) == {name}
        assert len(alone) > 1
        assert f"On {name} alone: " in printed
        for row in alone.itertuples():
            assert row.file == f"{stem}.onnx"
            assert (out / row.path / row.file).stat().st_size == row.size_bytes
            assert row.memory_bytes > 1e6
    calibrated = json.loads((out / "calibration.json").read_text())["median_ms"]
    baseline = json.loads((out / "baseline" / "measurement.json").read_text())
    for measured in (baseline, *baseline["elsewhere"]):
        latency = measured["latency"]
        assert (latency["baseline_ms"], latency["percentile"], latency["threads"]) == (calibrated, 90, 2)
    for name, file in (("onnxruntime", "model.onnx"), ("openvino", "model-openvino.onnx")):
        picked = warm(out.parent, "pick", "run", "--runtime", name, "-o", f"the one of {name}")
        assert picked.returncode == 0, picked.stderr
        assert f"{file} on {name}: the answers" in picked.stdout
        alone = [sys.executable, "-I", out.parent / f"the one of {name}" / "load.py"]
        assert subprocess.run(alone, cwd="/", capture_output=True, text=True, check=True).stdout.startswith(file)


def test_models_of_another_runtime_reproduce_their_predictions(several: tuple[Path, str]) -> None:
    """What OpenVINO is served is an ONNX file that computes in other programs what it did in the study."""
    out, _ = several
    for row in pandas.read_csv(out / "pareto-openvino.csv").itertuples():
        with np.load(out / row.path / "predictions.npz") as arrays:
            session = onnxruntime.InferenceSession(out / row.path / row.file, providers=["CPUExecutionProvider"])
            (output,) = session.run(None, {"input": arrays["input0"]})
            spread = float(np.ptp(arrays["output-openvino"]))
            assert spread > 0
            np.testing.assert_allclose(output, arrays["output-openvino"], atol=0.1 * spread)
