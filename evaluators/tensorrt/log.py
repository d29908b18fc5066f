"""What TensorRT says while it works: one logger a process, as TensorRT keeps only the first that it is given."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from ...errors import shortened


@cache
def logger(trt: Any) -> Any:
    """Return the process's only logger for a TensorRT module; `fresh` gives what it keeps."""

    class Log(trt.ILogger):  # type: ignore[misc]  # the module is an argument
        """Keeps errors, warnings, and what is said of sparsity."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if int(severity) <= int(trt.ILogger.Severity.WARNING) or "(Sparsity)" in msg:
                self.lines.append(f"{severity.name}: {' '.join(msg.split())}")

    return Log()


def fresh(trt: Any) -> list[str]:
    """Empty the log and return it; it grows by what TensorRT says from now on."""
    lines: list[str] = logger(trt).lines
    lines.clear()
    return lines


def errors(log: Sequence[str]) -> list[str]:
    """Return the errors of a log, without their severity."""
    return [line.partition(": ")[2] for line in log if line.startswith(("ERROR: ", "INTERNAL_ERROR: "))]


def first_error(log: Sequence[str]) -> str:
    """Return the first error, which is the cause of the others, as a part of a sentence.

    >>> first_error(["WARNING: slow", "ERROR: IBuilder::build: Error Code 4: No such thing.", "ERROR: failed"])
    'IBuilder::build: Error Code 4: No such thing'
    """
    found = [*errors(log), "it gave no reason"][0]
    return shortened(found.rstrip(" ."))


def sparse_layers(log: Sequence[str]) -> tuple[str, ...]:
    """Return the layers for which the builder's report says that it chose sparse kernels.

    >>> sparse_layers(["INFO: (Sparsity) Chose 2 layer(s) using sparse tactics: conv1 + relu1, conv2"])
    ('conv1 + relu1', 'conv2')
    """
    reports = (re.search(r"\(Sparsity\) Chose \d+ layer\(s\) using sparse tactics:(.*)", line) for line in log)
    names = (name.strip() for report in reports if report for name in report[1].split(", "))
    return tuple(name for name in names if name)
