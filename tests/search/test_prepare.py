"""Everything before the first trial: what is measured, what is written, and what a resumed run reads again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from autocompress.errors import InfeasibleError, RunDirectoryError, StudyError
from autocompress.evaluators.meters.bridge import Bridge
from autocompress.evaluators.meters.latency import CAREFUL, Calibration, FakeMeter, Meter, Plan
from autocompress.evaluators.runtimes import load
from autocompress.evaluators.runtimes.fake import ENVIRONMENT
from autocompress.search import prepare as module
from autocompress.search.options import Options
from autocompress.search.prepare import BRIDGED_MS, LARGEST_SHARE, Prepared, prepare
from autocompress.spaces.candidate import BITS, DEPTH, PRUNING_RATIO
from autocompress.spaces.space import Space
from autocompress.storage.run_directory import RunDirectory
from autocompress.studies.residual import ResidualNet
from autocompress.studies.task import Task

MakeTask = Callable[..., Task]


class Recorder:
    """Progress that is kept."""

    def __init__(self) -> None:
        self.notices: list[str] = []
        self.milestones: list[str] = []

    def notice(self, what: object) -> None:
        """Keep a notice."""
        self.notices.append(str(what))

    def milestone(self, text: str) -> None:
        """Keep a milestone."""
        self.milestones.append(text)


@pytest.fixture
def rundir(tmp_path: Path) -> Iterator[RunDirectory]:
    """Return a new run directory."""
    directory = RunDirectory(tmp_path / "run", {"study": "small"})
    yield directory
    directory.close()


def prepared(task: Task, rundir: RunDirectory, *runtimes: str, **more: object) -> tuple[Prepared, Recorder]:
    """Return a prepared run, and its progress."""
    names = runtimes or ("fake",)
    options = Options(target_ms=5.0, out=rundir.path, runtimes=names, **more)  # type: ignore[arg-type]
    recorder = Recorder()
    return prepare(task, [load(name) for name in names], rundir, options, recorder), recorder


def test_a_new_run_is_calibrated_and_profiled(make_task: MakeTask, rundir: RunDirectory) -> None:
    """The profile, the calibration and the weights are kept in the run directory."""
    found, heard = prepared(make_task(), rundir)
    assert "calibrating the baseline's latency" in heard.notices
    assert {path.name for path in rundir.path.iterdir()} >= {"profile.json", "calibration.json", "baseline"}
    weights = [16 * 9, 16 * 16 * 9, 64 * 3]
    assert found.profile.baseline_ms == pytest.approx(sum(20_000 + 10 * n for n in weights) / 1e6)
    assert found.profile.costs.total_ms == pytest.approx(found.profile.baseline_ms)
    assert {choice.axis for choice in found.space.choices} >= {PRUNING_RATIO, BITS}
    assert all(found.profile.damage[choice.name][0] == 0.0 for choice in found.space.on(BITS))


NO_FASTER = "20000,10,10"
"""A machine on which INT8 is no faster than float."""


def test_levels_without_speedup_are_left_out_with_their_reason(
    make_task: MakeTask, rundir: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where INT8 is no faster it is not on offer, and a line says so with the layers' milliseconds."""
    monkeypatch.setenv(ENVIRONMENT, NO_FASTER)
    found, heard = prepared(make_task(), rundir)
    assert not list(found.space.on(BITS))
    assert list(found.space.on(PRUNING_RATIO))
    (line,) = [text for text in heard.milestones if text.startswith("not offered")]
    assert line.startswith("not offered, as they do not pay on fake: ")
    assert "bits=8 of 3 layers (" in line
    assert {each.axis for each in found.profile.dropped} >= {BITS}


def test_layers_to_keep_are_left_alone(make_task: MakeTask, rundir: RunDirectory) -> None:
    """A layer in `keep` has no choices, and the profile says why."""
    found, _ = prepared(make_task(keep=["2"]), rundir)
    assert "2" in dict(found.profile.network.left_alone)
    assert not [choice for choice in found.space.choices if choice.target == "2"]


