"""The least-squares refit of what reads a smaller tensor."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from autocompress.compressors.lowrank.factorize import Factorize
from autocompress.compressors.modules import run
from autocompress.compressors.pruning.prune import Prune
from autocompress.compressors.refit import refit
from autocompress.compressors.technique import Supplies
from autocompress.spaces.candidate import PRUNING_RATIO, RANK, Candidate
from autocompress.studies.networks.copied import copied

pytestmark = pytest.mark.usefixtures("one_thread")


def images(count: int = 64) -> Tensor:
    """Return images that vary smoothly, so that channels tell of each other."""
    coarse = torch.randn(count, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    return nn.functional.interpolate(coarse, scale_factor=3, mode="bilinear")


def supplies(*, rough: bool = False) -> Supplies:
    """Return what a technique may use."""
    data = [(x,) for x in images().split(16)]
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
    model = Mixed()
    model(images())
    return model.eval()


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
    ],
    ids=["one group", "all groups", "ranks"],
)
def test_a_smaller_network_answers_more_as_before(candidate: Candidate, model: nn.Module) -> None:
    """On new images the error of the outputs is at most two thirds of what it is without a refit."""
    for technique in (Prune(), Factorize()):
        if candidate[technique.axis]:
            plain = technique.apply(model, candidate, supplies(rough=True))
            refitted = technique.apply(model, candidate, supplies())
            assert error(refitted, model) < 0.67 * error(plain, model)


def test_other_weights_on_the_same_inputs_are_set_right(model: nn.Module) -> None:
    """Layers with random weights that read what those of the network before read answer as they do afterwards."""
    other = copied(model)
    for name in ("stem", "strided", "pointwise", "hidden"):
        nn.init.normal_(other.get_submodule(name).weight, std=0.3)
    refit(other, model, {}, supplies().statistics)
    assert error(other, model) < 0.02 * float(run(model, (images(),)).var())


def test_what_has_nothing_to_gain_stays(model: nn.Module) -> None:
    """A network that already answers as before, a layer that runs twice, and too few examples change nothing."""
    same = copied(model)
    refit(same, model, {}, supplies().statistics)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(same.state_dict()[name], value, rtol=1e-3, atol=1e-3)
    for inputs, name in ((supplies().statistics, "twice"), ([(images(1),)], "strided")):
        other = copied(model)
        layer = other.get_submodule(name)
        nn.init.normal_(layer.weight)
        weight = layer.weight.clone()
        refit(other, model, {}, inputs)
        assert torch.equal(layer.weight, weight)
