"""What is one weight, or one module, in a network is one in all that is made of it."""

from __future__ import annotations

from itertools import pairwise
from types import MethodType

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from autocompress.compressors.batch_norm import fold_batch_norm
from autocompress.compressors.modules import multiplies
from autocompress.compressors.pipeline import apply_candidate, space_of, supplies_of
from autocompress.compressors.pruning.inspect import inspect
from autocompress.compressors.quantization.quantize import Quantized
from autocompress.errors import InfeasibleError
from autocompress.evaluators.ladder.served import Served, parity, source_of
from autocompress.evaluators.runtimes import load as runtime_of
from autocompress.spaces.candidate import Candidate
from autocompress.studies.task import Task


class Words(nn.Module):
    """A language model whose head is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(40, 32)
        self.middle = nn.Linear(32, 32)
        self.head = nn.Linear(32, 40, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, words) to (N, 40)."""
        x = self.embed(x)
        logits: Tensor = self.head(x + self.middle(x).relu())
        return logits[:, -1]


class Twins(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other, self.last = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 3)
        self.other.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 16) to (N, 3)."""
        logits: Tensor = self.last(self.other(self.one(x).relu()).relu())
        return logits


class Aliased(nn.Module):
    """One convolution and one norm with two names each; both names are called."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(1, 16, 3, padding=1), nn.Linear(16, 3)
        self.one, self.norm = nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.other, self.other_norm = self.one, self.norm
        with torch.no_grad():
            self.norm.running_var.fill_(2)  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 1, height, width) to (N, 3)."""
        x = self.norm(self.one(self.stem(x).relu())).relu()
        x = self.other_norm(self.other(x)).relu()
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


class Decoder(nn.Module):
    """An encoder whose decoder multiplies by the transposed weight, in a function."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.encode, self.last = nn.Linear(16, width), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 16) to (N, 3)."""
        hidden = self.encode(x).relu()
        logits: Tensor = self.last(nn.functional.linear(hidden, self.encode.weight.t()))
        return logits


def task_of(model: nn.Module, x: Tensor) -> Task:
    """Return a task with random labels."""
    data = [(x, torch.arange(len(x)) % 3)] * 3
    return Task(model.eval(), x[:1], data, data)


@pytest.fixture
def words() -> Task:
    """Return the task of a language model."""
    torch.manual_seed(0)
    return task_of(Words(), torch.randint(0, 40, (8, 6)))


CANDIDATES = {
    "nothing": Candidate(),
    "pruned": Candidate({"pruning_ratio": {"middle": 0.25}}),
    "INT8": Candidate({"bits": {"head": 8, "middle": 8}}),
    "pruned, palettes": Candidate({"pruning_ratio": {"middle": 0.5}, "palette": {"head": 4}}),
}


@pytest.mark.parametrize("name", CANDIDATES)
def test_a_head_that_is_the_embedding_stays_it(words: Task, name: str) -> None:
    """After training both have one weight still, and the file of weights can be written."""
    built = apply_candidate(words, CANDIDATES[name], supplies_of(words), epochs=1)
    plain = built.plain
    assert plain.get_parameter("head.weight") is plain.get_parameter("embed.weight")
    state = load(save(built.state()))
    assert torch.equal(state["head.weight"], state["embed.weight"])
    assert (state["head.weight"].shape[1] < 32) == ("pruned" in name)


def test_a_tied_layer_is_not_factorised(words: Task) -> None:
    """Its factors would be another weight than the embedding's: that is reported, not offered, and infeasible."""
    network = inspect(words.model, words.examples)
    assert ("head", "it shares parameters with embed: not factorised") in network.left_alone
    space = space_of(network, runtime_of("onnxruntime").capabilities)
    assert [choice.target for choice in space.choices if choice.axis == "rank"] == ["middle"]
    with pytest.raises(InfeasibleError, match="it shares parameters with embed"):
        apply_candidate(words, Candidate({"rank": {"head": 0.25}}), supplies_of(words), epochs=0)


