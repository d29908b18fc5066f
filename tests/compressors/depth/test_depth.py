"""Networks without some of their residual branches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

from autocompress.compressors.depth.depth import Depth, branches_of
from autocompress.compressors.modules import run
from autocompress.compressors.pipeline import apply_candidate, space_of, supplies_of
from autocompress.compressors.pruning.inspect import inspect
from autocompress.compressors.technique import Supplies
from autocompress.evaluators.ladder.served import Served, source_of
from autocompress.evaluators.runtimes import load
from autocompress.spaces.candidate import ACTIVATION, BITS, DEPTH, DISTILLATION, PRUNING_RATIO, SETTINGS, Candidate
from autocompress.spaces.capabilities import Capabilities
from autocompress.studies.normalize import normalized
from autocompress.studies.residual import ResidualNet
from autocompress.studies.task import Task

from ..samples import batches
from ..test_families import deit, vision_transformer

CAPABILITIES = Capabilities(runtime="fake", bits=(32, 8), channel_multiple=4)


def gone(*names: str) -> Candidate:
    """Return the candidate without some branches."""
    return Candidate({DEPTH: dict.fromkeys(names, "gone")})


def all_gone(model: nn.Module, examples: tuple[Tensor, ...]) -> tuple[Candidate, set[str]]:
    """Return the candidate without all branches of a network, and the layers in these."""
    branches, _ = branches_of(model, examples, ())
    return gone(*(branch.name for branch in branches)), {layer for branch in branches for layer in branch.layers}


@pytest.fixture(scope="module")
def task() -> Task:
    """Return a task with a small residual network, trained a little."""
    torch.manual_seed(0)
    model, data = ResidualNet((8, 16), (2, 2), classes=2), batches(8)
    task = Task(model=model.eval(), example_inputs=data[0][0][:1], train=data, validation=batches(2))
    trained = apply_candidate(task, Candidate(), supplies_of(task), epochs=2).ancestor
    assert trained is not None
    model.load_state_dict(dict(trained.state))
    return task


def test_a_network_without_branches_computes_its_shortcuts(task: Task) -> None:
    """What stays computes what it did, as if the branches gave zero."""
    model = task.model
    supplies = replace(supplies_of(task), rough=True)  # what follows a branch is not refitted
    shallow = Depth().apply(model, gone("stages.0.0.conv2", "stages.1.0.conv2"), supplies)
    zeros = [
        model.get_submodule(name).register_forward_hook(lambda module, inputs, output: torch.zeros_like(output))
        for name in ("stages.0.0.bn2", "stages.1.0.bn2")
    ]
    expected = run(model, task.examples)
    for hook in zeros:
        hook.remove()
    torch.testing.assert_close(run(shallow, task.examples), expected)
    assert not [name for name, _ in shallow.named_parameters() if name.startswith(("stages.0.0", "stages.1.0.conv"))]


def encoder() -> nn.Module:
    """Return PyTorch's own encoder layers."""
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    return nn.Sequential(nn.Linear(16, 16), nn.TransformerEncoder(layer, 2), nn.Linear(16, 4))


def bert() -> nn.Module:
    """Return Hugging Face's BERT, small."""
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, vocab_size=50, num_labels=5
    )
    model: nn.Module = transformers.BertForSequenceClassification(config)
    return model


def torchvision_net(name: str, **options: Any) -> Callable[[], nn.Module]:
    """Return a function that makes one of torchvision's networks."""

    def made() -> nn.Module:
        import torchvision

        model: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=5, **options)
        return model

    return made


IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
WORDS = {"input_ids": torch.arange(16).reshape(2, 8), "attention_mask": torch.ones(2, 8, dtype=torch.long)}

FAMILIES = [
    pytest.param(torchvision_net("resnet18"), IMAGES, 8, id="resnet"),
    pytest.param(torchvision_net("mobilenet_v2", width_mult=0.35), IMAGES, 10, id="mobilenet_v2"),
    pytest.param(torchvision_net("mobilenet_v3_small"), IMAGES, 6, id="mobilenet_v3"),
    pytest.param(vision_transformer, IMAGES, 4, id="vit"),
    pytest.param(deit, IMAGES, 4, id="deit"),
    pytest.param(encoder, torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(0)), 4, id="encoder"),
    pytest.param(bert, WORDS, 4, id="bert"),
]


@pytest.mark.parametrize(("make", "inputs", "count"), FAMILIES)
def test_families_are_served_without_their_branches(make: Callable[[], nn.Module], inputs: Any, count: int) -> None:
    """All branches of a family are found; its file has nothing left of them, and computes what PyTorch does."""
    torch.manual_seed(0)
    data = [(inputs, torch.arange(2))]
    task = normalized(Task(make().eval(), inputs, train=data, validation=data))[0]
    candidate, layers = all_gone(task.model, task.examples)
    assert len(candidate[DEPTH]) == count
    supplies = replace(supplies_of(task), statistics=())  # two examples give none
    built = apply_candidate(task, candidate, supplies, epochs=0)
    whole = apply_candidate(task, Candidate(), supplies, epochs=0)
    assert not {product.layer for product in built.written.products} & layers
    inside = sum(p.numel() for n in layers for p in task.model.get_submodule(n).parameters(recurse=False))
    assert built.params <= whole.params - inside + 1
    graphs = [onnx.load_from_string(each.onnx).graph for each in (built, whole)]
    additions = [sum(node.op_type == "Add" for node in graph.node) for graph in graphs]
    assert additions[0] <= additions[1] - count
    runtime = load("onnxruntime")
    with runtime.build(runtime.convert(source_of(built, supplies)), threads=1) as engine:
        torch.testing.assert_close(
            Served(engine)(*task.examples), run(built.model, task.examples), rtol=1e-3, atol=1e-4
        )


