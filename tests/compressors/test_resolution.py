"""Networks that compute on smaller images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from autocompress.compressors.pipeline import apply_candidate, supplies_of
from autocompress.compressors.pruning.inspect import inspect
from autocompress.compressors.resolution import Shrink, resolutions_of
from autocompress.errors import InfeasibleError
from autocompress.spaces.candidate import BITS, PRUNING_RATIO, RESOLUTION, Candidate
from autocompress.studies.residual import ResidualNet
from autocompress.studies.task import Task

from .samples import batches

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def task() -> Task:
    """Return a task that allows two smaller resolutions."""
    model = ResidualNet((8, 16), (1, 1), classes=2).eval()
    return Task(model, torch.ones(1, 1, 8, 8), train=batches(8), validation=batches(2), resolutions=(0.5, 0.75))


@pytest.mark.parametrize("epochs", [0.0, 1.0])
def test_the_file_takes_whole_images_and_computes_on_smaller_ones(epochs: float, task: Task) -> None:
    """Its input has the size of before, it answers as in PyTorch, and its layers do a quarter of the work."""
    groups = inspect(task.model, task.examples).groups
    half = {RESOLUTION: {"input": 0.5}}
    candidate = Candidate({**half, PRUNING_RATIO: {groups[0].name: 0.5}, BITS: {"stem.0": 8}})
    supplies = supplies_of(task)
    built = apply_candidate(task, candidate, supplies, epochs=epochs)
    whole = apply_candidate(
        task, Candidate({k: v for k, v in candidate.axes.items() if k != RESOLUTION}), supplies, epochs=0
    )
    shape = onnx.load_from_string(built.onnx).graph.input[0].type.tensor_type.shape.dim
    assert [size.dim_value for size in shape][1:] == [1, 8, 8]
    images = task.train[0][0]  # type: ignore[index]
    session = onnxruntime.InferenceSession(built.onnx, providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: images.numpy()})[0]
    np.testing.assert_allclose(found, built.model(images).detach(), atol=0.05)
    assert built.macs < 0.3 * whole.macs


def test_statistics_are_those_of_smaller_images(task: Task) -> None:
    """Batch norms expect what they see there."""
    built = apply_candidate(task, Candidate({RESOLUTION: {"input": 0.5}}), supplies_of(task), epochs=0)
    before = torch.nn.functional.interpolate(task.train[0][0], size=(4, 4), mode="bilinear")  # type: ignore[index]
    assert not torch.allclose(built.model(task.train[0][0]), task.model(before), atol=1e-3)  # type: ignore[index]


class OneSize(nn.Module):
    """Knows one size of images, and gives as many numbers as a small one has places."""

    def __init__(self, *, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        """Return a map."""
        return x + torch.ones(self.shape)


def test_a_resolution_is_offered_where_the_network_works(task: Task) -> None:
    """Others are left alone, with their reason, as are inputs that are no images."""
    assert resolutions_of(task.model, task.examples, (0.5, 0.75, 1.0)) == ((0.75, 0.5), [])
    found = inspect(task.model, task.examples, resolutions=task.resolutions)
    assert found.resolutions == (0.75, 0.5)
    assert set(found.reached(RESOLUTION, "input")) == {layer.name for layer in found.layers}
    breaks, reasons = resolutions_of(OneSize(shape=(8, 8)), task.examples, (0.5,))
    assert breaks == ()
    assert "cannot be 0.5" in reasons[0][1]
    other, reasons = resolutions_of(nn.Identity(), task.examples, (0.5,))
    assert other == ()
    assert "others in shape" in reasons[0][1]
    none, reasons = resolutions_of(nn.Identity(), (torch.ones(1, 8),), (0.5,))
    assert none == ()
    assert "no batch of images" in reasons[0][1]


def test_only_images_shrink(task: Task) -> None:
    """A choice for another input, or for rows of numbers, is infeasible."""
    supplies = supplies_of(task)
    for candidate, examples in (({"other": 0.5}, task.examples), ({"input": 0.5}, (torch.ones(1, 8),))):
        with pytest.raises(InfeasibleError, match="shrink"):
            Shrink().apply(task.model, Candidate({RESOLUTION: candidate}), replace(supplies, examples=examples))
