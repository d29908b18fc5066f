"""Processes die and users interrupt: nothing that was finished is lost, and the same command resumes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import pandas
import psutil
import pytest
from optuna.trial import FrozenTrial, TrialState

Command = Callable[..., subprocess.CompletedProcess[str]]
Begin = Callable[..., AbstractContextManager[psutil.Popen]]
Trials = Callable[[Path], list[FrozenTrial]]
Until = Callable[[Callable[[], object], str], None]
Descendants = Callable[[Path], list[psutil.Process]]

TRIALS = 5
FAKE = ("my_study.py", "--target-latency", "50ms", "--out", "run", "--runtime", "fake", "--trials", TRIALS)
SLOW = """
import dataclasses, time
import my_study
from autocompress.studies.task import top1

def metric(model, loader):
    if len(list(loader)) > 1:
        time.sleep(3600)
    return top1(model, loader)

def task():
    return dataclasses.replace(my_study.task(), metric=metric)
"""

DONE = (TrialState.COMPLETE, TrialState.PRUNED)


def outcomes(trials: list[FrozenTrial]) -> dict[int, tuple[object, ...]]:
    """Return what is known of each finished trial, by its number."""
    return {t.number: (t.state, t.values, t.user_attrs) for t in trials if t.state in DONE}


def running(trials: list[FrozenTrial]) -> set[int]:
    """Return the numbers of trials that have begun and not ended."""
    return {t.number for t in trials if t.state == TrialState.RUNNING and "candidate" in t.user_attrs}


def at_work(trials: list[FrozenTrial], finished: int) -> bool:
    """Tell whether a search has finished so many trials and is in the middle of others."""
    return len(outcomes(trials)) >= finished and bool(running(trials))


def check_whole(out: Path, before: list[FrozenTrial], after: list[FrozenTrial], count: int) -> None:
    """Check that what was finished is unchanged, that what was running was tried again, and that the end is whole."""
    kept, now = outcomes(before), outcomes(after)
    assert {number: now[number] for number in kept} == kept
    assert len(now) == count
    assert not running(after)
    assert running(before) <= {t.user_attrs.get("retry_of") for t in after if t.state in DONE}
    table = pandas.read_csv(out / "trials.csv")
    assert table.state.isin(["complete", "pruned"]).sum() == count
    check_models(out)


def check_models(out: Path) -> None:
    """Check that every model of the front has its files."""
    for path in pandas.read_csv(out / "pareto.csv").path:
        assert {"model.onnx", "model.safetensors", "candidate.json"} <= {file.name for file in (out / path).iterdir()}


def worker_of(process: psutil.Process) -> psutil.Process | None:
    """Return a worker process of a command that is evaluating a trial."""
    for child in process.children(recursive=True):
        with suppress(psutil.Error):
            if "ray::_Worker.evaluate" in " ".join(child.cmdline()):
                return child
    return None


def trains(out: Path) -> bool:
    """Tell whether a trial is being trained, which takes a while."""
    found = False
    for rung in (out / "trials").glob("*/rung"):
        with suppress(FileNotFoundError):
            found |= rung.read_text() == "train"
    return found


def test_a_killed_driver_costs_only_what_was_running(
    folder: Path, warm: Command, begin: Begin, trials: Trials, until: Until, descendants: Descendants
) -> None:
    """After `kill -9` no process is left behind, and the command resumes, without workers, with every finished trial.

    A test below resumes with them.
    """
    out = folder / "run"
    with begin(folder, *FAKE, "--workers", 1, "--epochs", 16) as process:
        until(lambda: at_work(trials(out), 2), "a trial after two others")
        time.sleep(random.uniform(0, 1))
        family = process.children(recursive=True)
        assert any("ray::" in " ".join(p.cmdline()) for p in family if p.is_running())
        process.kill()
        assert process.wait() == -signal.SIGKILL
        until(lambda: not descendants(folder), "the end of all processes of the killed command")
        assert not [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    before = trials(out)
    done = warm(folder, *FAKE, "--workers", 0)
    assert done.returncode == 0, done.stderr
    check_whole(out, before, trials(out), TRIALS)


def test_a_killed_worker_costs_only_its_trial(folder: Path, begin: Begin, trials: Trials, until: Until) -> None:
    """When a worker process dies its trial is tried again, and the run ends well."""
    out = folder / "run"
    with begin(folder, *FAKE, "--workers", 1, "--epochs", 8) as process:
        until(lambda: at_work(trials(out), 1) and trains(out) and worker_of(process), "a worker that trains")
        victim = worker_of(process)
        assert victim is not None
        victim.kill()
        assert process.wait() == 0, (folder / "stderr.txt").read_text()
    again = [t for t in trials(out) if "retry_of" in t.user_attrs]
    assert [t.user_attrs["attempt"] for t in again] == [1]
    assert again[0].state in DONE
    assert trials(out)[again[0].user_attrs["retry_of"]].state == TrialState.FAIL
    assert "its worker died" in (folder / "stderr.txt").read_text()
    check_whole(out, [], trials(out), TRIALS)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_an_interrupted_run_leaves_its_front_and_goes_on(
    folder: Path, warm: Command, begin: Begin, trials: Trials, until: Until, descendants: Descendants, workers: int
) -> None:
    """Ctrl-C ends the run in order with exit code 130 and the front so far; the same command resumes and ends."""
    out = folder / "run"
    line = (*FAKE, "--workers", workers)
    with begin(folder, *line, "--epochs", 16) as process:
        until(lambda: at_work(trials(out), 2), "a trial after two others")
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait() == 130, (folder / "stderr.txt").read_text()
        until(lambda: not descendants(folder), "the end of all processes of the interrupted command")
    stderr = (folder / "stderr.txt").read_text()
    assert "run the same command to resume" in stderr
    assert "Traceback" not in stderr
    assert "baseline" in (folder / "stdout.txt").read_text()
    check_models(out)
    before = trials(out)
    assert len(outcomes(before)) < TRIALS
    assert not running(before)
    assert all("Interrupted" not in str(attrs) for _, _, attrs in outcomes(before).values())
    assert any(t.state == TrialState.WAITING and "retry_of" in t.user_attrs for t in before)
    done = warm(folder, *line)
    assert done.returncode == 0, done.stderr
    check_whole(out, before, trials(out), TRIALS)


def test_an_interrupt_in_the_first_trial_is_in_order(folder: Path, begin: Begin, trials: Trials, until: Until) -> None:
    """Where nothing was found yet there is nothing to show, and the exit code is that of an interrupted run."""
    (folder / "slow.py").write_text(SLOW)
    out = folder / "run"
    with begin(folder, "slow.py", *FAKE[1:], "--workers", 0) as process:
        rung = out / "trials" / "00000" / "rung"
        until(lambda: rung.exists() and rung.read_text() == "one-shot", "the metric of the first trial")
        process.send_signal(signal.SIGINT)
        assert process.wait() == 130, (folder / "stderr.txt").read_text()
    stderr = (folder / "stderr.txt").read_text()
    assert "run the same command to resume" in stderr
    assert "Traceback" not in stderr
    assert not outcomes(trials(out))


@pytest.mark.slow
def test_a_second_interrupt_ends_at_once(
    folder: Path, begin: Begin, trials: Trials, until: Until, descendants: Descendants
) -> None:
    """An impatient user's second Ctrl-C ends every process, and what was finished is still there."""
    out = folder / "run"
    with begin(folder, *FAKE, "--workers", 1, "--epochs", 16) as process:
        until(lambda: at_work(trials(out), 2), "a trial after two others")
        before = outcomes(trials(out))
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
            time.sleep(0.3)
        assert process.wait() in (-signal.SIGINT, 130)
        until(lambda: not descendants(folder), "the end of all processes of the interrupted command")
    after = outcomes(trials(out))
    assert {number: after[number] for number in before} == before
