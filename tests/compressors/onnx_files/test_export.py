"""Export of float networks to ONNX."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from autocompress.compressors.batch_norm import fold_batch_norm
from autocompress.compressors.onnx_files.export import to_onnx
from autocompress.errors import InfeasibleError
from autocompress.studies.residual import ResidualNet


class TwoInputs(nn.Module):
    """A network that reads two tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(3, 4), nn.Linear(2, 4)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Map (N, 3) and (N, 2) to (N, 4)."""
        out: Tensor = (self.left(x) + self.right(y)).relu()
        return out


class Unknown(nn.Module):
    """A network with an operator that ONNX has not."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Map matrices (N, 4, 4) to their singular values (N, 4)."""
        return torch.linalg.svdvals(self.layer(x))


NETWORKS = {
    "residual": (ResidualNet((4, 8), (1, 1)), (torch.randn(1, 1, 8, 8),)),
    "clipped": (
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU6(), nn.Flatten(), nn.Linear(144, 3)),
        (torch.randn(1, 1, 8, 8),),
    ),
    "batch of four": (nn.Sequential(nn.Linear(3, 4), nn.GELU()), (torch.randn(4, 3),)),
    "two inputs": (TwoInputs(), (torch.randn(1, 3), torch.randn(1, 2))),
    "channels last": (
        nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU()).to(memory_format=torch.channels_last),
        (torch.randn(1, 2, 8, 8),),
    ),
}


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize(("model", "examples"), NETWORKS.values(), ids=NETWORKS)
def test_file_computes_what_the_network_does_for_any_batch(
    model: nn.Module, examples: tuple[Tensor, ...], batch: int
) -> None:
    """The batch dimension is free, and outputs agree."""
    file = to_onnx(model, examples)
    inputs = [torch.randn(batch, *example.shape[1:]) for example in examples]
    session = onnxruntime.InferenceSession(file.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {node.name: x.numpy() for node, x in zip(session.get_inputs(), inputs, strict=True)}
    (actual,) = session.run(None, feeds)
    with torch.no_grad():
        expected = model.eval()(*inputs).numpy()
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("model", "examples"), NETWORKS.values(), ids=NETWORKS)
def test_constants_are_initializers(model: nn.Module, examples: tuple[Tensor, ...]) -> None:
    """A graph has one kind of constant, and layers without batch norms keep the names of their weights."""
    graph = to_onnx(fold_batch_norm(model, examples), examples).graph
    assert not [node for node in graph.node if node.op_type == "Constant"]
    weights = {f"{name}.weight" for name, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    read = {name for node in graph.node for name in node.input}
    constants = {constant.name for constant in graph.initializer}
    assert weights <= constants <= read


def test_exported_file_is_valid() -> None:
    """The checker of ONNX accepts the file."""
    file = to_onnx(*NETWORKS["residual"])
    onnx.checker.check_model(onnx.load_from_string(file.SerializeToString()), full_check=True)


@pytest.mark.parametrize("training", [True, False])
def test_export_leaves_the_network_as_it_was(training: bool) -> None:
    """Mode, weights and memory layout of the given network stay."""
    model, examples = nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)), (torch.randn(1, 2, 8, 8),)
    model.to(memory_format=torch.channels_last).train(training)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    to_onnx(model, examples)
    assert [module.training for module in model.modules()] == [training] * 3
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)


def test_network_that_does_not_export_is_infeasible() -> None:
    """The reasons of both exporters are reported in one line without colours."""
    with pytest.raises(InfeasibleError, match=r"does not export to ONNX: .*svdvals") as caught:
        to_onnx(Unknown(), (torch.randn(1, 4, 4),))
    assert caught.value.rung == "build"
    assert caught.value.reason.isprintable()