def test_what_cannot_go_is_named() -> None:
    """A branch whose result the forward looks at stays, with the reason; so does one that the task keeps."""

    class Looking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.one(x)
            width: int = y.shape[-1]
            x = x + y * width
            out: Tensor = self.head(x + self.two(x))
            return out

    found, left = branches_of(Looking().eval(), (torch.ones(1, 4),), kept=())
    assert [branch.name for branch in found] == ["two"]
    ((name, why),) = left
    assert name == "one"
    assert "its branch stays: without it the forward breaks" in why
    assert branches_of(Looking().eval(), (torch.ones(1, 4),), kept={"two"})[0] == []


def test_other_choices_for_what_is_gone_mean_nothing(task: Task) -> None:
    """Two points that differ only in the layers of a branch that is gone are one candidate, and it can be built."""
    space = space_of(inspect(task.model, task.examples), CAPABILITIES)
    strongest = {c.name: len(c.levels) - 1 for c in space.choices if c.axis not in SETTINGS}
    mild = {name: 0 if "stages.0.0" in name else level for name, level in strongest.items()}
    without = {"depth:stages.0.0.conv2": 1}
    candidate = space.candidate(strongest | without)
    assert candidate == space.candidate(mild | without)
    assert candidate == space.candidate(space.levels(candidate))
    kept = {name: 0 if name.startswith(f"{DEPTH}:") else level for name, level in strongest.items()}
    assert "stages.0.0.conv1" in space.candidate(kept)[PRUNING_RATIO]
    assert not {"stages.0.0.conv1", "stages.0.0.conv2"} & {*candidate[BITS], *candidate[PRUNING_RATIO]}
    built = apply_candidate(task, candidate, supplies_of(task), epochs=0.25)
    assert not [p for p in built.written.products if p.layer.startswith("stages.0.0")]


def test_functions_inside_a_branch_go_with_it() -> None:
    """To exchange the functions of a block whose branch is gone is no choice; those after its addition stay one."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
            self.act, self.late = nn.SiLU(), nn.SiLU()

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = x + self.two(self.act(self.one(x)))
            return out

    class After(Block):
        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.late(super().forward(x))
            return out

    model = nn.Sequential(nn.Conv2d(1, 4, 3), Block(), After(), nn.Flatten(), nn.Linear(144, 2)).eval()
    space = space_of(inspect(model, (torch.ones(1, 1, 8, 8),)), CAPABILITIES)
    assert {choice.target for choice in space.on(DEPTH)} == {"1.two", "2.two"}
    places = {choice.target for choice in space.on(ACTIVATION)}
    strongest = space.at(lambda choice: 1 if choice.axis in (DEPTH, ACTIVATION) else 0)
    assert len(places) == 2
    assert [name[0] for name in strongest[ACTIVATION]] == ["2"]


def test_a_shallow_network_is_pruned_in_steps_and_learns(task: Task) -> None:
    """Depth goes with a penalty, pruning in steps and hints from the teacher; training brings the accuracy back."""
    space = space_of(inspect(task.model, task.examples), CAPABILITIES)
    ratios = {c.target: 0.5 for c in space.on(PRUNING_RATIO) if not c.target.startswith("stages.0.1")}
    settings = {"pruning": {"steps": 2, "penalty": "group"}, DISTILLATION: {"features": 1.0, "attention": 1.0}}
    candidate = Candidate({**gone("stages.0.1.conv2").axes, PRUNING_RATIO: ratios, **settings})
    built = apply_candidate(task, candidate, supplies_of(task), epochs=6)
    assert task.metric(built.model, task.validation) > 0.85


def test_a_shallow_network_is_an_ancestor(task: Task) -> None:
    """A candidate without further branches, and with fewer channels, begins with the weights of a shallow one."""
    supplies = supplies_of(task)
    first = apply_candidate(task, gone("stages.0.1.conv2"), supplies, epochs=1)
    assert first.ancestor is not None
    same = apply_candidate(task, gone("stages.0.1.conv2"), supplies, epochs=0, ancestor=first.ancestor)
    assert all(torch.equal(value, same.state()[name]) for name, value in first.state().items())
    smaller = Candidate({**gone("stages.0.1.conv2", "stages.1.1.conv2").axes, PRUNING_RATIO: {"stem.0": 0.5}})
    roughly = replace(supplies, rough=True)  # nothing is refitted
    heir = apply_candidate(task, smaller, roughly, epochs=0, ancestor=first.ancestor)
    alone = apply_candidate(task, smaller, roughly, epochs=0)
    assert heir.params == alone.params
    assert torch.equal(
        heir.state()["head.weight"], first.state()["head.weight"][:, : len(heir.state()["head.weight"][0])]
    )


def test_unknown_branch_is_refused_even_where_others_are_known(task: Task) -> None:
    """A branch that the network has not is named."""
    supplies = Supplies(examples=task.examples, calibration=())
    with pytest.raises(Exception, match="no residual branch 'nowhere'"):
        Depth().apply(task.model, gone("stages.0.1.conv2", "nowhere"), supplies)
