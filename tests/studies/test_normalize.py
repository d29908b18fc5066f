"""A user's networks become plain ones, on copies, or are refused by what they are."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.ao.quantization as ao
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm
from torch.optim.swa_utils import AveragedModel

from autocompress.compressors.pipeline import apply_candidate, supplies_of
from autocompress.errors import StudyError
from autocompress.spaces.candidate import Candidate
from autocompress.studies.normalize import normalized
from autocompress.studies.task import Task
from autocompress.studies.validate import validate

pytestmark = [  # what PyTorch says of its old ways
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

X = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
DATA = [(X, torch.tensor([0, 1, 2, 0]))]


def net() -> nn.Sequential:
    """Return a network with a convolution, a norm and a linear layer."""
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)), nn.ReLU(), nn.Flatten(), nn.Linear(256, 3)
    ).eval()


def task(model: Any, **changes: Any) -> Task:
    """Return a task that is sound except for the change."""
    return Task(**{"model": model, "example_inputs": X[:1], "train": DATA, "validation": DATA} | changes)


def inside(wrap: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """Return the network with a part of it wrapped."""
    model = net()
    model[0] = wrap(model[0])
    return model


def with_each(change: Callable[[nn.Module], object]) -> nn.Module:
    """Return the network with its two layers changed in place."""
    model = net()
    for layer in (model[0][0], model[3]):
        change(layer)
    return model.eval()


def compiled_in_place() -> nn.Module:
    """Return a network that was compiled in place."""
    model = net()
    model.compile(backend="eager")
    return model


def compiled_forward() -> nn.Module:
    """Return a network whose forward was compiled."""
    model = net()
    model.forward = torch.compile(model.forward, backend="eager")  # type: ignore[method-assign]
    return model


class ModelEmaV2(nn.Module):
    """As timm's: it holds an average of a network."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


class Double(nn.Module):
    """A parametrization of a user's own."""

    def forward(self, weight: Tensor) -> Tensor:
        """Return twice a weight."""
        return 2 * weight


def masked(layer: nn.Module) -> None:
    """Put masks on a layer, one upon the other."""
    prune.l1_unstructured(layer, "weight", amount=0.4)
    prune.random_unstructured(layer, "weight", amount=0.2)
    prune.l1_unstructured(layer, "bias", amount=1)


def doubled(layer: nn.Module) -> None:
    """Compute a layer's weight in two steps, its bias in one."""
    parametrize.register_parametrization(parametrizations.weight_norm(layer), "weight", Double())
    parametrize.register_parametrization(layer, "bias", Double())


WRAPPED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "DataParallel": (lambda: nn.DataParallel(net()), "DataParallel was taken off"),
    "DataParallel inside": (lambda: inside(nn.DataParallel), "DataParallel was taken off of '0'"),
    "torch.compile": (lambda: torch.compile(net(), backend="eager"), "torch.compile was taken off"),
    "both": (lambda: nn.DataParallel(torch.compile(net(), backend="eager")), "DataParallel was taken off"),
    "compile()": (compiled_in_place, "torch.compile was taken off"),
    "a compiled forward": (compiled_forward, "torch.compile was taken off"),
    "AveragedModel": (lambda: AveragedModel(net()), "AveragedModel was taken off"),
    "an average of timm's": (lambda: ModelEmaV2(net()), "ModelEmaV2 was taken off"),
    "SyncBatchNorm": (
        lambda: nn.SyncBatchNorm.convert_sync_batchnorm(net()),
        "SyncBatchNorm became BatchNorm in 0.1",
    ),
    "weight_norm": (lambda: with_each(parametrizations.weight_norm), "WeightNorm is computed once and for all"),
    "spectral_norm": (lambda: with_each(parametrizations.spectral_norm), "SpectralNorm is computed once"),
    "orthogonal": (lambda: with_each(parametrizations.orthogonal), "Orthogonal is computed once"),
    "an own parametrization": (lambda: with_each(doubled), "WeightNorm and Double is computed once"),
    "the old weight_norm": (lambda: with_each(weight_norm), "training continues with plain weights"),
    "the old spectral_norm": (lambda: with_each(spectral_norm), "SpectralNorm is computed once"),
    "masks": (lambda: with_each(masked), "the zeros stay only where `sparsity` holds them"),
}


def _plain(module: nn.Module) -> bool:
    own = {"Sequential", "Conv2d", "BatchNorm2d", "ReLU", "Flatten", "Linear"}
    return type(module).__name__ in own and module._compiled_call_impl is None and not module._forward_pre_hooks


