"""A runtime's profile is attributed to the layers of the network."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from autocompress.profiles.layer_latency import layer_costs
from autocompress.spaces.layers import Layer, Network

NETWORK = Network(
    layers=(
        Layer(name="first", kind="linear", params=16, macs=300),
        Layer(name="second", kind="linear", params=16, macs=100),
    ),
    groups=(),
)
WEIGHTS = {"w0": "first", "w1": "second"}


def chain() -> bytes:
    """Return an ONNX file: a product, a ReLU, another product, a softmax."""
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["a"], name="product0"),
        helper.make_node("Relu", ["a"], ["b"], name="relu"),
        helper.make_node("MatMul", ["b", "w1"], ["c"], name="product1"),
        helper.make_node("Softmax", ["c"], ["y"], name="softmax"),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy")
    weights = [numpy_helper.from_array(np.ones((4, 4), dtype=np.float32), name) for name in WEIGHTS]
    model = helper.make_model(helper.make_graph(nodes, "chain", [x], [y], weights))
    return bytes(model.SerializeToString())


@given(
    st.dictionaries(st.sampled_from(["product0", "relu", "product1", "softmax"]), st.just(0.0) | st.floats(1e-6, 10.0))
)
def test_costs_sum_to_the_baseline(node_ms: dict[str, float]) -> None:
    """Whatever a profiler says, the layers and the rest take the baseline's time together, and nothing is negative."""
    costs = layer_costs(NETWORK, chain(), WEIGHTS, node_ms, 8.0)
    assert sum(costs.layer_ms.values()) + costs.other_ms == pytest.approx(8.0)
    assert min(*costs.layer_ms.values(), costs.other_ms) >= -1e-9
    assert set(costs.layer_ms) == {"first", "second"}


def test_costs_follow_the_profiler() -> None:
    """A node counts for its layer, and what comes from a layer, or bears a fused output's name, for that layer."""
    costs = layer_costs(NETWORK, chain(), WEIGHTS, {"product0": 2.0, "b_nchwc": 1.0, "product1": 1.0}, 8.0)
    assert costs.layer_ms == pytest.approx({"first": 6.0, "second": 2.0})
    assert costs.other_ms == pytest.approx(0.0)


def test_costs_are_found_behind_a_bias() -> None:
    """A fused node may bear the name of a sum whose first operand is a constant; a layer's own name is enough too."""
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["a"], name="product"),
        helper.make_node("Add", ["w1", "a"], ["y"], name="sum"),
    ]
    model = helper.make_model(helper.make_graph(nodes, "biased", [], []))
    costs = layer_costs(NETWORK, model.SerializeToString(), {"w0": "first"}, {"sum": 3.0, "second": 1.0}, 8.0)
    assert costs.layer_ms == pytest.approx({"first": 6.0, "second": 2.0})


@pytest.mark.parametrize("node_ms", [{}, {"unknown": 5.0}, {"product0": 1.0, "unknown": 5.0}, {"product0": 0.0}])
def test_costs_fall_back_to_multiply_accumulates(node_ms: dict[str, float]) -> None:
    """A profiler that says nothing, or little of what is known, is not believed."""
    costs = layer_costs(NETWORK, chain(), WEIGHTS, node_ms, 8.0)
    assert costs.layer_ms["first"] == pytest.approx(3 * costs.layer_ms["second"])
    assert costs.other_ms == pytest.approx(0.8)
