"""A dry run estimates what a run would do, from the best source there is, and writes nothing."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from autocompress.errors import InfeasibleError, RunDirectoryError, UsageError
from autocompress.search import stage_timing
from autocompress.search.dry_run import ENOUGH, ROLES, RunEstimate, estimate_run
from autocompress.search.options import Options
from autocompress.search.preflight import check_options
from autocompress.search.prepare import prepare
from autocompress.search.progress import Silent
from autocompress.search.samplers.initial_design import warm_start
from autocompress.search.study_run import run
from autocompress.search.time_budget import FINALISTS, StageTimes
from autocompress.storage.run_directory import RunDirectory
from autocompress.studies.task import Task

MakeTask = Callable[..., Task]

STAGES = StageTimes(build_s=1.0, measure_s=2.0, careful_s=8.0, score_s=0.5, epoch_s=10.0)


def options(out: Path, **more: object) -> Options:
    """Return options for trials in this process."""
    given = {"target_ms": 5.0, "out": out, "runtimes": ("fake",), "workers": 0, **more}
    return Options(**given)  # type: ignore[arg-type]


def estimated(task: Task, asked: Options) -> RunEstimate:
    """Return the estimate of a run."""
    return estimate_run("small", lambda: task, asked, Silent())


def files(folder: Path) -> dict[Path, bytes]:
    """Return the files below a folder."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the stages of a candidate take known seconds."""
    monkeypatch.setattr(stage_timing, "time_candidate", lambda *_: STAGES)


def test_a_new_run_is_estimated_from_one_candidate(make_task: MakeTask, tmp_path: Path) -> None:
    """The candidate is built, timed, scored and trained; nothing is written, and the network is not changed."""
    task = make_task()
    before = {name: tensor.clone() for name, tensor in task.model.state_dict().items()}
    plan = estimated(task, options(tmp_path / "run"))
    assert plan.rests_on == "one candidate that was built, timed and trained for a few steps just now"
    assert (plan.profiled, plan.finished, plan.trials) == (False, 0, 24)
    assert plan.baseline_ms == pytest.approx(0.087, abs=0.01)
    assert min(plan.costs.build_s, plan.costs.score_s, plan.costs.epoch_s) > 0
    assert plan.whole.about_s == pytest.approx(plan.network.about_s + plan.search.about_s + plan.finals.about_s)
    assert plan.models == ROLES + FINALISTS
    assert not list(tmp_path.iterdir())
    assert all(tensor.equal(before[name]) for name, tensor in task.model.state_dict().items())


@pytest.mark.usefixtures("timed")
def test_times_follow_from_the_stages(make_task: MakeTask, tmp_path: Path) -> None:
    """Without early stopping every trial is built and scored twice, measured once and trained for its epochs."""
    plan = estimated(make_task(), options(tmp_path / "run", trials=10, promote=False, epochs=2.0, final_epochs=4.0))
    assert plan.search.least_s == plan.search.about_s == plan.search.most_s == 10 * (2 * (1 + 0.5) + 2 * 10 + 2)
    assert plan.finals.most_s == (ROLES + 5) * (2 * (1 + 0.5) + 4 * 10 + 0.5 + 8)
    assert plan.finals.least_s < plan.finals.about_s < plan.finals.most_s


@pytest.mark.usefixtures("timed")
def test_more_trials_take_longer_and_more_workers_do_not(make_task: MakeTask, tmp_path: Path) -> None:
    """The time grows with the number of trials; measurements alone wait for each other."""
    task = make_task()
    few, many, crew = (
        estimated(task, options(tmp_path / "run", **more))
        for more in ({"trials": 20}, {"trials": 40}, {"trials": 40, "workers": 2})
    )
    assert many.search.about_s == pytest.approx(2 * few.search.about_s)
    assert 40 * STAGES.measure_s < crew.search.about_s < many.search.about_s
    assert crew.workers == 2
    assert crew.network.about_s > many.network.about_s  # Ray has to start


