"""What is reported of an error is the part that says what is wrong, and where in the user's own code."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cloudpickle
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from autocompress.compressors.onnx_files.export import to_onnx
from autocompress.errors import InfeasibleError, blaming, gist, in_a_line, place
from autocompress.evaluators.subprocess_protocol import why
from autocompress.studies.task import top1


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
        (
            RuntimeError("C++ compile error\n\nOutput:\n  a.cpp:1:10: fatal error: omp.h: No such file\n2 errors"),
            "RuntimeError: C++ compile error (a.cpp:1:10: fatal error: omp.h: No such file)",
        ),
        (ValueError("announced:"), "ValueError: announced:"),
    ],
)
def test_errors_are_told_in_a_line(error: Exception, told: str) -> None:
    """The cause behind an error is reported, else the first line that says something, else its kind."""
    assert in_a_line(error) == told


def test_what_is_told_is_bounded() -> None:
    """Of a message of a thousand characters the middle goes where it is quoted: both ends may tell."""
    told = gist(ValueError(f"it began here {'x' * 1000} and this is wrong"))
    assert len(told) == 300
    assert re.fullmatch("it began here x+ … x+ and this is wrong", told)


class Crooked(nn.Module):
    """Fails in torch, two calls of its own deep."""

    def forward(self, x: Tensor) -> Tensor:
        return self.multiply(x)

    def multiply(self, x: Tensor) -> Tensor:
        return torch.zeros(3, 4) @ x


class Missing(Dataset[Tensor]):
    """Has no example, though it says so."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Tensor:
        raise KeyError(index)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda: Crooked()(torch.ones(3, 3)),
            r"RuntimeError: mat1 and mat2 shapes cannot be multiplied (3x4 and 3x3) (test_errors.py:{} in "
            "Crooked.multiply)",
        ),
        (lambda: top1(Crooked(), [(torch.ones(3, 3), torch.zeros(3))]), "RuntimeError: mat1"),
        (lambda: list(DataLoader(Missing(), num_workers=1)), "KeyError: 0 (test_errors.py:{} in __getitem__)"),
        (lambda: list(DataLoader(Missing())), "KeyError: 0 (test_errors.py:{} in Missing.__getitem__)"),
        (lambda: compile("\nx = (", "/some/where/my_study.py", "exec"), "SyntaxError: '(' was never closed (my_study"),
    ],
)
def test_the_last_line_of_the_users_code_is_told(call: Callable[[], object], said: str) -> None:
    """Frames of torch, of Python's library and of this package are passed over, also in a loader's process."""
    with pytest.raises(Exception) as caught:  # noqa: PT011
        call()
    lines = Path(__file__).read_text().splitlines()
    number = next(i for i, line in enumerate(lines, 1) if ("@ x" if "multipl" in said else "raise KeyError(") in line)
    assert in_a_line(caught.value).startswith(said.format(number))


def test_what_arose_elsewhere_has_no_place() -> None:
    """An error that no line of the user's is on the way of names none, and keeps the part it arose in."""
    code = compile("import torch\ntorch.zeros(2) @ torch.zeros(3)", "/x/site-packages/some.py", "exec")
    error = None
    try:
        with blaming("loss"):
            exec(code, {"__name__": "some"})
    except RuntimeError as raised:
        error = raised
    assert error is not None
    error = error.with_traceback(error.__traceback__.tb_next if error.__traceback__ else None)  # without this test's
    assert place(error) == ""
    assert in_a_line(error).endswith("(raised in the task's `loss`)")


def test_code_that_has_travelled_to_a_worker_is_still_the_users() -> None:
    """A study's functions arrive without the names of their files; they are named by their module's."""
    module = {"__name__": "a_study_of_mine", "__file__": "/home/me/a_study_of_mine.py"}
    exec(compile("def loss(model, batch):\n    raise ValueError('no')", module["__file__"], "exec"), module)
    loss = cloudpickle.loads(cloudpickle.dumps(module["loss"]))
    with pytest.raises(ValueError, match="no") as raised:
        loss(None, None)
    assert loss.__code__.co_filename != module["__file__"]
    assert raised.value.__traceback__ is not None
    raised.value.__traceback__ = raised.value.__traceback__.tb_next  # without this test's own frame
    assert place(raised.value) == "a_study_of_mine.py:2 in loss"
