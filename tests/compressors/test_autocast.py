"""The layout and the numbers in which networks are trained."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from autocompress.compressors import autocast
from autocompress.compressors.autocast import Format, computing, format_for
from autocompress.compressors.distill import distil
from autocompress.compressors.quantize import Quantize
from autocompress.compressors.technique import Supplies
from autocompress.spaces.candidate import BITS, Candidate
from autocompress.studies.residual import ResidualNet
from autocompress.studies.task import Task

IMAGES = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
FORMATS = [Format(channels_last=last, bfloat16=low) for last in (False, True) for low in (False, True)]


def net() -> ResidualNet:
    """Return a small residual network with the same weights each time."""
    torch.manual_seed(0)
    return ResidualNet((8, 16), (1, 1), classes=3)


def in_float32(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
    """Compute something by hand that takes float32 alone."""
    with torch.autocast("cpu", enabled=False):
        return output @ torch.eye(output.shape[-1])


@pytest.fixture
def low(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the processor have instructions for bfloat16, which PyTorch emulates where it has none."""
    monkeypatch.setattr(autocast, "has_bfloat16", lambda: True)


@pytest.mark.parametrize("form", FORMATS)
def test_a_network_computes_the_same_in_every_format(form: Format) -> None:
    """Outputs and gradients are float32 and near those of the plain format; parameters stay what they are."""
    plain, other = net(), net()
    expected = plain(IMAGES)
    expected.square().sum().backward()
    before = copy.deepcopy(other.state_dict())
    with computing(other.eval().train(), form):
        outputs = other(IMAGES)
        outputs.square().sum().backward()
    tolerance = 0.1 if form.bfloat16 else 1e-4
    assert outputs.dtype == torch.float32
    assert (outputs - expected).abs().max() <= tolerance * expected.abs().max()
    for name, parameter in other.named_parameters():
        assert parameter.dtype == torch.float32
        assert parameter.is_contiguous()
        assert torch.equal(parameter, before[name])
        reference = plain.get_parameter(name).grad
        assert (parameter.grad - reference).norm() <= tolerance * 3 * reference.norm() + 1e-6
    assert not other._forward_hooks
    assert not other._forward_pre_hooks


def test_formats_differ_inside() -> None:
    """Channels come last, and numbers are bfloat16, where that is asked for and nowhere else."""
    for form in FORMATS:
        seen: list[Tensor] = []
        model = net()
        hook = model.stages.register_forward_hook(lambda module, inputs, output, seen=seen: seen.append(output))
        conv = model.stem[0].register_forward_hook(lambda module, inputs, output, seen=seen: seen.append(output))
        with computing(model, form):
            model(IMAGES)
        hook.remove()
        conv.remove()
        convolved, features = seen
        assert features.is_contiguous(memory_format=torch.channels_last) == form.channels_last
        assert (convolved.dtype == torch.bfloat16) == form.bfloat16


def test_a_forward_that_fails_leaves_no_trace() -> None:
    """After an error inside the network autocast is off again."""
    model = net()
    with pytest.raises(RuntimeError), computing(model, Format(channels_last=True, bfloat16=True)):
        model(IMAGES[:, :, 0])
    assert not torch.is_autocast_enabled("cpu")
    assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
    assert not model._forward_hooks


def test_named_inputs_are_laid_out_too() -> None:
    """A network that takes its images by name has channels last."""
    seen: list[Tensor] = []
    model = net()
    model.stem.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    images = IMAGES.repeat(1, 1, 1, 1)
    with computing(model, Format(channels_last=True)):
        torch.testing.assert_close(model(x=images), model(images))
    assert all(x.is_contiguous(memory_format=torch.channels_last) for x in seen)


@pytest.mark.parametrize(
    ("model", "examples", "channels_last"),
    [
        (net(), IMAGES[:1], True),
        (nn.Sequential(nn.Linear(4, 2)), torch.ones(1, 4), False),
        (nn.TransformerEncoderLayer(8, 2, 8, batch_first=True), torch.ones(1, 3, 8), False),
    ],
)
def test_the_layout_is_that_of_the_architecture(model: nn.Module, examples: Tensor, channels_last: bool) -> None:
    """Channels come last in networks of convolutions; nothing of the network changes."""
    before = copy.deepcopy(model.state_dict())
    assert format_for(model, (examples,)).channels_last is channels_last
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.usefixtures("low")
def test_bfloat16_is_taken_where_the_network_runs_in_it() -> None:
    """A float network does; not one that is quantized, gives infinities, or breaks in it."""
    supplies = Supplies(examples=(IMAGES[:1],), calibration=[(IMAGES,)])
    assert format_for(net(), supplies.examples).bfloat16
    quantized = Quantize().apply(net(), Candidate({BITS: {"stages.0.0.conv1": 8}}), supplies)
    infinite, unable = net(), net()
    infinite.head.weight.data.fill_(torch.inf)
    unable.stem[0].register_forward_hook(in_float32)
    for model in (quantized, infinite, unable):
        assert not format_for(model, supplies.examples).bfloat16


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
