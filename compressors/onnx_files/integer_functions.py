"""Lets ONNX Runtime compute activation functions and gates between quantized convolutions on integers.

SiLU, hard-swish and squeeze-excite are sigmoids, products and a pooling. In float they cost more than the convolutions
in INT8 around them: each tensor is restored, changed and rounded again. ONNX Runtime has integer kernels for them, and
takes them where there is a Q/DQ pair on each side. Hard-sigmoid has none; but a sum on integers saturates as it does,
if the steps of its input are scaled by its slope, its offset is added, and the range ends at 0 and 1.

This module imports no torch: runtimes use it in processes that only measure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

from .tensor_ranges import MOVES, Batches, spans

GATES = {"Sigmoid", "HardSigmoid"}
"""Operators whose outputs lie between 0 and 1."""

ON_INTEGERS = {*GATES, "HardSwish", "Mul", "GlobalAveragePool", "Add", "Concat", "Flatten", "Reshape"}
"""Operators that have an integer form, if all that they read are activations."""

NOTHING_BELOW = {"Sigmoid": -8.0, "HardSigmoid": -3.0, "HardSwish": -3.0}
"""The input of a function from which on downwards the product of both is about 0."""

LEVELS = 255
"""Steps of UINT8."""

DQ = "DequantizeLinear"

Grid = tuple[NDArray[np.float32], NDArray[np.uint8]]
"""Scale and zero point of a tensor."""


def integer_functions(unsigned: bytes, calibration: Batches) -> bytes:
    """Return the file with Q/DQ pairs around the functions that lie between quantized convolutions and quantizers.

    Args:
        unsigned: what `onnxruntime_layout.unsigned_activations` made.
        calibration: batches of inputs, from which the ranges are taken that the file does not have; without any the
            file stays.

    """
    graph, seen = _Graph(onnx.load_from_string(unsigned)), list(calibration)
    chosen = graph.between() if seen else []
    return graph.written(chosen, graph.grids(chosen, seen)) if chosen else unsigned


class _Graph:
    """A Q/DQ graph with its nodes by what they make and read."""

    def __init__(self, proto: ModelProto) -> None:
        self.proto = proto
        self.nodes = list(proto.graph.node)
        self.constants = {i.name: numpy_helper.to_array(i) for i in proto.graph.initializer}
        self.makers = {name: node for node in self.nodes for name in node.output}
        self.quantizers = {node.input[0]: node for node in self.nodes if node.op_type == "QuantizeLinear"}
        self.readers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for name in node.input:
                self.readers[name].append(node)

    def between(self) -> list[NodeProto]:
        """Return the functions of what quantized convolutions made that quantizers read, at last."""
        held: set[str] = set()
        found = []
        for node in self.nodes:
            read = self._activations(node)
            if node.op_type in ON_INTEGERS and read and held.issuperset(read):
                found.append(node)
            elif not self._made_of_integers(node) and not (node.op_type in {"Relu", "Clip"} and node.input[0] in held):
                continue
            held.update(node.output)
        while True:
            kept = {node.output[0] for node in found}
            left = [node for node in found if self._ends_rounded(node.output[0], kept)]
            if len(left) == len(found):
                return found if any(node.op_type not in MOVES for node in found) else []
            found = left

    def _made_of_integers(self, node: NodeProto) -> bool:
        kinds = [self.makers[name].op_type if name in self.makers else "" for name in node.input[:2]]
        if node.op_type == "Conv":
            return kinds == [DQ] * 2
        return node.op_type == DQ and kinds[0] == "QuantizeLinear"

    def _activations(self, node: NodeProto) -> list[str]:
        return list(node.input[:1] if node.op_type in MOVES else node.input)

    def _ends_rounded(self, name: str, kept: Collection[str]) -> bool:
        """Return whether a tensor is read, and only by quantizers and by nodes whose output is kept."""
        readers = self.readers[name]
        outputs = {output.name for output in self.proto.graph.output}
        rounded = (node.op_type == "QuantizeLinear" or node.output[0] in kept for node in readers)
        return bool(readers) and name not in outputs and all(rounded)

    def grids(self, chosen: Collection[NodeProto], calibration: Batches) -> dict[str, Grid]:
        """Return the scale and zero point of each tensor that has none and is read or made by the chosen nodes."""
        names = {name for node in chosen for name in (*self._activations(node), *node.output)}
        names -= self.quantizers.keys()
        names -= {name for name in names if self.makers[name].op_type == DQ}
        gates = {name for name in names if self.makers[name].op_type in GATES}
        seen = spans(self.proto, names - gates, calibration)
        found = {name: _grid(max(seen[name][0], self._least(name)), seen[name][1]) for name in names - gates}
        found |= dict.fromkeys(gates, _grid(0.0, 1.0))
        for node in reversed(self.nodes):  # what only moves numbers moves them as they are
            if node in chosen and node.op_type in MOVES and node.input[0] in found:
                after = self.quantizers.get(node.output[0])
                if after is not None:
                    found[node.input[0]] = self.constants[after.input[1]], self.constants[after.input[2]]
                else:
                    found[node.input[0]] = found.get(node.output[0], found[node.input[0]])
        return found

    def _least(self, name: str) -> float:
        """Return the value below which a tensor counts for nothing, as only a function and its product read it."""
        functions = [node for node in self.readers[name] if node.op_type in NOTHING_BELOW]
        gates = {node.output[0] for node in functions}
        for node in self.readers[name]:
            if node not in functions and not (node.op_type == "Mul" and gates.intersection(node.input)):
                return -np.inf
        return min((NOTHING_BELOW[node.op_type] for node in functions), default=-np.inf)

    def written(self, chosen: Collection[NodeProto], grids: Mapping[str, Grid]) -> bytes:
        """Return the file with the chosen nodes on integers."""
        after: dict[str, list[NodeProto]] = defaultdict(list)  # by the tensor that they follow
        for name, (step, zero) in grids.items():
            inputs = [name, self._constant(f"{name}_step", step), self._constant(f"{name}_least", zero)]
            self.quantizers[name] = helper.make_node("QuantizeLinear", inputs, [f"{name}_made"])
            after[name].append(self.quantizers[name])
        restored = {name for node in chosen for name in self._activations(node)} & self.quantizers.keys()
        for name in sorted(restored):
            quantizer = self.quantizers[name]
            again = helper.make_node(DQ, [quantizer.output[0], *quantizer.input[1:]], [f"{name}_read"])
            self.makers[again.output[0]] = again
            after[quantizer.output[0]].append(again)
        instead = {}
        for node in chosen:
            node.input[:] = [f"{name}_read" if name in restored else name for name in node.input]
            instead[node.output[0]] = list(self._on_integers(node))
        nodes: list[NodeProto] = []
        waiting = self.nodes[::-1]
        while waiting:
            node = waiting.pop()
            written = instead.pop(node.output[0], [node])
            nodes += written
            waiting += (new for name in written[-1].output for new in reversed(after.pop(name, [])))
        read = {name for node in nodes for name in node.input}
        copies = [NodeProto.FromString(n.SerializeToString()) for n in nodes if n.op_type != DQ or n.output[0] in read]
        del self.proto.graph.node[:]
        self.proto.graph.node.extend(copies)
        onnx.checker.check_model(self.proto)
        return bytes(self.proto.SerializeToString())

    def _on_integers(self, node: NodeProto) -> Iterator[NodeProto]:
        """Yield what takes the place of a node that reads restored integers: itself, or its hard-sigmoid as a sum."""
        if node.op_type not in {"HardSigmoid", "HardSwish"}:
            yield node
            return
        hard = {"alpha": 1 / 6, "beta": 0.5} if node.op_type == "HardSwish" else {"alpha": 0.2, "beta": 0.5}
        hard |= {attribute.name: attribute.f for attribute in node.attribute}
        (read,), (made,) = node.input, node.output
        gate = f"{made}_gate" if node.op_type == "HardSwish" else made
        integers, step, zero = self.makers[read].input
        slope = self._constant(f"{gate}_slope", np.float32(self.constants[step] * hard["alpha"]))
        one, none = self._constant(f"{gate}_one", np.uint8(1)), self._constant(f"{gate}_none", np.uint8(0))
        offset = self._constant(f"{gate}_beta", np.float32(hard["beta"]))
        yield helper.make_node(DQ, [integers, slope, zero], [f"{gate}_sloped"])
        yield helper.make_node(DQ, [one, offset, none], [f"{gate}_offset"])
        yield helper.make_node("Add", [f"{gate}_sloped", f"{gate}_offset"], [gate], node.name)
        if node.op_type == "HardSwish":
            grid = [self._constant(f"{gate}_step", np.float32(1 / LEVELS)), none]
            yield helper.make_node("QuantizeLinear", [gate, *grid], [f"{gate}_made"])
            yield helper.make_node(DQ, [f"{gate}_made", *grid], [f"{gate}_read"])
            yield helper.make_node("Mul", [read, f"{gate}_read"], [made])

    def _constant(self, name: str, value: NDArray[np.generic] | np.generic) -> str:
        self.constants[name] = np.asarray(value)
        self.proto.graph.initializer.append(numpy_helper.from_array(self.constants[name], name))
        return name


def _grid(low: float, high: float) -> Grid:
    """Return the UINT8 scale and zero point for a range, widened so that 0 is in it."""
    low, high = min(low, 0.0), max(high, 0.0)
    step = max(high - low, 1e-8) / LEVELS
    return np.array(step, np.float32), np.array(round(-low / step), np.uint8)
