"""Graph neural networks: what is pruned, factorised and rounded of them, how they are served, and a whole search."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from autocompress import compress as search
from autocompress.compressors.onnx_files.export import to_onnx
from autocompress.compressors.pipeline import apply_candidate, space_of, supplies_of
from autocompress.compressors.pruning.inspect import inspect
from autocompress.errors import InfeasibleError, StudyError
from autocompress.evaluators.ladder.served import Served, parity, source_of
from autocompress.evaluators.runtime import low_precision
from autocompress.evaluators.runtimes import load
from autocompress.pareto.front import ParetoFront
from autocompress.spaces.candidate import BITS, PRUNING_RATIO, RANK, Candidate
from autocompress.spaces.capabilities import Capabilities
from autocompress.studies.graphs import node_accuracy, node_task
from autocompress.studies.task import Task

from ..graphs import KINDS, WIDTH, GraphNet, communities, trained

GROUPS = {"gcn": ["first.lin", "second.lin"], "sage": ["first.lin_l", "second.lin_l"], "gat": []}


class Normed(nn.Module):
    """A graph network over features that are divided by their spectral norm, for which ONNX has no operation."""

    def __init__(self) -> None:
        super().__init__()
        self.net = GraphNet()

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Map features of shape (nodes, features) to logits (nodes, classes)."""
        logits: Tensor = self.net(10 * x / torch.linalg.svdvals(x)[0], edge_index)
        return logits


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Return each kind of convolution in turn."""
    name: str = request.param
    return name


def task(kind: str = "gcn", *, steps: int = 0, **form: object) -> Task:
    """Return the task of a network with a kind of convolution."""
    conv, always = KINDS[kind]
    data = communities()
    torch.manual_seed(0)
    model = trained(GraphNet(conv, **always, **form), data, steps=max(steps, 1))
    return node_task(model, data)


def strongest(made: Task, axis: str) -> Candidate:
    """Return the candidate that does most on one axis."""
    space = space_of(inspect(made.model, made.examples), Capabilities(runtime="fake", channel_multiple=4))
    return space.at(lambda choice: len(choice.levels) - 1 if choice.axis == axis else 0)


def test_channels_that_a_convolution_makes_are_pruned_together(kind: str) -> None:
    """Biases, both layers of a GraphSAGE convolution and the norm lose what the root loses; attention keeps it."""
    made = task(kind)
    network = inspect(made.model, made.examples)
    assert [group.name for group in network.groups] == GROUPS[kind]
    if kind == "gat":
        assert {name for name, _ in network.left_alone} == {"first.lin", "second.lin"}
        assert all("breaks after pruning" in reason for _, reason in network.left_alone)
        return
    assert network.left_alone == ()
    halves = Candidate({PRUNING_RATIO: dict.fromkeys(GROUPS[kind], 0.5)})
    pruned = apply_candidate(made, halves, supplies_of(made), epochs=0).plain
    for name, parameter in pruned.named_parameters():
        if name.startswith(("first", "second")):
            assert len(parameter) == WIDTH // 2, name
    assert pruned(*made.examples).shape == made.model(*made.examples).shape


@pytest.mark.parametrize("axis", [PRUNING_RATIO, RANK, BITS])
def test_served_as_simulated(kind: str, axis: str) -> None:
    """Whatever is done to the layers, runtimes give the logits that PyTorch gives."""
    made = task(kind, steps=30)
    supplies, candidate = supplies_of(made), strongest(made, axis)
    assert candidate[axis] or kind == "gat"
    built = apply_candidate(made, candidate, supplies, epochs=0)
    assert len(built.quantized) == (len(candidate[BITS]) if axis == BITS else 0)
    for name in ("onnxruntime", "pytorch")[: 1 if axis == BITS else 2]:
        runtime = load(name)
        with runtime.build(runtime.convert(source_of(built, supplies)), threads=1) as engine:
            found = parity(built.model, Served(engine), supplies.calibration, tolerance=0.1 if axis == BITS else 0.01)
            assert found.difference < (0.05 if axis == BITS else 1e-4)
            assert found.agreement is not None
            assert found.agreement > 0.95
            assert node_accuracy(Served(engine), made.validation) == pytest.approx(
                node_accuracy(built.model, made.validation), abs=0.05
            )


def test_rounded_layers_compute_in_integers(kind: str) -> None:
    """Linear layers run in INT8 for all nodes; ONNX Runtime keeps one of two that are summed in float."""
    made = task(kind)
    supplies, runtime = supplies_of(made), load("onnxruntime")
    built = apply_candidate(made, strongest(made, BITS), supplies, epochs=0)
    assert built.low_precision == 1.0
    kernels = runtime.kernels(runtime.convert(source_of(built, supplies)), [x.numpy() for x in supplies.examples])
    assert sum(kernel.macs for kernel in kernels) == built.macs * len(made.examples[0])
    assert low_precision(kernels) == 1.0 if kind != "sage" else low_precision(kernels) > 0.5


def test_a_graph_keeps_its_shape_in_the_file(kind: str) -> None:
    """Nodes and edges have no batch in common: the file says how many there are of each."""
    made = task(kind)
    graph = to_onnx(made.model, made.examples).graph
    shapes = [[dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in graph.input]
    assert shapes == [list(x.shape) for x in made.examples]


def test_an_input_that_is_not_read_stays_an_input() -> None:
    """A network that keeps the edges it saw first does not read them again; its file is called as the network is."""
    made = task(cached=True)
    supplies, runtime = supplies_of(made), load("onnxruntime")
    built = apply_candidate(made, Candidate(), supplies, epochs=0)
    assert [value.name for value in onnx.load_from_string(built.onnx).graph.input] == ["input0", "input1"]
    with runtime.build(runtime.convert(source_of(built, supplies)), threads=1) as engine:
        assert parity(built.model, Served(engine), supplies.calibration, tolerance=0.01).difference < 1e-4


def test_graphs_come_one_at_a_time() -> None:
    """A batch of graphs is refused before anything is built."""
    with pytest.raises(StudyError, match=r"--batch needs inputs with one first dimension"):
        supplies_of(task(), batch=2)


def test_training_brings_accuracy_back() -> None:
    """A pruned and rounded network learns on the training nodes what pruning cost it on the others."""
    made = task(steps=60)
    axes = {PRUNING_RATIO: dict.fromkeys(GROUPS["gcn"], 0.5), BITS: strongest(made, BITS)[BITS]}
    supplies = supplies_of(made)
    built = (apply_candidate(made, Candidate(axes), supplies, epochs=epochs) for epochs in (0, 5))
    before, after = (node_accuracy(it.model, made.validation) for it in built)
    whole = node_accuracy(made.model, made.validation)
    assert whole > 0.8
    assert before <= after
    assert after > whole - 0.1


@pytest.mark.slow
def test_what_onnx_cannot_hold_is_served_by_pytorch(tmp_path: Path) -> None:
    """Where a runtime needs ONNX, the reason names the one that does not; a search on that one goes all the way."""
    data = communities()
    made = node_task(trained(Normed(), data), data, steps=4)
    with pytest.raises(InfeasibleError, match=r"does not export to ONNX.*--runtime pytorch") as caught:
        apply_candidate(made, Candidate(), supplies_of(made), epochs=0)
    assert caught.value.rung == "build"
    without = replace(supplies_of(made), onnx=False)
    built = apply_candidate(made, strongest(made, PRUNING_RATIO), without, epochs=0)
    assert built.onnx == b""
    front = search(made, "50ms", runtimes=("pytorch",), workers=0, trials=2, out=tmp_path, final_epochs=1)
    assert isinstance(front, ParetoFront)
    assert front.meets_target
    assert {path.suffix for path in tmp_path.rglob("model.*")} >= {".pt"}
    assert not list(tmp_path.rglob("canonical.onnx"))


def test_a_search_over_a_graph_of_two_thousand_nodes(tmp_path: Path) -> None:
    """From a trained network to a front: every model is narrower or rounded, and classifies the nodes of the test.

    The runtime executes the file and knows its time; the search above has real timing.
    """
    data = communities(2000)
    torch.manual_seed(0)
    made = node_task(trained(GraphNet(width=64), data, steps=40), data, steps=8)
    front = search(made, "1s", runtimes=("fake",), workers=0, trials=3, out=tmp_path, final_epochs=1)
    assert isinstance(front, ParetoFront)
    assert front.meets_target
    assert front.baseline.measurement.accuracy > 0.8
    recommended = front.recommended.measurement
    assert recommended.accuracy > 0.8
    assert recommended.test_accuracy is not None
    assert recommended.test_accuracy > 0.8
    assert recommended.parity is not None
    assert recommended.parity < 0.1
    assert (tmp_path / "pareto.csv").exists()
