"""The numbers in which networks are trained."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from autocompress.compressors.distillation import bfloat16 as autocast
from autocompress.compressors.distillation.bfloat16 import in_bfloat16, trains_in_bfloat16
from autocompress.compressors.distillation.distill import distil
from autocompress.compressors.quantization.quantize import Quantize
from autocompress.compressors.technique import Supplies
from autocompress.spaces.candidate import BITS, Candidate
from autocompress.studies.residual import ResidualNet
from autocompress.studies.task import Task

IMAGES = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def net() -> ResidualNet:
    """Return a small residual network with the same weights each time."""
    torch.manual_seed(0)
    return ResidualNet((8, 16), (1, 1), classes=3)


def in_float32(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
    """Compute something by hand that takes float32 alone."""
    with torch.autocast("cpu", enabled=False):
        return output @ torch.eye(output.shape[-1])


def by_numpy(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
    """Compute something in NumPy, which knows no bfloat16."""
    return output + torch.from_numpy(output.detach().numpy() * 0)


@pytest.fixture
def low(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the processor have instructions for bfloat16, which PyTorch emulates where it has none."""
    monkeypatch.setattr(autocast, "has_bfloat16", lambda: True)


def test_a_network_computes_nearly_the_same_in_bfloat16() -> None:
    """Outputs and gradients are float32 and near those of float32; parameters stay what they are."""
    plain, other = net(), net()
    expected = plain(IMAGES)
    expected.square().sum().backward()
    before = copy.deepcopy(other.state_dict())
    with in_bfloat16(other.eval().train()):
        outputs = other(IMAGES)
        outputs.square().sum().backward()
    assert outputs.dtype == torch.float32
    assert (outputs - expected).abs().max() <= 0.1 * expected.abs().max()
    for name, parameter in other.named_parameters():
        assert parameter.dtype == torch.float32
        assert torch.equal(parameter, before[name])
        reference = plain.get_parameter(name).grad
        assert (parameter.grad - reference).norm() <= 0.3 * reference.norm() + 1e-6
    assert not other._forward_hooks
    assert not other._forward_pre_hooks


def test_numbers_are_bfloat16_inside() -> None:
    """Convolutions give bfloat16 while the context lasts, and float32 again afterwards."""
    seen: list[torch.dtype] = []
    model = net()
    model.stem[0].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    with in_bfloat16(model):
        model(IMAGES)
    model(IMAGES)
    assert seen == [torch.bfloat16, torch.float32]


def test_a_forward_that_fails_leaves_no_trace() -> None:
    """After an error inside the network autocast is off again."""
    model = net()
    with pytest.raises(RuntimeError), in_bfloat16(model):
        model(IMAGES[:, :, 0])
    assert not torch.is_autocast_enabled("cpu")
    assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
    assert not model._forward_hooks


def test_bfloat16_is_not_emulated() -> None:
    """A processor without instructions for it trains in float32; nothing of the network changes."""
    model = net()
    before = copy.deepcopy(model.state_dict())
    assert trains_in_bfloat16(model, (IMAGES[:1],)) is autocast.has_bfloat16()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.usefixtures("low")
def test_bfloat16_is_taken_where_the_network_runs_in_it() -> None:
    """A float network does; not one that is quantized, gives infinities, or breaks in it."""
    supplies = Supplies(examples=(IMAGES[:1],), calibration=[(IMAGES,)])
    assert trains_in_bfloat16(net(), supplies.examples)
    quantized = Quantize().apply(net(), Candidate({BITS: {"stages.0.0.conv1": 8}}), supplies)
    infinite, unable, foreign = net(), net(), net()
    infinite.head.weight.data.fill_(torch.inf)
    unable.stem[0].register_forward_hook(in_float32)
    foreign.stem[0].register_forward_hook(by_numpy)
    for model in (quantized, infinite, unable, foreign):
        assert not trains_in_bfloat16(model, supplies.examples)


@pytest.mark.usefixtures("low")
def test_students_learn_in_bfloat16() -> None:
    """A network that is trained in it gets better at its task as in float32, and is float32 afterwards."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(16) % 3
    images = torch.randn(16, 1, 8, 8, generator=generator) * 0.3 + labels.reshape(-1, 1, 1, 1)
    task = Task(net(), images[:1], [(images, labels)] * 8, [(images, labels)])
    student = copy.deepcopy(task.model)
    settings = {"weight": 0.0, "learning_rate": 0.03}
    distil(student, task.model, task, settings=settings, epochs=2, seed=0)
    assert task.metric(student, task.validation) > 0.8
    assert {parameter.dtype for parameter in student.parameters()} == {torch.float32}
    assert all(parameter.is_contiguous() for parameter in student.parameters())