@pytest.mark.usefixtures("timed")
def test_a_clusters_workers_are_not_bounded_by_this_machines_cores(make_task: MakeTask, tmp_path: Path) -> None:
    """Trials on a cluster run at a time on as many workers as were asked for."""
    task = make_task()
    with socket.create_server(("127.0.0.1", 0)) as head:
        address = f"127.0.0.1:{head.getsockname()[1]}"
        some, twice = (
            estimated(task, options(tmp_path / "run", workers=workers, ray_address=address)) for workers in (500, 1000)
        )
    measured_s = 24 * STAGES.measure_s
    assert some.search.about_s - measured_s == pytest.approx(2 * (twice.search.about_s - measured_s))
    assert some.rests_on.endswith("on this machine, not on the cluster")


@pytest.mark.usefixtures("timed")
def test_a_time_budget_bounds_the_trials(make_task: MakeTask, tmp_path: Path) -> None:
    """The trials take at most the budget less what is reserved for the final evaluation."""
    free, bound = (
        estimated(make_task(), options(tmp_path / "run", trials=500, time_budget_s=seconds))
        for seconds in (None, 600.0)
    )
    assert bound.search.most_s < 600.0 < free.search.least_s


@pytest.mark.usefixtures("timed")
def test_several_runtimes_measure_each_trial_several_times(make_task: MakeTask, tmp_path: Path) -> None:
    """Each runtime measures a trial, and every trial is trained, as early stopping needs a single deployment."""
    plan = estimated(make_task(), options(tmp_path / "run", runtimes=("fake", "onnxruntime")))
    assert plan.runtimes == ("fake", "onnxruntime")
    assert (plan.costs.measure_s, plan.costs.careful_s) == (2 * STAGES.measure_s, 2 * STAGES.careful_s)
    assert plan.search.least_s == plan.search.most_s


@pytest.mark.usefixtures("timed")
def test_a_profile_on_disk_is_used(make_task: MakeTask, tmp_path: Path) -> None:
    """Where a run has a profile the space is the reduced one, the initial design is known, and no profile is due."""
    asked, task = options(tmp_path / "run", trials=40), make_task()
    new = estimated(task, asked)
    flight = check_options("small", asked)
    rundir = RunDirectory(asked.out, flight.identity, asked.invocation("small").to_dict())
    prepared = prepare(task, flight.servers, rundir, asked, Silent())
    rundir.close()
    before = files(tmp_path)
    plan = estimated(task, asked)
    assert plan.profiled
    assert plan.baseline_ms == prepared.profile.baseline_ms
    assert plan.starts == len(warm_start(prepared.space, prepared.profile, asked.target_ms))
    assert 0 < plan.starts <= new.starts
    assert plan.log10_candidates <= new.log10_candidates
    assert plan.network.about_s < new.network.about_s
    assert files(tmp_path) == before
    with pytest.raises(RunDirectoryError, match="--out DIR"):
        estimated(make_task(keep=["2"]), asked)


def test_a_resumed_run_is_estimated_from_its_trials(
    make_task: MakeTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Enough trials say what the next ones take, and no candidate is tried; a finished run has nothing left to do."""
    task, asked = make_task(), options(tmp_path / "run", trials=ENOUGH + 1, epochs=0.5, final_epochs=0.5, promote=False)
    run("small", lambda: task, asked)

    def tried(*_: object) -> None:
        pytest.fail("a candidate was tried")

    monkeypatch.setattr(stage_timing, "time_candidate", tried)
    before = files(tmp_path)
    done = estimated(task, asked)
    assert done.rests_on == f"the {ENOUGH + 1} trials that {asked.out} has"
    assert (done.finished, done.starts, done.models) == (ENOUGH + 1, 0, 0)
    assert done.search.most_s == done.finals.most_s == 0
    ten, twenty = (
        estimated(task, options(asked.out, trials=ENOUGH + 1 + more, epochs=0.5, final_epochs=0.5)) for more in (10, 20)
    )
    assert twenty.search.about_s == pytest.approx(2 * ten.search.about_s)
    assert ten.finals.about_s > 0
    assert files(tmp_path) == before


def test_a_candidate_that_cannot_be_tried_is_told_with_the_way_out(
    make_task: MakeTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The unchanged network is not blamed for it."""

    def refuse(*_: object) -> None:
        raise InfeasibleError("the runtime has no such kernel.", rung="build")

    monkeypatch.setattr(stage_timing, "time_candidate", refuse)
    with pytest.raises(
        UsageError, match=r"--dry-run must .*; that failed: the runtime has no such kernel\. Run without"
    ):
        estimated(make_task(), options(tmp_path / "run"))