@pytest.mark.parametrize("kind", WRAPPED)
def test_a_network_becomes_a_plain_one_that_gives_the_same(kind: str) -> None:
    """What wraps a network or hangs on its weights is off on a copy, and told; the user's own works on as it was."""
    build, sentence = WRAPPED[kind]
    torch.manual_seed(0)
    model = build()
    wanted = (model.module if isinstance(model, ModelEmaV2) else model)(X).detach()
    found, notes = normalized(task(model))
    assert any(sentence in note for note in notes), notes
    assert [m for m in found.model.modules() if not _plain(m)] == []
    assert all(parameter.requires_grad for parameter in found.model.parameters())
    assert {name for name, _ in found.model.named_parameters()} == {name for name, _ in net().named_parameters()}
    torch.testing.assert_close(found.model(X), wanted, rtol=1e-5, atol=1e-6)
    pickle.dumps(found.model)
    again = model.module if isinstance(model, ModelEmaV2) else model
    torch.testing.assert_close(again(X).detach(), wanted, rtol=0, atol=0)
    assert not any(shared is own for own in again.parameters() for shared in found.model.parameters())


def test_names_to_keep_follow() -> None:
    """They may be those of the wrapped network, or those that it has without the wrapper."""
    model = nn.DataParallel(inside(nn.DataParallel))
    for keep in (("module.0.module.0", "module.3"), ("0.0", "3")):
        assert validate(task(model, keep=keep)).task.keep == ("0.0", "3")


def test_all_networks_of_a_task_are_made_plain() -> None:
    """A teacher and a student are no less looked at than the model; each note says whose it is."""
    found, notes = normalized(task(net(), teacher=nn.DataParallel(net()), student=with_each(masked)))
    assert isinstance(found.teacher, nn.Sequential)
    assert [note.split("`")[1] for note in notes] == ["teacher", "student"]


def test_what_is_frozen_stays_so_when_weights_are_fixed() -> None:
    """A weight wants a gradient if what it was computed from did."""
    for norm in (parametrizations.weight_norm, weight_norm):
        model = with_each(norm)
        model[0].requires_grad_(False)  # type: ignore[index]
        found, notes = normalized(task(model))
        frozen = {name for name, p in found.model.named_parameters() if not p.requires_grad}
        assert frozen == {"0.0.weight", "0.0.bias", "0.1.weight", "0.1.bias"}
        assert any("4 of its 6 parameters are frozen" in note for note in notes)


def test_a_network_that_is_frozen_as_a_whole_is_told_to_be_trained() -> None:
    """The one rule for frozen networks is in the task that is compressed, and said; the user's stays frozen."""
    model = net().requires_grad_(False)
    found, notes = normalized(task(model))
    assert all(parameter.requires_grad for parameter in found.model.parameters())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert any("all of its 6 parameters are frozen" in note and "all of them will be trained" in note for note in notes)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_network_and_data_in_another_float_are_compressed_in_float32(dtype: torch.dtype) -> None:
    """The task's loss and metric keep the user's batches; what is exported takes float32."""
    batches = [(X.to(dtype), DATA[0][1])]
    model = net().to(dtype)
    valid = validate(task(model, example_inputs=X[:1].to(dtype), train=batches, validation=batches))
    assert {p.dtype for p in valid.task.model.parameters()} == {torch.float32}
    assert {x.dtype for x in (*valid.task.examples, *valid.task.inputs(batches[0]))} == {torch.float32}
    assert any(f"6 in {str(dtype).removeprefix('torch.')}" in note for note in valid.notes)
    assert next(model.parameters()).dtype == dtype
    torch.testing.assert_close(valid.task.model(X.to(dtype)), valid.task.model(X.to(dtype).float()), rtol=0, atol=0)


def test_a_float32_network_takes_data_in_float64() -> None:
    """As arrays of NumPy give them, with example inputs of that kind."""
    batches = [(X.double(), DATA[0][1])]
    valid = validate(task(net(), example_inputs=X[:1].double(), train=batches, validation=batches))
    assert valid.task.examples[0].dtype == torch.float32


