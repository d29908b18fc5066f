"""What the user asked for, checked once, where it enters."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError

SAMPLERS = ("mutation", "tpe", "nsga2", "random")

_TIME = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


def parse_latency(text: str) -> float:
    """Return a latency in milliseconds.

    >>> parse_latency("5ms"), parse_latency("800us"), parse_latency("0.02s")
    (5.0, 0.8, 20.0)
    """
    seconds = _seconds(text, ("us", "µs", "ms", "s"))
    if seconds is None:
        raise UsageError(
            f"--target-latency must be a positive number with a unit (us, ms or s), such as 5ms; got {text!r}."
        )
    return round(seconds * 1e3, 9)


def parse_duration(text: str, option: str) -> float:
    """Return a duration in seconds.

    >>> parse_duration("90s", "--time-budget"), parse_duration("1.5h", "--time-budget")
    (90.0, 5400.0)
    """
    seconds = _seconds(text, ("s", "m", "min", "h"))
    if seconds is None:
        raise UsageError(f"{option} must be a positive number with a unit (s, m or h), such as 10m; got {text!r}.")
    return seconds


def _seconds(text: str, units: tuple[str, ...]) -> float | None:
    match = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*([a-zµ]+)\s*", text)
    if match is None or match[2] not in units or float(match[1]) <= 0:
        return None
    return float(match[1]) * _TIME[match[2]]


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to run a study.

    Attributes:
        target_ms: the latency that a model must meet.
        out: the run directory.
        runtimes: what serves the models, and times them; milliseconds are told by the first one's baseline.
        trials: how many trials the study has when it is done.
        time_budget_s: seconds after which no trial is begun; None for no limit.
        trial_timeout_s: seconds after which one trial is given up.
        workers: how many trials run at a time; 0 runs them in this process.
        sampler: where candidates come from after the warm start.
        seed: of everything random.
        threads: threads that a served model may use.
        batch: examples that are served at a time; None takes the task's.
        percentile: which of the run times must meet the target; 50 is the median.
        inherit: whether a candidate goes on from the weights of a trained neighbour.
        compact: whether models are kept as compact files too, and their bytes are what counts as size.
        storage: URL of the database that holds the study; None keeps it in the run directory.
        epochs: passes over the training data in a trial; None takes the task's.
        final_epochs: passes for each model of the front; None takes the task's.

    Raises:
        UsageError: a value is out of its range.

    """

    target_ms: float
    out: Path
    runtimes: tuple[str, ...] = ("onnxruntime",)
    trials: int = 24
    time_budget_s: float | None = None
    trial_timeout_s: float = 1800.0
    workers: int = min(2, os.cpu_count() or 1)
    sampler: str = "mutation"
    seed: int = 0
    threads: int = 1
    batch: int | None = None
    percentile: float = 50.0
    inherit: bool = True
    compact: bool = False
    storage: str | None = None
    epochs: float | None = None
    final_epochs: float | None = None

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise UsageError(f"--sampler must be one of: {', '.join(SAMPLERS)}; got {self.sampler!r}.")
        for name, least in (("trials", 1), ("workers", 0), ("threads", 1), ("seed", 0)):
            value = getattr(self, name)
            if value < least:
                raise UsageError(f"--{name} must be {least} or more; got {value}.")
        if len(set(self.runtimes)) < max(1, len(self.runtimes)):
            raise UsageError(f"--runtime must name one runtime or several different ones; got {list(self.runtimes)}.")
        if self.batch is not None and self.batch < 1:
            raise UsageError(f"--batch must be 1 or more; got {self.batch}.")
        if not 1 <= self.percentile <= 99:
            raise UsageError(f"--percentile must be between 1 and 99; got {self.percentile:g}.")
        for name in ("epochs", "final_epochs"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise UsageError(f"--{name.replace('_', '-')} must be 0 or more; got {value:g}.")
