"""What is reported of a model is what its file holds, not what was asked for."""

from __future__ import annotations

import onnx
import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from autocompress.compressors.batch_norm import fold_batch_norm
from autocompress.compressors.modules import work
from autocompress.compressors.onnx_files.export import to_onnx
from autocompress.compressors.onnx_files.qdq import owners
from autocompress.compressors.onnx_files.written import in_file
from autocompress.compressors.pipeline import Compressed, apply_candidate, space_of, supplies_of
from autocompress.compressors.pruning.inspect import inspect, unstored
from autocompress.errors import InfeasibleError
from autocompress.spaces.candidate import BITS, PALETTE, SPARSITY, Candidate
from autocompress.spaces.capabilities import Capabilities
from autocompress.studies.task import Task

TAIL = (nn.AdaptiveAvgPool2d(1), nn.Flatten())
EVERYTHING = Capabilities(runtime="all", bits=(32, 8), sparsity=(0.5,), palettes=True)


def conv(inner: int, out: int, kind: type[nn.Conv2d] = nn.Conv2d) -> nn.Conv2d:
    """Return a convolution that keeps the size."""
    return kind(inner, out, 3, padding=1)


class Centred(nn.Conv2d):
    """Computes with another weight than its own."""

    def forward(self, x: Tensor) -> Tensor:
        """Convolve."""
        return functional.conv2d(x, self.weight - self.weight.mean((1, 2, 3), keepdim=True), self.bias, padding=1)


class Twice(nn.Module):
    """One convolution with two norms, neither of which can be folded into it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.head = conv(1, 8), conv(8, 8), nn.Linear(8, 3)
        self.one, self.two = nn.BatchNorm2d(8), nn.BatchNorm2d(8)
        self.two.running_mean.fill_(1.0)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores."""
        x = self.one(self.conv(self.stem(x).relu())).relu()
        return self.head(self.two(self.conv(x)).relu().mean((2, 3)))


class Unread(nn.Module):
    """A head beside the network's own, whose outputs nothing reads."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.aside, self.head = conv(1, 8), nn.Linear(8, 4), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores."""
        x = self.stem(x).relu().mean((2, 3))
        self.aside(x)
        return self.head(x)


