"""What is told of an error is the part that says what is wrong."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from autocompress.compressors.export import to_onnx
from autocompress.errors import InfeasibleError, gist, in_a_line
from autocompress.evaluators.process import why


class Small(nn.Module):
    """Takes no picture."""

    def forward(self, x: Tensor) -> Tensor:
        """Raise an error."""
        raise ValueError(f"a picture of {x.shape[-1]} pixels is too small")


def test_an_exporters_cause_is_told_and_not_its_advice() -> None:
    """The exporter begins with what could be done next; the reason has the error behind it."""
    with pytest.raises(InfeasibleError) as caught:
        to_onnx(Small(), (torch.ones(2, 3),))
    reasons = caught.value.reason.split(" / ")
    assert len(reasons) == 2
    assert all("a picture of 3 pixels is too small" in reason for reason in reasons)
    assert "Next steps" not in caught.value.reason


def test_a_process_is_told_of_by_its_last_error() -> None:
    """Advice and details after an error's first line do not take its place."""
    code = "raise RuntimeError('Check x failed.\\nSee the manual for more.') from ValueError('first')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    told = "The runtime failed while the model was built: RuntimeError: Check x failed"
    assert why(done.returncode, done.stderr, "built") == told


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (RuntimeError("one\ntwo"), "RuntimeError: one"),
        (RuntimeError("it broke at:\n  a detail\nthe cause."), "RuntimeError: the cause"),
        (RuntimeError("ray::f()\n  File\nValueError: boom"), "RuntimeError: ValueError: boom"),
        (AssertionError(), "AssertionError"),
        (ValueError("announced:"), "ValueError: announced:"),
    ],
)
def test_errors_are_told_in_a_line(error: Exception, told: str) -> None:
    """The cause behind an error is told, else the first line that says something, else its kind."""
    assert in_a_line(error) == told


def test_what_is_told_is_bounded() -> None:
    """A message of a thousand characters is cut where it is quoted, and shows that it was."""
    assert len(gist(ValueError("x" * 1000))) == 300
    assert gist(ValueError("x" * 1000)).endswith("…")
