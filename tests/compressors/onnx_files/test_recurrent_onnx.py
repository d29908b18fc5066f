"""Recurrent layers in ONNX files: integers that any runtime serves, and nodes of ONNX Runtime's own."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn

from autocompress.compressors.onnx_files.export import to_onnx
from autocompress.compressors.onnx_files.recurrent import dynamic
from autocompress.compressors.onnx_files.recurrent_layers import insert, layers_of
from autocompress.compressors.quantization.recurrent import QuantizedRecurrent
from autocompress.errors import InfeasibleError

SEQUENCES = torch.randn(3, 7, 5, generator=torch.Generator().manual_seed(3))


class Two(nn.Module):
    """An LSTM of two levels and both directions, and a GRU after it."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.LSTM(5, 6, 2, bidirectional=True, batch_first=True)
        self.other = nn.GRU(12, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map sequences (N, steps, 5) to (N, steps, 4)."""
        out: Tensor = self.other(self.one(x)[0])[0]
        return out


def served(file: bytes) -> NDArray[np.float32]:
    """Return what ONNX Runtime computes of the sequences."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    outputs: NDArray[np.float32] = session.run(None, {"input": SEQUENCES.numpy()})[0]
    return outputs


def test_every_weight_has_its_layer() -> None:
    """Input and recurrent weights of each level and direction are found, whatever the exporter calls them."""
    model = Two().eval()
    graph = to_onnx(model, (SEQUENCES[:1],))
    assert sorted(layers_of(graph, model).values()) == ["one"] * 4 + ["other"] * 2


@pytest.mark.parametrize("names", [{"one"}, {"other"}, {"one", "other"}], ids=["lstm", "gru", "both"])
def test_the_file_computes_on_the_weights_of_the_simulation(names: set[str]) -> None:
    """The canonical file gives what rounded layers give in PyTorch, and holds one byte a weight of theirs."""
    model = Two().eval()
    graph = to_onnx(model, (SEQUENCES[:1],))
    rounded = insert(graph, model, names)
    for name in names:
        setattr(model, name, QuantizedRecurrent(getattr(model, name), 8))
    np.testing.assert_allclose(served(rounded.SerializeToString()), model(SEQUENCES).detach(), rtol=1e-4, atol=1e-5)
    weights = sum(p.numel() for name in names for p in getattr(model, name).parameters() if p.dim() > 1)
    constants = [numpy_helper.to_array(constant) for constant in rounded.graph.initializer]
    assert sum(c.size for c in constants if c.dtype == np.int8 and c.ndim == 2) == weights


@settings(max_examples=15, deadline=None)
@given(hidden=st.integers(1, 9), inputs=st.integers(1, 9), levels=st.integers(1, 2), both=st.booleans())
def test_the_kernel_stays_near_the_float_layer(hidden: int, inputs: int, levels: int, both: bool) -> None:
    """An LSTM of any size becomes kernels that compute in integers, and is a few steps of rounding away."""
    torch.manual_seed(hidden * 10 + inputs)
    model = Tuple(nn.LSTM(inputs, hidden, levels, bidirectional=both, batch_first=True)).eval()
    x = torch.randn(2, 6, inputs)
    graph = to_onnx(model, (x[:1],))
    file = dynamic(insert(graph, model, {"layer"}).SerializeToString())
    kinds = [node.op_type for node in onnx.load_from_string(file).graph.node]
    assert kinds.count("DynamicQuantizeLSTM") == levels
    assert not {"LSTM", "DequantizeLinear"}.intersection(kinds)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"input": x.numpy()})[0], model(x).detach(), rtol=0, atol=0.05)


class Tuple(nn.Module):
    """A recurrent layer, of which the outputs alone are handed on."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs of all steps."""
        out: Tensor = self.layer(x)[0]
        return out


def test_a_gru_is_made_of_what_is_computed_once() -> None:
    """Its integers become floats by operations that ONNX Runtime folds when it loads, with the same outputs."""
    model = Two().eval()
    canonical = insert(to_onnx(model, (SEQUENCES[:1],)), model, {"other"}).SerializeToString()
    file = dynamic(canonical)
    kinds = {node.op_type for node in onnx.load_from_string(file).graph.node}
    assert {"GRU", "LSTM", "Cast", "Mul"} <= kinds
    assert "DequantizeLinear" not in kinds
    np.testing.assert_allclose(served(file), served(canonical), rtol=1e-5, atol=1e-6)


def test_files_without_recurrent_layers_stay() -> None:
    """Nothing is rewritten where nothing was rounded."""
    model = Two().eval()
    graph = to_onnx(model, (SEQUENCES[:1],))
    assert insert(graph, model, set()) is graph
    assert dynamic(graph.SerializeToString()) == graph.SerializeToString()


def test_a_layer_that_the_file_lacks_is_infeasible() -> None:
    """A file that holds another network's weights cannot be rounded like this one."""
    graph = to_onnx(Two().eval(), (SEQUENCES[:1],))
    with pytest.raises(InfeasibleError, match="no LSTM or GRU with the weights of 'one'") as caught:
        insert(graph, Two().eval(), {"one"})
    assert caught.value.rung == "build"