def test_a_resumed_run_reads_its_profile(
    make_task: MakeTask, rundir: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is measured again: on a machine that became slower the profile is the first one."""
    first, _ = prepared(make_task(), rundir)
    files = {path: path.read_bytes() for path in rundir.path.rglob("*.json")}
    monkeypatch.setenv(ENVIRONMENT, "40000,20,8")
    second, heard = prepared(make_task(), rundir)
    assert second.profile == first.profile
    assert second.space == first.space
    assert "calibrating the baseline's latency" not in heard.notices
    assert {path: path.read_bytes() for path in rundir.path.rglob("*.json")} == files


def test_a_run_of_an_earlier_version_is_resumed_with_its_choices(rundir: RunDirectory) -> None:
    """What later versions offer is left out, a line says so, and the profile is not made again."""
    torch.manual_seed(0)
    data = [(torch.randn(16, 1, 8, 8), torch.arange(16) % 3)]
    task = Task(ResidualNet((4,), (2,), classes=3).eval(), data[0][0][:1], data, data)
    prepared(task, rundir)
    path = rundir.path / "profile.json"
    whole = module.find_setup(task, [load("fake")], Options(target_ms=5.0, out=rundir.path), Recorder()).space
    before = Space(tuple(choice for choice in whole.choices if choice.axis != DEPTH))
    path.write_text(json.dumps({**json.loads(path.read_text()), "space": before.fingerprint}))
    found, heard = prepared(task, rundir)
    assert list(whole.on(DEPTH))
    assert not list(found.space.on(DEPTH))
    assert [line for line in heard.milestones if "an earlier version began this run" in line and "depth" in line]
    assert not [line for line in heard.notices if "what each choice damages" in line]


def test_a_resumed_run_restores_its_weights(make_task: MakeTask, rundir: RunDirectory) -> None:
    """The network has exactly the weights that the run was started with."""
    task = make_task()
    kept = {name: tensor.clone() for name, tensor in task.model.state_dict().items()}
    prepared(task, rundir)
    other = make_task(seed=1)
    prepared(other, rundir)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in other.model.state_dict().items())


def test_a_slow_baseline_has_a_bridge(
    make_task: MakeTask, rundir: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fast model of the profile is measured carefully; a resumed run reads it, and one without it does without."""
    monkeypatch.setenv(ENVIRONMENT, "20000,10000,2500")
    found, heard = prepared(make_task(), rundir)
    assert found.profile.baseline_ms > BRIDGED_MS
    assert "measuring a bridge between the baseline and fast candidates" in heard.notices
    kept = json.loads((rundir.path / "calibration.json").read_text())["bridge"]
    bridge = Bridge.read(rundir.path / "baseline", kept)
    assert bridge is not None
    assert 0 < bridge.ratio <= LARGEST_SHARE
    assert 0 < bridge.spread < 0.01
    heard = prepared(make_task(), rundir)[1]
    assert not any("bridge" in text for text in heard.notices)
    assert Bridge.read(rundir.path, kept) is None


def test_a_bridge_that_cannot_be_timed_is_left_out(
    make_task: MakeTask, rundir: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The study continues without it, and says why."""

    def crash(*_: object) -> Bridge:
        raise InfeasibleError("the runtime crashed", rung="latency")

    monkeypatch.setenv(ENVIRONMENT, "20000,10000,2500")
    monkeypatch.setattr(module, "_measured_bridge", crash)
    _, heard = prepared(make_task(), rundir)
    assert any(text.endswith("as no bridge was: the runtime crashed") for text in heard.milestones)
    assert "bridge" not in json.loads((rundir.path / "calibration.json").read_text())


def test_another_network_is_refused(make_task: MakeTask, rundir: RunDirectory) -> None:
    """A profile of another space is not used; the message names the directory and the way out."""
    prepared(make_task(), rundir)
    with pytest.raises(RunDirectoryError, match=r"is resumed with the space .* --out DIR") as caught:
        prepared(make_task(keep=["2"]), rundir)
    assert repr(str(rundir.path / "profile.json")) in str(caught.value)


def test_several_runtimes_keep_levels_without_speedup(
    make_task: MakeTask, rundir: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A level that does not pay on the first runtime may pay on the second; the timed networks are not kept."""
    monkeypatch.setenv(ENVIRONMENT, NO_FASTER)
    found, heard = prepared(make_task(), rundir, "fake", "onnxruntime")
    assert list(found.space.on(BITS))
    assert (found.profile.dropped, found.profile.timed) == ((), ())
    assert not [text for text in heard.milestones if text.startswith("not offered")]


def test_a_student_is_profiled_against_the_models_baseline(make_task: MakeTask, rundir: RunDirectory) -> None:
    """The baseline's latency is the model's, the layers' costs are the student's."""
    task = make_task(32, student=make_task(4).model)
    found, _ = prepared(task, rundir)
    assert found.profile.baseline_ms == pytest.approx(sum(20_000 + 10 * n for n in (288, 9216, 384)) / 1e6)
    assert found.profile.costs.total_ms == pytest.approx(sum(20_000 + 10 * n for n in (36, 144, 48)) / 1e6, rel=1e-3)


@dataclass(frozen=True, kw_only=True, eq=False)
class DeviceMeter(FakeMeter):
    """A meter of a device that takes a multiple of this machine's time."""

    times: float

    def calibrate(self, plan: Plan = CAREFUL, *, timeout_s: float | None = None) -> Calibration:
        """Return the multiple of this machine's windows."""
        found = super().calibrate(plan)
        return Calibration.of([[round(self.times * ns) for ns in window] for window in found.windows], {})


@dataclass(frozen=True)
class FakeDevice:
    """A device of a cluster."""

    name: str
    times: float

    def meter(self, local: FakeMeter, notice: object) -> Meter:
        """Return the device's meter."""
        return DeviceMeter(baseline=local.baseline, baseline_ms=local.baseline_ms, times=self.times)


def test_the_baseline_is_calibrated_on_each_device(make_task: MakeTask, rundir: RunDirectory) -> None:
    """The profile is of the first device, and has the other one's baseline; both calibrations are kept."""
    names = ("edge", "server")
    options = Options(target_ms=5.0, out=rundir.path, runtimes=("fake",), ray_address="auto", measure_on=names)
    cluster: Any = SimpleNamespace(devices=[FakeDevice("edge", 1.0), FakeDevice("server", 0.5)])
    found = prepare(make_task(), [load("fake")], rundir, options, Recorder(), cluster)
    assert list(found.meters) == list(names)
    assert found.profile.device == "edge"
    assert found.profile.others_ms == {"server": pytest.approx(found.profile.baseline_ms / 2, rel=1e-3)}
    assert set(found.profile.others_spread) == {"server"}
    kept = json.loads((rundir.path / "calibration.json").read_text())
    assert kept["median_ms"] == found.profile.baseline_ms
    assert list(kept["elsewhere"]) == ["server"]
    again = prepare(make_task(), [load("fake")], rundir, options, Recorder(), cluster)
    known: Any = again.meters["server"]
    assert known.baseline_ms == found.profile.others_ms["server"]


class Unexportable(nn.Module):
    """A network with an operator that ONNX lacks."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the inner outputs times a singular value."""
        return self.inner(x) * torch.linalg.svdvals(x[:, 0])[:, :1]


def test_a_baseline_that_does_not_export_is_refused(make_task: MakeTask, rundir: RunDirectory) -> None:
    """The message has the rule, the exporter's reason and the way out; no profile is written."""
    task = make_task()
    broken = Task(Unexportable(task.model), task.examples, task.train, task.validation)
    with pytest.raises(StudyError, match="the unchanged network must be exported") as caught:
        prepared(broken, rundir)
    for part in ("does not export to ONNX", "svdvals", "Change what its forward does"):
        assert part in str(caught.value)
    assert not (rundir.path / "profile.json").exists()


def test_a_baseline_that_cannot_be_timed_is_refused(
    make_task: MakeTask, rundir: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What fails after the export is refused in the same words."""

    def calibrate(*_: object, **__: object) -> None:
        raise InfeasibleError("the process was killed.", rung="latency")

    monkeypatch.setattr(FakeMeter, "calibrate", calibrate)
    with pytest.raises(StudyError, match=r"compared to it; that failed: the process was killed\. Change"):
        prepared(make_task(), rundir)
    assert not (rundir.path / "profile.json").exists()


def test_the_calibration_is_kept_for_readers(make_task: MakeTask, rundir: RunDirectory) -> None:
    """`calibration.json` has the baseline's windows, and the profile their spread."""
    found, _ = prepared(make_task(), rundir)
    kept = json.loads((rundir.path / "calibration.json").read_text())
    assert kept["median_ms"] == found.profile.baseline_ms
    assert kept["low_ms"] <= kept["median_ms"] <= kept["high_ms"]
    assert found.profile.spread == pytest.approx(1e-3, rel=0.1)
