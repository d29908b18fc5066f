"""What is found of one runtime, whatever it does to the process it is tried in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from autocompress.evaluators.meters.latency import Plan
from autocompress.evaluators.standalone.doctor import FAILS, IMPORTED, MISSING, SLOW, WORKS, check, machine, noise
from autocompress.evaluators.standalone.model_file import offered
from autocompress.evaluators.standalone.sample_network import Specimen, sample_network

FAULTY = str(Path(__file__).parents[1] / "faulty.py")


@pytest.fixture(scope="module")
def sample() -> Specimen:
    """Return the network that runtimes are tried on."""
    return sample_network()


def test_the_specimen_is_one_network(sample: Specimen) -> None:
    """Its files compute what its module does, in INT8 within a few percent, and it is the same each time."""
    for content, tolerance in ((sample.onnx, 1e-5), (sample.int8, 0.05)):
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        (output,) = session.run(None, {"x": sample.inputs})
        np.testing.assert_allclose(output, sample.expected, atol=tolerance * float(np.ptp(sample.expected)))
    assert sample_network().onnx == sample.onnx


def test_one_that_works_has_all_its_numbers(sample: Specimen) -> None:
    """Float and INT8 as PyTorch computes them, INT8 in integers, and sixteen examples longer than one."""
    found = check("onnxruntime", sample)
    assert (found.state, found.reason) == (WORKS, "")
    assert found.version == onnxruntime.__version__
    assert found.float_difference is not None
    assert found.float_difference < 1e-4
    assert found.int8_difference is not None
    assert 0 < found.int8_difference < 0.05
    assert found.int8_share is not None
    assert found.int8_share > 0.9
    sixteen, one = found.batch_times_ms
    assert sixteen > one


@pytest.mark.parametrize(
    ("variant", "reason"),
    [("segfault", "SIGSEGV"), ("nan", "differ from"), ("empty", "another shape")],
)
def test_one_that_does_harm_is_told_with_the_step(sample: Specimen, variant: str, reason: str) -> None:
    """What it did well before is known."""
    found = check(f"{FAULTY}:{variant}", sample)
    assert found.state == FAILS
    assert found.reason.startswith("fails at INT8: ")
    assert reason in found.reason
    assert found.float_difference is not None


def test_one_that_is_not_installed_is_told_with_the_command(sample: Specimen) -> None:
    """As pip takes it."""
    found = check("onnxruntime:cuda", sample)
    if found.state != WORKS:
        assert found.state == MISSING
        assert "pip install onnxruntime-gpu" in found.reason


def test_a_slow_one_is_only_imported(sample: Specimen) -> None:
    """Its version is known, and no network was built."""
    found = check("onnxruntime", sample, whole=False)
    assert (found.state, found.version) == (IMPORTED, onnxruntime.__version__)
    assert found.float_difference is None


def test_all_runtimes_are_offered() -> None:
    """With their variants, without the fake one; those that are slow are among them."""
    names = [runtime.name for runtime in offered()]
    assert len(set(names)) == len(names)
    assert {"onnxruntime", "onnxruntime:cuda"} <= set(names)
    assert "fake" not in names
    assert set(names) >= SLOW


def test_noise_is_that_of_a_model_against_itself(sample: Specimen) -> None:
    """The ratio is near 1, and its interval and worst window say how near."""
    plan = Plan(min_windows=3, max_windows=3, gap_s=0.0, min_runs=20, min_window_s=0.05, tolerance=1.0)
    found = noise("onnxruntime", sample, plan)
    assert found is not None
    assert 0.5 < found.ratio < 2
    assert found.worst >= abs(found.ratio - 1)
    assert found.half_width > 0


def test_machine_is_described() -> None:
    """By what timings depend on; what it does not tell is unknown, not left out."""
    assert {"cpu", "cores", "load", "nice", "governor", "locks"} <= set(machine())
    assert all(machine().values())
