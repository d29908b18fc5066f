"""Networks whose forward turns the batch into a number of Python: their files compute the same for any batch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from autocompress.compressors.onnx_files.export import exported, to_onnx
from autocompress.compressors.onnx_files.tensor_ranges import spans
from autocompress.compressors.pipeline import apply_candidate, supplies_of
from autocompress.compressors.technique import Way
from autocompress.evaluators.ladder.engines import Engines
from autocompress.evaluators.ladder.served import Served, checked
from autocompress.evaluators.runtime import Runtime
from autocompress.evaluators.runtimes import load
from autocompress.spaces.candidate import BITS, Candidate
from autocompress.studies.task import Task


class Flattened(nn.Module):
    """Flattens by the length of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores."""
        return self.layer(x.reshape(len(x), -1))


class Initial(nn.Module):
    """Begins with a state for as many sequences as there are."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent, self.layer = nn.GRU(4, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores."""
        return self.layer(self.recurrent(x, torch.zeros(1, len(x), 8))[0][:, -1])


class Token(nn.Module):
    """Puts a token before each sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.token = nn.Linear(4, 3), nn.Parameter(torch.randn(1, 1, 4))

    def forward(self, x: Tensor) -> Tensor:
        """Return scores."""
        batch = int(x.shape[0])
        return self.layer(torch.cat([self.token.expand(batch, -1, -1), x], 1)[:, 0] + x.mean(1))


class OneByOne(nn.Module):
    """Goes through the batch in a loop."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores."""
        return torch.stack([self.layer(one).mean(0) for one in x])


class Divided(nn.Module):
    """Scales by the batch and back again, so that shapes tell nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores."""
        x = x.flatten(1)
        return self.layer(x * float(len(x)) / (x.sum() * 0 + x.new_ones(x.shape[0]).sum()))


class Free(nn.Module):
    """Keeps the batch a dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores."""
        return self.layer(x.reshape(x.shape[0], -1))


NETWORKS = {each.__name__: each for each in (Flattened, Initial, Token, OneByOne, Divided, Free)}
BAKED = {"Flattened", "Token", "OneByOne", "Divided"}


def task_of(name: str, batch: int = 1) -> Task:
    """Return a task whose batches have another size than its example."""
    torch.manual_seed(0)
    data = [(torch.randn(5, 2, 4), torch.randint(0, 3, (5,))) for _ in range(3)]
    return Task(NETWORKS[name]().eval(), torch.randn(batch, 2, 4), data, data)


@pytest.fixture(scope="module")
def runtime() -> Runtime:
    """Return ONNX Runtime."""
    return load("onnxruntime")


@pytest.mark.parametrize(("name", "batch"), [*((name, 1) for name in NETWORKS), ("Initial", 2)])
def test_a_file_serves_batches_of_any_size(name: str, batch: int, runtime: Runtime) -> None:
    """What is served gives what PyTorch gives, at the example's batch and at others, in float and in INT8.

    Where the file takes one size alone, a note has that size, the line of the network's code, and the way out.
    """
    task = task_of(name, batch)
    made = exported(task.model, task.examples)
    layers = [n for n, m in task.model.named_modules() if isinstance(m, nn.Linear)]
    supplies = replace(supplies_of(task), way=made.way)
    baked = name in BAKED or batch > 1  # zeros for one example are added to all
    assert supplies.piece == (batch if baked else None)
    assert bool(made.note) == baked
    for part in (f"takes batches of {batch} alone", "test_export_batch.py:", "at a time", "x.flatten(1)"):
        assert part in made.note or not baked
    data = torch.cat([x for x, _ in task.train])
    for bits in (32, 8):
        built = apply_candidate(task, Candidate({BITS: dict.fromkeys(layers, bits)}), supplies, epochs=0)
        with Engines() as engines:
            artefact, parity = checked(built, runtime, supplies, engines, quantized=bits == 8)
        assert parity.difference < 0.02
        with runtime.build(artefact, threads=1) as engine, torch.no_grad():
            for size in (1, batch, 7):
                x = data[:size]
                given = Served(engine, supplies.piece)(x)
                assert given.shape == (size, 3)
                assert float((given - task.model(x)).abs().max()) < (0.1 if bits == 8 else 1e-5)


def test_a_batch_that_the_network_itself_does_not_take_is_fixed() -> None:
    """A network of one batch has a file of that batch."""
    made = exported(nn.Sequential(nn.Unflatten(1, (2, 4)), Two()).eval(), (torch.randn(2, 8),))
    assert made.way.fixed
    assert "takes batches of 2 alone" in made.note
    assert "2 examples at a time" in made.note


class Two(nn.Module):
    """Takes two examples."""

    def forward(self, x: Tensor) -> Tensor:
        """Return them flat."""
        return x.reshape(2, 8)


def test_ranges_are_found_in_pieces() -> None:
    """The ranges of a file with one batch are those of all examples of larger ones."""
    x = torch.randn(7, 2, 4)
    graph = to_onnx(Flattened().eval(), (x[:2],), Way(fixed=True))
    names = [node.output[0] for node in graph.graph.node][:1]
    found = spans(graph, names, [[x.numpy()]])
    assert found[names[0]] == pytest.approx((float(x.min()), float(x.max())))


def test_a_branch_that_the_exporter_decides_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    """The note has the line of the network's code and the way out; where an exporter fails, nothing is printed."""

    class Branch(nn.Module):
        def __init__(self, *, transformed: bool) -> None:
            super().__init__()
            self.head, self.transformed = nn.Linear(8, 3), transformed

        def forward(self, x: Tensor) -> Tensor:
            if self.transformed:
                x = torch.fft.fft(x).abs()
            elif x.mean() > 0:
                x = x * 2
            return self.head(x)

    told = exported(Branch(transformed=False).eval(), (torch.ones(1, 8),)).note
    assert "test_export_batch.py:" in told
    assert "torch.where" in told
    capfd.readouterr()
    assert exported(Branch(transformed=True).eval(), (torch.ones(1, 8),)).way.traced
    assert "graph(" not in "".join(capfd.readouterr())
