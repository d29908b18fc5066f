"""One model of a run is copied with a program that serves it, and the copy is proved."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from safetensors import safe_open

from autocompress.errors import AutocompressError, UsageError
from autocompress.pareto.limits import Limits
from autocompress.reports.pick.pick import pick_model
from autocompress.reports.pick.selection import Selection, parse_selection, select_model
from autocompress.storage.run import Run, open_run

MadeRun = Callable[..., Path]

FILES = {
    "model.onnx",
    "canonical.onnx",
    "model.safetensors",
    "candidate.json",
    "measurement.json",
    "predictions.npz",
    "load.py",
    "README.md",
}


@pytest.fixture(scope="module")
def run(made_run: MadeRun, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a finished run."""
    return open_run(made_run(tmp_path_factory.mktemp("runs") / "a run", trials=24))


def contents(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_a_copy_has_all_that_it_needs(runtime: str, made_run: MadeRun, tmp_path: Path) -> None:
    """In a folder with spaces: the files, a program that answers as before from anywhere, a card with its numbers."""
    run = open_run(made_run(tmp_path / "run", runtime=runtime))
    picked = pick_model(run, Selection(), tmp_path / "the model" / "of mine")
    best = run.front().recommended
    assert best is not None
    assert picked.model == best
    assert set(contents(picked.folder)) == FILES
    assert "the answers to 8 stored examples are the same as when it was measured" in picked.proof
    done = subprocess.run(
        [sys.executable, "-I", picked.folder / "load.py"], cwd="/", capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, picked.proof)
    text = (picked.folder / "README.md").read_text()
    assert f"# lights {best.id}" in text
    assert f"{best.measurement.latency.median_ms:.3g} ms" in text
    assert f"{best.measurement.accuracy:.2%}" in text
    assert "not given by the study" in text
    assert r"Tells which \<light\> is on." in text
    assert picked.proof in text
    assert sorted(path.name for path in (tmp_path / "the model").iterdir()) == ["of mine"]


def test_a_reference_baseline_goes_by_its_name(run: Run) -> None:
    """What stands in the table in place of an id chooses that model, also with a hyphen for a minus."""
    named = [m for m in run.models if m.role not in ("front", "baseline")]
    assert any("−" in m.role for m in named)
    for model in named:
        for name in (model.role, model.role.replace("−", "-")):
            assert select_model(run, Selection(id=name)).model.id == model.id
    with pytest.raises(UsageError, match="must be a model"):
        select_model(run, Selection(id="front"))


def test_the_copy_says_what_it_is(run: Run, tmp_path: Path) -> None:
    """ONNX and safetensors files have metadata, the same bytes each time; tensors are as they were."""
    first, second = (pick_model(run, Selection(), tmp_path / name) for name in "ab")
    for name in FILES:
        assert (first.folder / name).read_bytes() == (second.folder / name).read_bytes()
    said = {entry.key: entry.value for entry in onnx.load(first.folder / "model.onnx").metadata_props}
    assert said["autocompress.study"] == "lights"
    assert said["autocompress.model"] == first.model.id
    assert said["autocompress.description"] == "Tells which <light> is on."
    assert "autocompress.license" not in said
    assert json.loads(said["autocompress.candidate"]) == first.model.candidate.to_dict()
    assert float(said["autocompress.accuracy"]) == pytest.approx(first.model.measurement.accuracy)
    original = run.path / first.model.path / "model.safetensors"
    with safe_open(first.folder / "model.safetensors", "numpy") as copy, safe_open(original, "numpy") as source:
        assert copy.metadata() == said
        assert set(copy.keys()) == set(source.keys())
        for name in source.keys():  # noqa: SIM118  # it is no mapping
            np.testing.assert_array_equal(copy.get_tensor(name), source.get_tensor(name))


def test_without_a_check_the_files_are_those_that_were_measured(run: Run, tmp_path: Path) -> None:
    """To the byte, and the card says that nothing was tried."""
    picked = pick_model(run, Selection(), tmp_path / "copy", prove=False)
    source = run.path / picked.model.path
    for name in FILES - {"load.py", "README.md", "measurement.json"}:
        assert (picked.folder / name).read_bytes() == (source / name).read_bytes()
    assert "not tried" in (picked.folder / "README.md").read_text()


def test_a_copy_that_answers_otherwise_is_none(made_run: MadeRun, tmp_path: Path) -> None:
    """The error tells how far off it is, and nothing is left behind."""
    run = open_run(made_run(tmp_path / "run"))
    model = run.front().recommended
    assert model is not None
    stored = run.path / model.path / "predictions.npz"
    with np.load(stored) as arrays:
        np.savez(stored, input0=arrays["input0"], output=arrays["output"] + 1)
    with pytest.raises(AutocompressError, match="are others than when it was measured"):
        pick_model(run, Selection(), tmp_path / "out" / "copy")
    assert list((tmp_path / "out").iterdir()) == []


def test_folders_of_others_are_left_alone(run: Run, tmp_path: Path) -> None:
    """An earlier pick is replaced when that is asked for; what is none never is."""
    out = tmp_path / "copy"
    pick_model(run, Selection(), out)
    with pytest.raises(UsageError, match="--force"):
        pick_model(run, Selection(knee=True), out)
    assert pick_model(run, Selection(knee=True), out, force=True).model == run.front().knee
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("all of it")
    with pytest.raises(UsageError, match="has other files"):
        pick_model(run, Selection(), mine, force=True)
    assert contents(mine) == {"thesis.tex": b"all of it"}


def test_a_model_is_chosen_by_its_id(run: Run) -> None:
    """Leading zeros may be left out; the baseline has a name."""
    model = run.front().models[0]
    for name in (model.id, str(int(model.id))):
        assert select_model(run, parse_selection(run, name)).model.id == model.id
    assert select_model(run, parse_selection(run, "baseline")).model.role == "baseline"


def test_another_target_is_answered_without_a_trial(run: Run) -> None:
    """The most accurate within a latency; the fastest from an accuracy on; a command takes it to the end."""
    models = [m for m in run.models if m.role != "baseline"]
    within = [m for m in models if m.measurement.latency.high_ms <= 3.5]
    selected = select_model(run, parse_selection(run, target_latency="3.5ms"))
    assert selected.model.measurement.accuracy == max(m.measurement.accuracy for m in within)
    accurate = [m for m in models if m.measurement.accuracy >= 0.85 and m.measurement.latency.high_ms <= 4.0]
    selected = select_model(run, parse_selection(run, min_accuracy="85%"))
    assert selected.model.measurement.latency.median_ms == min(m.measurement.latency.median_ms for m in accurate)
    assert selected.front.limits == Limits(4.0, min_accuracy=0.85)


def test_in_python_a_number_is_the_metrics_own_and_a_change_has_a_name(run: Run) -> None:
    """A negative number is a least metric, as of a negative error; a change is asked for as one, or in words."""
    base = next(m.measurement.accuracy for m in run.models if m.role == "baseline")
    assert parse_selection(run, min_accuracy=-0.35).limits == Limits(4.0, min_accuracy=-0.35)
    for words in ({"min_change": -1e-05}, {"min_change": "-1e-5"}, {"min_accuracy": "-0.001%"}):
        wish = parse_selection(run, **words)  # type: ignore[arg-type]
        assert wish.fastest
        assert wish.limits == Limits(4.0, min_change=-1e-05)
        assert run.against_baseline(wish.limits).min_accuracy == pytest.approx(base - 1e-05)


def test_whether_more_trials_help_is_told(made_run: MadeRun, tmp_path: Path) -> None:
    """What was trained briefly has its command; where trials were cut for a stricter target they are counted."""
    run = open_run(made_run(tmp_path / "run", trials=24, target_ms=3.0, finished=False))
    selected = select_model(run, parse_selection(run, target_latency="2.9ms"))
    assert (
        "was trained and measured briefly. For its final evaluation: autocompress lights.py --target-latency 2.9ms"
        in selected.advice[0]
    )
    assert "--trials 24" in selected.advice[0]
    selected = select_model(run, parse_selection(run, target_latency="6ms"))
    cut = [t for t in run.trials if getattr(t.outcome, "rung", "") == "latency" and not t.role]
    may = [t for t in cut if t.outcome is not None and not Limits(6.0).still_valid(t.outcome)]
    assert may
    assert any(
        line.startswith(f"{len(may)} trial") and "stopped for stricter limits" in line for line in selected.advice
    )
    selected = select_model(run, parse_selection(run, target_latency="0.01ms"))
    assert "No trial can meet 0.01 ms" in selected.advice[-1]
    assert not selected.front.meets_target


def test_a_dominated_model_has_no_files_and_a_way_out(run: Run) -> None:
    """Its files were deleted; what is better is named with the command that picks it."""
    gone = next(m for m in run.models if not m.path)
    with pytest.raises(UsageError, match=f"those of {gone.id} were deleted.*autocompress pick .*run"):
        select_model(run, parse_selection(run, gone.id))


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        ({"id": "00001", "knee": True}, "selected in one way"),
        ({"id": "00001", "target_latency": "4ms"}, "selected in one way"),
        ({"knee": True, "max_size": "4MB"}, "selected in one way"),
        ({"id": "99999"}, "On its front are: baseline, "),
        ({"runtime": "openvino"}, "--runtime must be one of the run's: onnxruntime; got 'openvino'"),
        ({"target_latency": "4"}, "--target-latency must be"),
        ({"min_accuracy": "much"}, "--min-accuracy must be"),
    ],
)
def test_what_cannot_be_picked_is_told(wish: dict[str, object], said: str, run: Run) -> None:
    """The message gives the rule, the value and the way out."""
    with pytest.raises(UsageError, match=said):
        select_model(run, parse_selection(run, **wish))  # type: ignore[arg-type]


def test_a_trial_that_ended_early_is_no_model(made_run: MadeRun, tmp_path: Path) -> None:
    """The message says why it ended."""
    run = open_run(made_run(tmp_path / "run", trials=24, target_ms=3.0))
    ended = next(t for t in run.trials if getattr(t.outcome, "rung", "") == "latency" and not t.role)
    with pytest.raises(UsageError, match=f"{ended.id} stopped before: .*target"):
        select_model(run, parse_selection(run, ended.id))


def test_the_unchanged_network_is_chosen_where_nothing_is_better(made_run: MadeRun, tmp_path: Path) -> None:
    """The recommended model, and the fastest of a least accuracy, are the unchanged network where all is slower."""
    run = open_run(made_run(tmp_path / "slow", faster=0.05, target_ms=1000.0))
    assert select_model(run, Selection()).model.id == "baseline"
    chosen = select_model(run, parse_selection(run, min_accuracy="-50%"))
    assert chosen.model.id == "baseline"
    assert chosen.front.meets_target