class Stubborn(nn.Module):
    """A network in half precision whose forward says so."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net().half()

    def forward(self, x: Tensor) -> Tensor:
        """Map images to logits."""
        logits: Tensor = self.net(x.half()).float()
        return logits


def test_a_network_that_cannot_run_in_float32_is_refused() -> None:
    """The cause is reported, and not that our own change broke its forward."""
    with pytest.raises(StudyError, match=r"must run in float32.*6 in float16.*use those of the weights"):
        normalized(task(Stubborn()))


def test_a_single_layer_is_a_network() -> None:
    """A linear classifier that is one layer of PyTorch's can be replaced like a layer of any other network."""
    x = X.flatten(1)
    valid = validate(
        task(nn.Linear(64, 3), example_inputs=x[:1], train=[(x, DATA[0][1])], validation=[(x, DATA[0][1])])
    )
    built = apply_candidate(valid.task, Candidate({"bits": {"0": 8}}), supplies_of(valid.task), epochs=1)
    assert built.quantized == {"0"}


def _monkeypatched() -> nn.Module:
    model = net()
    forward = model.forward
    model.forward = lambda x: forward(x).float()  # type: ignore[method-assign]
    return model


def _adapted() -> nn.Module:
    return nn.Sequential(type("LoraLayer", (nn.Linear,), {"__module__": "peft.tuners.lora.layer"})(3, 3))


def _exported() -> Any:
    return torch.export.export(net(), (X,))


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "a script": (lambda: torch.jit.script(net()), "it is a TorchScript program .*nn.Module that it was made from"),
    "a trace": (lambda: torch.jit.trace(net(), X), "TorchScript program"),
    "a script inside": (lambda: inside(torch.jit.script), "'0' is a TorchScript program"),
    "a program's module": (lambda: _exported().module(), "an exported program .*nn.Module that it was made from"),
    "a program": (_exported, "it is a ExportedProgram. Give the nn.Module"),
    "integers": (
        lambda: ao.quantize_dynamic(net(), {nn.Linear}),
        r"has layers that are quantized.*before it was.*'3' is a",
    ),
    "adapters": (_adapted, "has adapters beside its weights.*merge_and_unload"),
    "no shape yet": (
        lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(3)),
        "'1.weight' has no shape yet.*Call it once",
    ),
    "no values": (lambda: net().to("meta"), "'0.0.weight' has a shape and no values.*Load the weights"),
    "complex numbers": (lambda: net().to(torch.complex64), "a parameter of type complex64"),
    "a class": (lambda: nn.Linear, "it is a type: the class Linear itself. Make a network of it"),
    "a state dict": (lambda: net().state_dict(), "a OrderedDict, a state dict. Build the network"),
    "a checkpoint": (lambda: {"model": net().state_dict(), "epoch": 3}, "a dict, a checkpoint. Build the network"),
    "a path": (lambda: Path("model.pt"), r"'model.pt'\. Load the network"),
    "nothing": (lambda: None, "it is a NoneType. Give the trained network itself"),
    "a forward of the object's own": (_monkeypatched, "a copy would compute with its weights. Define forward"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_plain_network_is_refused_by_name(kind: str) -> None:
    """The message says what came, where in the network, and what to give instead."""
    build, message = REFUSED[kind]
    with pytest.raises(StudyError, match=rf"`model` must be .*{message}"):
        normalized(task(build()))


class Restless(nn.Module):
    """A parametrization that gives another weight each time."""

    def forward(self, weight: Tensor) -> Tensor:
        """Return a weight with noise."""
        return weight + torch.randn_like(weight)


def test_weights_that_are_others_in_each_call_are_refused() -> None:
    """They cannot be fixed without a change of what the network computes."""
    model = with_each(lambda layer: parametrize.register_parametrization(layer, "weight", Restless()))
    with pytest.raises(StudyError, match=r"compute the same weights in each call.*Restless"):
        normalized(task(model))


def test_what_is_no_network_is_told_for_keywords_too() -> None:
    """A task whose example inputs have names may be built of anything; its check tells what is wrong."""
    wrong = task(net().state_dict(), example_inputs={"x": X[:1]}, keep=("0",))
    with pytest.raises(StudyError, match="it is a OrderedDict"):
        normalized(wrong)


def test_a_network_in_training_is_compressed_in_evaluation() -> None:
    """The user's stays in its mode."""
    model = net().train()
    found, _ = normalized(task(model))
    assert not any(module.training for module in found.model.modules())
    assert model.training


def test_a_plain_task_is_changed_in_nothing_else() -> None:
    """The copy gives the same, and nothing is said of it."""
    before = task(net())
    found, notes = normalized(before)
    assert notes == ()
    assert replace(found, model=before.model) == before