def test_pruning_that_would_part_a_weight_is_left_alone() -> None:
    """The outputs of one layer are the inputs of the other, which share their weight."""
    torch.manual_seed(0)
    network = inspect(Twins(), (torch.randn(1, 16),))
    assert network.groups == ()
    assert ("one", "one.weight and other.weight are one weight, and would be two") in network.left_alone


def test_a_module_with_two_names_is_quantized_under_both() -> None:
    """Both calls compute on rounded numbers, and the exported file does too."""
    torch.manual_seed(0)
    task = task_of(Aliased(), torch.randn(8, 1, 6, 6))
    supplies = supplies_of(task)
    built = apply_candidate(task, Candidate({"bits": {"one": 8}}), supplies, epochs=1)
    both = [built.model.get_submodule(name) for name in ("one", "other")]
    assert isinstance(both[0], Quantized)
    assert all(one is other for one, other in pairwise(both))
    assert not any(isinstance(module, Quantized) for module in built.plain.modules())
    runtime = runtime_of("onnxruntime")
    with runtime.build(runtime.convert(source_of(built, supplies)), threads=1) as engine:
        parity(built.model, Served(engine), supplies.calibration, tolerance=0.05)


def test_a_norm_with_two_names_is_folded_under_both() -> None:
    """It is in no place any more, and the outputs are the same."""
    torch.manual_seed(0)
    model, x = Aliased().eval(), torch.randn(4, 1, 6, 6)
    folded = fold_batch_norm(model, (x,))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    torch.testing.assert_close(folded(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("width", [16, 24])
def test_a_product_with_a_layers_transposed_weight_is_none_of_the_layers(width: int) -> None:
    """The layer computes in INT8, its weight in the decoder stays in float, as in PyTorch."""
    torch.manual_seed(0)
    task = task_of(Decoder(width), torch.randn(8, 16))
    supplies = supplies_of(task)
    built = apply_candidate(task, Candidate({"bits": {"encode": 8, "last": 8}}), supplies, epochs=1)
    assert built.quantized == {"encode", "last"}
    runtime = runtime_of("onnxruntime")
    with runtime.build(runtime.convert(source_of(built, supplies)), threads=1) as engine:
        parity(built.model, Served(engine), supplies.calibration, tolerance=0.02)


def test_hooks_of_the_users_are_called_where_a_layer_or_a_norm_was() -> None:
    """What is put in a module's place has its hooks, which may be part of what the network computes."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.Conv2d(16, 16, 3), nn.Flatten(), nn.Linear(256, 3)]
    model, x = nn.Sequential(*layers).eval(), torch.randn(8, 1, 8, 8)
    for layer in (model[1], model[2]):
        layer.register_forward_hook(lambda module, inputs, output: output.clamp(-0.1, 0.1))
    task = task_of(model, x)
    supplies = supplies_of(task)
    built = apply_candidate(task, Candidate({"rank": {"2": 0.75}, "bits": {"4": 8}}), supplies, epochs=0)
    seen: list[Tensor] = []
    built.model[3].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))  # type: ignore[index]
    built.model(x)
    assert seen[0].abs().max() <= 0.1
    runtime = runtime_of("onnxruntime")
    with runtime.build(runtime.convert(source_of(built, supplies)), threads=1) as engine:
        parity(built.model, Served(engine), supplies.calibration, tolerance=0.02)


def test_a_layer_whose_forward_was_set_on_it_computes_in_a_way_of_its_own() -> None:
    """Techniques that build another layer in its place leave it alone."""
    layer = nn.Linear(16, 16)
    assert multiplies(layer)
    layer.forward = MethodType(lambda self, x: 2 * nn.functional.linear(x, self.weight), layer)  # type: ignore[method-assign]
    assert not multiplies(layer)
