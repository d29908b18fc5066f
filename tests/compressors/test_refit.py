"""The least-squares refit of what reads a smaller tensor."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import Tensor, nn

from autocompress.compressors.batch_norm import estimate_batch_norm
from autocompress.compressors.modules import run
from autocompress.compressors.phases import REFITTED, applied
from autocompress.compressors.refit import LayerOutputs, refit
from autocompress.compressors.technique import Supplies
from autocompress.spaces.candidate import PRUNING_RATIO, RANK, Candidate
from autocompress.studies.networks.copied import copied

pytestmark = pytest.mark.usefixtures("one_thread")


def images(count: int = 64) -> Tensor:
    """Return images that vary smoothly, so that channels tell of each other."""
    coarse = torch.randn(count, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    return nn.functional.interpolate(coarse, scale_factor=3, mode="bilinear")


def supplies(count: int = 64, *, rough: bool = False) -> Supplies:
    """Return what a technique may use."""
    data = [(x,) for x in images(count).split(16)]
    return Supplies(examples=(images(1),), calibration=data, statistics=data, rough=rough)


class Mixed(nn.Module):
    """Convolutions of several geometries, a depthwise one, a norm and linear layers, one of which runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 12, 3, padding=1, padding_mode="reflect")
        self.norm = nn.BatchNorm2d(12)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12)
        self.strided = nn.Conv2d(12, 16, (3, 1), stride=(2, 1), dilation=(2, 1), padding=(1, 0))
        self.pointwise = nn.Conv2d(16, 12, 1, bias=False)
        self.hidden = nn.Linear(12, 24)
        self.twice = nn.Linear(24, 24)
        self.head = nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of three channels."""
        x = self.depthwise(self.norm(self.stem(x)).relu())
        x = self.pointwise(self.strided(x).relu()).relu().movedim(1, -1)
        output: Tensor = self.head(self.twice(self.twice(self.hidden(x).relu()).relu()))
        return output


@pytest.fixture
def model() -> nn.Module:
    """Return a network with statistics of its own."""
    torch.manual_seed(0)
    model = Mixed().eval()
    estimate_batch_norm(model, supplies().statistics)
    return model


def error(model: nn.Module, before: nn.Module) -> float:
    """Return the mean squared difference of two networks on images that no refit has seen."""
    inputs = (images(200)[64:],)
    return float((run(model, inputs) - run(before, inputs)).square().mean())


@pytest.mark.parametrize(
    "candidate",
    [
        Candidate({PRUNING_RATIO: {"stem": 0.5}}),
        Candidate({PRUNING_RATIO: {"stem": 0.25, "strided": 0.5, "pointwise": 0.25, "hidden": 0.5}}),
        Candidate({RANK: {"strided": 0.5, "pointwise": 0.5, "hidden": 0.5}}),
        Candidate({PRUNING_RATIO: {"stem": 0.25, "hidden": 0.25}, RANK: {"strided": 0.5, "pointwise": 0.5}}),
    ],
    ids=["one group", "all groups", "ranks", "both"],
)
def test_a_smaller_network_answers_more_as_before(candidate: Candidate, model: nn.Module) -> None:
    """On new images the error of the outputs is at most two thirds of what it is without a refit."""
    techniques = [technique for technique in REFITTED if candidate[technique.axis]]
    plain = applied(model, techniques, candidate, supplies(rough=True))
    assert error(applied(model, techniques, candidate, supplies()), model) < 0.67 * error(plain, model)


def test_other_weights_on_the_same_inputs_are_set_right(model: nn.Module) -> None:
    """Layers with random weights that read what those of the network before read answer as they do afterwards."""
    other = copied(model)
    for name in ("stem", "strided", "pointwise", "hidden"):
        nn.init.normal_(other.get_submodule(name).weight, std=0.3)
    refit(other, LayerOutputs(model, supplies().statistics), {})
    assert error(other, model) < 0.02 * float(run(model, (images(),)).var())


def test_what_has_nothing_to_gain_stays(model: nn.Module) -> None:
    """A network that already answers as before, a layer that runs twice, and too few examples change nothing."""
    same = copied(model)
    refit(same, LayerOutputs(model, supplies().statistics), {})
    for name, value in model.named_parameters():
        torch.testing.assert_close(same.get_parameter(name), value, rtol=1e-3, atol=1e-3)
    for inputs, name in ((supplies().statistics, "twice"), ([(images(1),)], "strided")):
        other = copied(model)
        layer = other.get_submodule(name)
        nn.init.normal_(layer.weight)
        weight = layer.weight.clone()
        refit(other, LayerOutputs(model, inputs), {})
        assert torch.equal(layer.weight, weight)


def test_what_a_network_gave_is_found_once(model: nn.Module) -> None:
    """A second refit to the same network does not run it again; a copy that is sent elsewhere finds it again."""
    before, runs = LayerOutputs(model, supplies().statistics), []
    model.register_forward_hook(lambda *call: runs.append(call) and None)
    for _ in range(2):
        refit(copied(model), before, {})
    known = len(runs)
    refit(Mixed().eval(), before, {})
    assert known
    assert len(runs) == known
    assert "_found" not in pickle.dumps(LayerOutputs(nn.Identity(), [])).decode("latin1")


@pytest.mark.parametrize("count", [64, 512])
def test_batch_norms_have_the_statistics_of_what_they_read(count: int, model: nn.Module) -> None:
    """After a refit the statistics of norms are those of the smaller network, with few examples and with many."""
    small = applied(model, REFITTED, Candidate({PRUNING_RATIO: {"stem": 0.5}}), supplies(count))
    after = copied(small)
    estimate_batch_norm(after, supplies(count).statistics)
    for name, value in after.named_buffers():
        if "running" in name:
            torch.testing.assert_close(small.get_buffer(name), value, rtol=0.05, atol=0.01)
