"""A smaller student that is compressed in the model's stead, with real training and files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas
import pytest
from safetensors.torch import load_file

Script = Callable[..., object]

CALL = """
import torch
from torch import nn

from my_study import batches
from autocompress import Task, compress
from autocompress.studies.residual import ResidualNet

torch.manual_seed(0)
torch.set_num_threads(1)
model, student = ResidualNet((16, 32), (1, 2), classes=4), ResidualNet((8, 16), (1, 1), classes=4)
train = batches(20, 0)
optimizer = torch.optim.Adam(model.parameters(), 3e-3)
for images, labels in train:
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(images), labels).backward()
    optimizer.step()
task = Task(
    model.eval(), train[0][0][:1], train, batches(8, 1), test=batches(8, 2), student=student, epochs=2, final_epochs=4
)
compress(task, "50ms", runtimes=("fake",), workers=0, trials=3, out="run")
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, study_folder: Callable[[Path], Path], script: Script) -> Path:
    """Return the run directory of a big model with a small untrained student."""
    folder = study_folder(tmp_path_factory.mktemp("student"))
    done = script(folder, CALL)
    assert done.returncode == 0, done.stderr
    return folder / "run"


def test_the_baseline_is_the_model_and_the_front_is_made_of_the_student(run: Path) -> None:
    """The baseline's row and files are of the big model; all other models have the student's layers and learned."""
    front = pandas.read_csv(run / "pareto.csv", dtype={"id": str})
    baseline, models = front[front.id == "baseline"].iloc[0], front[front.id != "baseline"]
    assert len(models)
    assert (models.params < 0.5 * baseline.params).all()
    assert models.test_accuracy.max() > 0.5  # by chance it is 0.25
    assert baseline.latency_ratio == pytest.approx(1, abs=0.3)
    blocks = {
        row.id: sum(name.endswith("conv1.weight") for name in load_file(run / row.path / "model.safetensors"))
        for row in front.itertuples()
    }
    assert blocks.pop("baseline") == 3
    assert set(blocks.values()) == {2}


def test_the_student_is_the_first_reference_baseline(run: Path) -> None:
    """After the model comes the student as it is, trained, then what anyone would do to it."""
    trials = pandas.read_csv(run / "trials.csv")
    assert list(trials.role[:2]) == ["baseline", "student"]
    assert "uniform int8" in set(trials.role)
    assert trials.size_bytes[0] > 2 * trials.size_bytes[1]
    profile = json.loads((run / "profile.json").read_text())["profile"]
    assert profile["costs"]["layer_ms"].keys() <= {layer["name"] for layer in profile["network"]["layers"]}
    assert "stages.1.1.conv1" not in profile["costs"]["layer_ms"]
