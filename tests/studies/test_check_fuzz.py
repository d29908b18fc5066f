"""Two hundred tasks as strangers may bring them: each is sound, or refused with the rule, what came and the way out."""

from __future__ import annotations

import importlib.util
import random
import re
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies

from autocompress.compressors.pipeline import apply_candidate, space_of, supplies_of
from autocompress.compressors.pruning.inspect import inspect
from autocompress.errors import InfeasibleError, StudyError
from autocompress.evaluators import runtimes
from autocompress.evaluators.ladder.engines import Engines
from autocompress.evaluators.ladder.served import checked
from autocompress.spaces.uniform import uniform
from autocompress.studies.checks import calls
from autocompress.studies.checks.loaders import Bounds
from autocompress.studies.validate import validate

BENCH = Path(__file__).resolve().parents[2] / "bench"
SOON = Bounds(seconds=1.0, unknown_s=0.1)
PATIENCE_S = 20.0
"""Seconds that a check of such a small task may take on any machine."""

WAYS = re.compile(
    r"\b(Give|give|Build|Load|Make|Take|take|Write|Let|See|Try|Leave|Return|Wrap|Pass|Change|Add|Do not|Call)\b|"
    "did you mean"
)
"""Words that the way out begins with."""


def _tasks() -> ModuleType:
    """Import the benchmark's tasks as it does."""
    spec = importlib.util.spec_from_file_location("fuzz_tasks", BENCH / "common" / "fuzz_tasks.py")
    assert spec is not None
    assert spec.loader is not None
    loaded = sys.modules["fuzz_tasks"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


TASKS = _tasks()
ended: list[str] = []
"""How each task ended."""


@pytest.fixture(scope="module", autouse=True)
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Work in an empty folder, with a short bound for each call."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("desk")
        patch.chdir(folder)
        patch.setattr(calls, "CALL_S", 10.0)
        yield folder


def goes_on(task: Any) -> str:
    """Build, export and serve a small candidate, and return how that ended."""
    onnxruntime = runtimes.load("onnxruntime")
    try:
        network = inspect(task.base, task.examples, keep=task.keep)
        space = space_of(network, onnxruntime.capabilities, task)
        supplies = replace(supplies_of(task, None), onnx=True)
        built = apply_candidate(task, uniform(space, 0.5, quantized=True), supplies, epochs=0)
        with Engines() as engines:
            checked(built, onnxruntime, supplies, engines, quantized=True)
    except InfeasibleError:
        return "infeasible"
    return "served"


@settings(
    max_examples=2 * settings.default.max_examples,  # a quarter in the first stage
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(recipe=TASKS.recipes, further=strategies.integers(0, 7))
@pytest.mark.filterwarnings("ignore")
def test_any_task_is_sound_or_refused_with_the_way_out(recipe: Any, further: int, desk: Path) -> None:
    """Nothing else is raised, random states stay, nothing is left behind, and what is sound can be compressed."""
    try:
        task = TASKS.made(recipe)
    except TASKS.UnmakeableError:
        return
    states, alarm = (random.getstate(), torch.get_rng_state()), signal.getsignal(signal.SIGALRM)
    begun = time.monotonic()
    try:
        valid = validate(task, SOON)
    except StudyError as error:
        ended.append("refused")
        text = str(error)
        assert WAYS.search(text), text
        assert len(text) > 60, text
    else:
        ended.append(goes_on(valid.task) if not further else "sound")
    assert time.monotonic() - begun < PATIENCE_S
    assert random.getstate() == states[0]
    if ended[-1] in ("refused", "sound"):
        assert torch.equal(torch.get_rng_state(), states[1])
    assert signal.getsignal(signal.SIGALRM) == alarm
    assert not any(desk.iterdir())


def test_both_ends_were_met() -> None:
    """A good part of the tasks is sound, a good part is refused, and some were served."""
    assert ended.count("refused") > settings.default.max_examples // 5
    assert ended.count("sound") > settings.default.max_examples // 5
    assert "served" in ended
