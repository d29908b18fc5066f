"""What activation functions cost, beside layers in INT8, and what they hide."""

from __future__ import annotations

from dataclasses import replace

import onnx
import pytest
from torch import nn

from autocompress.profiles.level_filter import levels_without_speedup
from autocompress.profiles.profiler import confirmed_drops
from autocompress.spaces.candidate import ACTIVATION, BITS, Candidate
from autocompress.studies.residual import ResidualNet

from .test_profiler import Priced, Weighed, costs_of, residual

pytestmark = pytest.mark.usefixtures("one_thread")


class Fusing(Weighed):
    """A runtime in which a SiLU costs 10 ms between layers in INT8, and nothing in float."""

    def prices(self, artefact: bytes) -> dict[str, float]:
        """Return the milliseconds of each node that multiplies, and of each sigmoid."""
        nodes = onnx.load_from_string(artefact).graph.node
        cost = 10.0 * any(node.op_type == "DequantizeLinear" for node in nodes)
        return super().prices(artefact) | {node.name: cost for node in nodes if node.op_type == "Sigmoid"}


def test_cheaper_functions_are_timed_beside_int8() -> None:
    """A function that a runtime fuses in float, and not on integers, is offered for what it costs on integers."""
    model = ResidualNet((32, 32), (1, 1), classes=2).eval()
    model.stages[1][0].relu1 = nn.SiLU()  # type: ignore[index, union-attr]
    task = replace(residual(32, 8), model=model)
    prober, space, costs = costs_of(task, Fusing())
    (choice,) = space.on(ACTIVATION)
    timed, *_ = (each for each in prober.timed if each[ACTIVATION])
    assert choice.levels == ("keep", "hard", "relu")
    assert timed[BITS].keys() == {each.target for each in space.on(BITS)}
    assert costs.uniform_ms[BITS]["8"] - costs.uniform_ms[ACTIVATION]["relu"] == pytest.approx(10.0)
    both = Candidate({BITS: timed[BITS], ACTIVATION: {"stages": "relu"}})
    assert costs.predict_ms(prober.network, both) == pytest.approx(costs.uniform_ms[ACTIVATION]["relu"])


class Unfused(Priced):
    """A runtime in which a SiLU costs 10 ms after a convolution in INT8, and nothing in float."""

    def prices(self, artefact: bytes) -> dict[str, float]:
        """Return the milliseconds of each node that multiplies, and of each sigmoid."""
        nodes = onnx.load_from_string(artefact).graph.node
        stored = {node.output[0] for node in nodes if node.op_type == "DequantizeLinear"}
        integer = {node.output[0] for node in nodes if node.op_type == "Conv" and node.input[1] in stored}
        functions = {n.name: 10.0 * (n.input[0] in integer) for n in nodes if n.op_type == "Sigmoid"}
        return super().prices(artefact) | functions


def test_int8_is_offered_where_only_a_function_makes_it_slow() -> None:
    """A layer that loses by INT8 for the function after it keeps the level, as it gains without the function."""
    model = ResidualNet((32, 32), (1, 1), classes=2).eval()
    model.stages[1][0].relu1 = nn.SiLU()  # type: ignore[index, union-attr]
    prober, space, costs = costs_of(replace(residual(32, 8), model=model), Unfused())
    losing = levels_without_speedup(space, costs, prober.network)
    assert "bits:stages.1.0.conv1" in {each.name for each in losing}
    assert not [each for each in confirmed_drops(prober, space, costs, losing) if each.level == 8]
