"""Networks and data of the kinds that users of other tools report to have broken these: a right front, or a refusal."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import onnx
import onnxruntime
import pandas
import pytest
import torch
from torch import Tensor

from autocompress.studies import loading

Command = Callable[..., subprocess.CompletedProcess[str]]

STRANGERS = Path(__file__).with_name("strangers")
LINE = ("study.py", "--target-latency", "50ms", "--out", "run", "--runtime", "fake", "--workers", 0, "--trials", 4)

FRONTS: dict[str, tuple[str, ...]] = {
    "parametrized weights": ("normed_weights:task", "WeightNorm is computed once and for all in 0.weight"),
    "weights by hooks": ("normed_weights:hooked", "WeightNorm is computed once and for all in 0.weight"),
    "masks": ("masked:task", "mask"),
    "a stashed activation": ("stashed:task",),
    "U-Net": ("segmentation:with_iou",),
    "gates and group norms": ("gated:task",),
    "auxiliary head": ("aux_head:task",),
    "norm after its activation, in place": ("norm_last:task",),
    "norm after its activation": ("norm_last:not_in_place",),
    "dead channels": ("dead_channels:task",),
    "tones": ("tones:task",),
    "windows": ("windows:task", "windows.py:40", "one example at a time"),
    "super-resolution": ("super_resolution:task", " dB in the metric on the test data"),
    "a last batch of one": ("last_of_one:task", "batches of one example are skipped in training"),
    "a stream": ("stream:task",),
    "two inputs": ("two_inputs:task",),
    "one logit": ("one_logit:scored",),
    "frozen": ("frozen:task", "all of its 14 parameters are frozen", "all of them will be trained"),
    "frozen without norms": (
        "frozen:without_norms",
        "all of its 8 parameters are frozen",
        "all of them will be trained",
    ),
    "DataParallel": ("wrapped:task", "DataParallel was taken off"),
    "compiled": ("wrapped:compiled", "torch.compile was taken off"),
}
"""What gives a front: the module and the function of each study, and parts of what is printed."""

AT_ONCE = {"masks", "windows", "a last batch of one", "two inputs", "one logit"}
"""Those that are not left to the second stage; others are like them."""

KINDS = [pytest.param(kind, marks=() if kind in AT_ONCE else pytest.mark.slow) for kind in FRONTS]

SLACK = {"super-resolution": 0.5}
"""Decibels that INT8 may lose; elsewhere it is a point."""

REFUSED: dict[str, tuple[str, ...]] = {
    "void pixels": ("segmentation:task", "metric", "255", "3 classes", "metric="),
    "one logit of no class": ("one_logit:task", "metric", "(N, 1)", "metric="),
    "TorchScript": ("wrapped:scripted", "`model`", "TorchScript", "nn.Module"),
    "an exported program": ("wrapped:exported", "`model`", "an exported program", "nn.Module"),
}
"""What is refused: the study, and parts of the message."""


class Ran(NamedTuple):
    """How a command ended, and the folder that it ran in, with the names of what was there before."""

    done: subprocess.CompletedProcess[str]
    folder: Path
    before: set[str]

    @property
    def said(self) -> str:
        """Return all that was printed, in one line."""
        return " ".join(f"{self.done.stdout} {self.done.stderr}".split())

    @property
    def out(self) -> Path:
        """Return the run directory."""
        return self.folder / "run"

    def trials(self) -> pandas.DataFrame:
        """Return the trials by their roles."""
        return pandas.read_csv(self.out / "trials.csv", keep_default_na=False).set_index("role")

    def model(self, role: str) -> Path:
        """Return the folder of a model."""
        return self.out / "models" / f"{self.trials().trial[role]:05d}"


def names(folder: Path) -> set[str]:
    """Return the names of all that is below a folder, but for Python's cache."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if "__pycache__" not in path.parts}