class Tied(nn.Module):
    """Two layers with one weight and other inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two, self.head = conv(1, 8), conv(8, 8), conv(8, 8), nn.Linear(8, 3)
        self.two.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        """Return scores."""
        return self.head(self.two(3 * self.one(self.stem(x)).relu()).mean((2, 3)))


class Transposed(nn.Module):
    """A transposed convolution between layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.up, self.head = conv(1, 8), nn.ConvTranspose2d(8, 8, 2, 2), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return scores."""
        return self.head(self.up(self.stem(x).relu()).mean((2, 3)))


def after_activation(inplace: bool) -> nn.Module:
    """Return a network with a norm that is behind an activation."""
    return nn.Sequential(conv(1, 8), nn.ReLU(inplace), nn.BatchNorm2d(8), conv(8, 8), *TAIL, nn.Linear(8, 3))


NETWORKS = {
    "plain": (lambda: nn.Sequential(conv(1, 8), nn.ReLU(), conv(8, 8), *TAIL, nn.Linear(8, 3)), {"0", "2", "5"}, set()),
    "norm after": (lambda: after_activation(False), {"0", "3", "6"}, set()),
    "norm after in place": (lambda: after_activation(True), {"0", "3", "6"}, set()),
    "centred": (lambda: nn.Sequential(conv(1, 8, Centred), nn.ReLU(), conv(8, 8), *TAIL), {"2"}, {"0"}),
    "twice": (Twice, {"stem", "conv", "head"}, set()),
    "unread": (Unread, {"stem", "head"}, {"aside"}),
    "tied": (Tied, {"stem", "one", "two", "head"}, set()),
    "transposed": (Transposed, {"stem", "head"}, set()),
}


def task_of(model: nn.Module) -> Task:
    """Return a task with random data."""
    torch.manual_seed(0)
    data = [(torch.randn(8, 1, 8, 8), torch.randint(0, 3, (8,))) for _ in range(3)]
    return Task(model.eval(), data[0][0][:1], data, data)


def compressed(model: nn.Module, axes: dict[str, dict[str, float | str]]) -> Compressed:
    """Return a network with something done to it, without training."""
    task = task_of(model)
    return apply_candidate(task, Candidate(axes), supplies_of(task), epochs=0)


def on_integers(file: bytes) -> list[bool]:
    """Return for each product in a file whether it reads its weight from integers."""
    graph = onnx.load_from_string(file).graph
    makers = {name: node.op_type for node in graph.node for name in node.output}
    products = [node for node in graph.node if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul")]
    return [makers.get(node.input[1]) == "DequantizeLinear" for node in products]


@pytest.mark.parametrize("name", NETWORKS)
def test_low_precision_is_what_the_file_has(name: str) -> None:
    """Layers that have INT8 in the file are reported so, and their share is of all that the file multiplies."""
    build, layers, _ = NETWORKS[name]
    built = compressed(build(), {BITS: dict.fromkeys(sorted(layers), 8)})
    told = built.written.to_dict()
    integers = on_integers(built.onnx)
    assert {n for n, row in told.items() if row["bits"] == 8 and row["integers"]} == layers
    assert (built.low_precision == 1.0) == all(integers)
    assert sum(p.integers for p in built.written.products) == sum(integers)
    assert built.macs == sum(work(built.plain, (torch.randn(1, 1, 8, 8),)).values()) - (32 if name == "unread" else 0)


@pytest.mark.parametrize("name", [name for name, (_, _, missing) in NETWORKS.items() if missing])
def test_a_layer_that_the_file_has_not_is_never_dropped_silently(name: str) -> None:
    """It is left alone with the reason and not offered; where it is asked for all the same, that is infeasible."""
    build, _, missing = NETWORKS[name]
    model = build().eval()
    examples = (torch.randn(1, 1, 8, 8),)
    plain = fold_batch_norm(model, examples)
    network = unstored(inspect(model, examples), set(owners(to_onnx(plain, examples), plain).values()))
    assert missing <= {n for n, why in network.left_alone if "multiplies by no such weight" in why}
    space = space_of(network, EVERYTHING)
    for axis in (BITS, PALETTE, SPARSITY):
        offered = {choice.target for choice in space.on(axis)}
        assert offered
        assert not missing & offered
    with pytest.raises(InfeasibleError, match=r"multiplies by no such weight|in a way of its own"):
        compressed(build(), {BITS: dict.fromkeys(sorted(missing), 8)})


@pytest.mark.parametrize(
    ("axis", "level", "row"),
    [
        (PALETTE, 3, {"distinct": 8, "bits": 32}),
        (SPARSITY, 0.5, {"zeros": 0.5, "bits": 32}),
        (SPARSITY, "2:4", {"two_four": True, "zeros": 0.5}),
        (BITS, 4, {"bits": 4, "integers": False}),
    ],
)
def test_how_weights_are_stored_is_read_from_the_file(axis: str, level: float | str, row: dict[str, object]) -> None:
    """Palettes, zeros, patterns and INT4 are there in the weights that were written."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 3))
    told = compressed(model, {axis: {"1": level}}).written.to_dict()
    assert row.items() <= told["1"].items()
    assert told["3"]["bits"] == 32
    assert not told["3"]["integers"]


@pytest.mark.parametrize(("axis", "level"), [(PALETTE, 2), (SPARSITY, 0.75), (SPARSITY, "2:4")])
def test_a_wish_of_which_nothing_is_in_the_file_is_infeasible(axis: str, level: float | str) -> None:
    """A model that would be another one's under a name of its own is none."""
    model = nn.Sequential(conv(1, 8), nn.ReLU(), conv(8, 8, Centred), *TAIL, nn.Linear(8, 3))
    with pytest.raises(InfeasibleError, match=f"nothing of the {axis} chosen is in the file"):
        compressed(model, {axis: {"2": level}})


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "shufflenet_v2_x0_5", "vit_b_16"])
def test_a_file_computes_what_the_network_does(name: str) -> None:
    """The multiply-accumulates of a file are those of the network, counted without it."""
    sizes = {"image_size": 32, "num_layers": 2} if name == "vit_b_16" else {}
    if sizes:
        arguments = {"patch_size": 16, "num_heads": 2, "hidden_dim": 32, "mlp_dim": 64, "num_classes": 3, **sizes}
        model: nn.Module = torchvision.models.VisionTransformer(**arguments).eval()
    else:
        model = getattr(torchvision.models, name)(num_classes=3).eval()
    examples = (torch.randn(2, 3, 32, 32),)
    assert in_file(to_onnx(model, examples), {}, examples).macs == sum(work(model, examples).values())