@pytest.fixture(scope="module")
def ran(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, warm: Command) -> dict[str, Ran]:
    """Return what became of each study that is asked for; the commands run two at a time."""

    def run(kind: str, folder: Path) -> Ran:
        module, function = {**FRONTS, **REFUSED}[kind][0].split(":")
        for file in STRANGERS.glob("*.py"):
            shutil.copyfile(file, folder / file.name)
        (folder / "study.py").write_text(f"from {module} import {function} as task\n")
        before = names(folder)
        return Ran(warm(folder, *LINE), folder, before)

    items = [item for item in request.session.items if item.path == request.path]
    wanted = list(dict.fromkeys(item.callspec.params["kind"] for item in items))
    folders = [tmp_path_factory.mktemp("user") for _ in wanted]  # here, as pytest's are not for several threads
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(wanted, pool.map(run, wanted, folders), strict=True))


class Served:
    """An ONNX file as what a metric is given."""

    def __init__(self, file: Path) -> None:
        self._session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        self._names = [given.name for given in self._session.get_inputs()]
        self._alone = isinstance(self._session.get_inputs()[0].shape[0], int)

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Return the outputs for a batch, which goes in one by one where the file's batch is fixed."""
        parts = zip(*(each.split(1 if self._alone else len(each)) for each in inputs), strict=True)
        given = ({name: each.numpy() for name, each in zip(self._names, part, strict=True)} for part in parts)
        return torch.cat([torch.from_numpy(self._session.run(None, each)[0]) for each in given])


def weights(file: Path) -> list[bool]:
    """Return for each layer of an ONNX file that multiplies with a weight whether that is stored in integers."""
    graph = onnx.load(file).graph
    stored = {weight.name: weight.data_type for weight in graph.initializer}
    scaled = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    of = [node.input[1] for node in graph.node if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul")]
    return [stored[scaled.get(name, name)] == onnx.TensorProto.INT8 for name in of if scaled.get(name, name) in stored]


@pytest.mark.parametrize("kind", KINDS)
def test_a_front_is_found(ran: dict[str, Ran], kind: str) -> None:
    """Nothing that is tried fails, and what is pruned is smaller and works."""
    found = ran[kind]
    assert found.done.returncode == 0, found.said
    assert [part for part in FRONTS[kind][1:] if part not in found.said] == [], found.said
    assert "Traceback" not in found.done.stderr
    trials = found.trials()
    assert set(trials.state) == {"complete"}, list(trials.reason)
    assert trials.size_bytes["uniform −25%"] < 0.9 * trials.size_bytes["baseline"]
    assert trials.size_bytes["uniform int8 −25%"] < 0.95 * trials.size_bytes["uniform int8"]
    report = json.loads((found.out / "report.json").read_text())
    assert [choice for choice in report["network"]["sensitivity"] if None in choice["damage"]] == []
    assert report["headline"]["faster"] >= 1  # the recommended model; one that is slower is no more accurate


@pytest.mark.parametrize("kind", KINDS)
def test_int8_is_what_is_reported_and_right(ran: dict[str, Ran], kind: str) -> None:
    """The served file has every layer in integers and a quarter of the bytes, and scores as the network does."""
    found = ran[kind]
    file = found.model("uniform int8") / "model.onnx"
    low = weights(file)
    assert low
    assert all(low)
    assert file.stat().st_size < 0.4 * (found.out / "baseline" / "model.onnx").stat().st_size
    task = loading.load(str(found.folder / "study.py"))
    assert task.test is not None
    served, network = (task.metric(each, [*task.validation, *task.test]) for each in (Served(file), task.model))
    assert served >= network - SLACK.get(kind, 0.01)
    reported = json.loads((file.parent / "measurement.json").read_text())
    assert task.metric(Served(file), task.validation) == pytest.approx(reported["accuracy"], abs=SLACK.get(kind, 0.005))


@pytest.mark.parametrize("kind", REFUSED)
def test_a_refusal_says_why_and_leaves_nothing(ran: dict[str, Ran], kind: str) -> None:
    """Before anything is measured the exit code is 2, with the rule, the value that came and the way out."""
    found = ran[kind]
    assert found.done.returncode == 2, found.said
    assert [part for part in REFUSED[kind][1:] if part not in found.said] == [], found.said
    assert "Traceback" not in found.done.stderr
    assert names(found.folder) == found.before
