"""What a network's file holds: its MACs, the number format of each, and how weights are stored.

All of it is read from the ONNX graph that was written, so that a wish which came to nothing shows. Where there is no
such file, it is read from the network itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, TensorProto, numpy_helper, shape_inference
from torch import nn

from ...spaces.candidate import PALETTE, SPARSITY, Candidate, Value
from ..initializers import branches, made
from ..modules import Inputs, work
from ..quantization.quantize import FLOAT
from .number_formats import is_two_four
from .tensor_ranges import values

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]

BITS = {TensorProto.INT8: 8, TensorProto.UINT8: 8, TensorProto.INT4: 4, TensorProto.UINT4: 4, TensorProto.FLOAT16: 16}
"""Bits of a stored number, by its type; all others are `FLOAT`."""

KEPT = {"DequantizeLinear", "Reshape", "Transpose", "Identity", "Cast", "Squeeze", "Unsqueeze"}
"""Operators that may lie between a stored weight and what multiplies by it, and change none of its numbers."""

RECURRENT = {"LSTM": 4, "GRU": 3, "RNN": 1}
"""Operators of recurrent layers, with the number of their gates."""

LARGEST_PALETTE = 256
"""The most numbers of a palette."""

SMALL = 1024
"""Numbers of a constant from which on its values say nothing of shapes."""


@dataclass(frozen=True, kw_only=True)
class StoredWeight:
    """A weight as stored in the file.

    Attributes:
        bits: of one number.
        count: how many there are.
        zeros: how many of them are zero.
        distinct: how many different ones there are; None for more than a palette has.
        two_four: whether of every four side by side along its inputs two are zero.

    """

    bits: int
    count: int
    zeros: int
    distinct: int | None
    two_four: bool = False

    @classmethod
    def of(cls, weight: NDArray[np.generic], bits: int = FLOAT, axis: int = 1) -> StoredWeight:
        """Describe a weight whose products are summed over an axis."""
        numbers = weight.astype(np.float32) if bits < 8 else weight  # INT4 has no order of its own in NumPy
        sparse = weight.ndim > axis and is_two_four(numbers, axis)
        zeros = int((numbers == 0).sum())
        return cls(bits=bits, count=weight.size, zeros=zeros, distinct=_distinct(numbers), two_four=sparse)


def _distinct(weight: NDArray[np.generic]) -> int | None:
    """Return how many distinct values there are; a sample is enough to see that there are too many."""
    for part in (weight.reshape(-1)[: 16 * LARGEST_PALETTE], weight):
        found = len(np.unique(part))
        if found > LARGEST_PALETTE:
            return None
    return found


@dataclass(frozen=True, kw_only=True)
class Product:
    """One operation that multiplies and accumulates.

    Attributes:
        kind: its operator.
        layer: the layer that it computes; empty where it is none's.
        macs: multiply-accumulates of one example.
        integers: whether it computes on integers.
        weight: what it multiplies with; None for activations, and for what is computed in each run.

    """

    kind: str
    layer: str
    macs: int
    integers: bool = False
    weight: StoredWeight | None = None


@dataclass(frozen=True, kw_only=True)
class Written:
    """All products in a file."""

    products: tuple[Product, ...]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one example."""
        return sum(product.macs for product in self.products)

    @property
    def low_precision(self) -> float:
        """The share of multiply-accumulates on integers."""
        macs = self.macs
        return sum(product.macs for product in self.products if product.integers) / macs if macs else 0.0

    def of(self, layer: str) -> tuple[Product, ...]:
        """Return the products of a layer, or of the layers that replace it."""
        return tuple(p for p in self.products if p.layer == layer or p.layer.startswith(f"{layer}."))

    def to_dict(self) -> dict[str, dict[str, object]]:
        """Return each layer's multiply-accumulates and weight storage, as JSON-compatible data."""
        found: dict[str, dict[str, object]] = {}
        for layer in dict.fromkeys(product.layer for product in self.products if product.layer):
            products = [product for product in self.products if product.layer == layer]
            stored = [product.weight for product in products if product.weight is not None]
            distinct = max((w.distinct or math.inf for w in stored), default=math.inf)
            found[layer] = {
                "macs": sum(product.macs for product in products),
                "integers": all(product.integers for product in products),
                "bits": max((weight.bits for weight in stored), default=FLOAT),
                "zeros": sum(w.zeros for w in stored) / max(1, sum(w.count for w in stored)),
                "distinct": distinct if math.isfinite(distinct) else None,
                "two_four": bool(stored) and all(weight.two_four for weight in stored),
            }
        return found


def in_file(proto: onnx.ModelProto, layers: Mapping[str, str], examples: Inputs) -> Written:
    """Read the products of a graph.

    Args:
        proto: the canonical graph.
        layers: for what a node makes the layer that it computes; see `qdq.owners`.
        examples: inputs, batch first.

    """
    reader = _Reader(proto, layers, examples)
    batch = max(1, len(examples[0]))
    return Written(products=tuple(replace(p, macs=p.macs // batch) for p in reader.products(proto.graph)))


def in_network(model: nn.Module, examples: Inputs) -> Written:
    """Read the products of a float network that has no ONNX file."""
    products = []
    for name, macs in work(model, examples).items():
        module = model.get_submodule(name)
        weight = module._parameters.get("weight")
        stored = None if weight is None or not macs else StoredWeight.of(weight.detach().cpu().numpy())
        if macs:
            products.append(Product(kind=type(module).__name__, layer=name, macs=macs, weight=stored))
    return Written(products=tuple(products))


def lacks(written: Written, candidate: Candidate) -> str:
    """Return an axis that a candidate chose but the file lacks; empty if the file has all of them."""
    for axis, holds in ((SPARSITY, _has_zeros), (PALETTE, _has_a_palette)):
        asked = {name: level for name, level in candidate[axis].items() if level not in (0, FLOAT)}
        weights = [(p.weight, level) for name, level in asked.items() for p in written.of(name)]
        if asked and not any(weight is not None and holds(weight, level) for weight, level in weights):
            return axis
    return ""


def _has_zeros(weight: StoredWeight, level: Value) -> bool:
    if isinstance(level, str):
        return weight.two_four
    return weight.zeros >= math.floor(float(level) * weight.count)


def _has_a_palette(weight: StoredWeight, level: Value) -> bool:
    """Whether a weight has few distinct values; integers have few anyway."""
    return weight.bits <= 8 or (weight.distinct is not None and weight.distinct <= 2 ** int(level))


class _Reader:
    """Finds the products of a graph and its subgraphs."""

    def __init__(self, proto: onnx.ModelProto, layers: Mapping[str, str], examples: Inputs) -> None:
        self.layers = layers
        self.constants = {c.name: c for graph in _graphs(proto.graph) for c in graph.initializer}
        self.makers = {name: n for graph in _graphs(proto.graph) for n in graph.node for name in n.output}
        self.stored: dict[tuple[str, int], StoredWeight] = {}
        self.shapes = {name: tuple(constant.dims) for name, constant in self.constants.items()}
        self.shapes |= _inferred(proto, examples)
        counted = [node for node in proto.graph.node if node.op_type in COUNTED]
        wanted = {name for node in counted for name in (*node.input[:3], made(node))}
        missing = {name for name in wanted if name and name not in self.shapes}
        if missing:
            self.shapes |= _measured(proto, missing, examples)

    def products(self, graph: GraphProto) -> Iterator[Product]:
        """Yield the products of a graph; for a conditional, those of the largest branch."""
        for node in graph.node:
            inner = [list(self.products(each)) for each in branches(node)]
            if inner:
                yield from max(inner, key=lambda products: sum(product.macs for product in products))
            macs = COUNTED.get(node.op_type)
            if macs is not None:
                yield self._product(node, macs)

    def _product(self, node: NodeProto, macs: Callable[[NodeProto, Shapes], int]) -> Product:
        try:
            count = macs(node, self.shapes)
        except (KeyError, IndexError):  # a shape that only the data know
            count = 0
        weight = self._stored(node)
        if node.op_type == "LSTM":  # runtimes round its inputs as they come; GRUs have no such kernel
            integers = weight is not None and weight.bits == 8
        else:
            integers = all(self._rounded(name) for name in node.input[:2]) and (weight is None or weight.bits == 8)
        layer = self.layers.get(made(node), "")
        return Product(kind=node.op_type, layer=layer, macs=count, integers=integers, weight=weight)

    def _rounded(self, name: str) -> bool:
        """Whether a tensor is INT8 read as floats."""
        maker = self.makers.get(name)
        if maker is None or maker.op_type != "DequantizeLinear":
            return False
        source = self.makers.get(maker.input[0])
        constant = self.constants.get(maker.input[0])
        return (source is not None and source.op_type == "QuantizeLinear") or (
            constant is not None and BITS.get(constant.data_type) == 8
        )

    def _stored(self, node: NodeProto) -> StoredWeight | None:
        """Return the weight that a node multiplies with, as it is stored."""
        name = node.input[1]
        while name not in self.constants and name in self.makers and self.makers[name].op_type in KEPT:
            name = self.makers[name].input[0]
        constant = self.constants.get(name)
        if constant is None:
            return None
        axis = _summed(node, len(constant.dims))
        if (name, axis) not in self.stored:
            weight = numpy_helper.to_array(constant)
            self.stored[name, axis] = StoredWeight.of(weight, BITS.get(constant.data_type, FLOAT), axis)
        return self.stored[name, axis]


def _summed(node: NodeProto, rank: int) -> int:
    """Return the axis of a node's weight that its products are summed over."""
    if node.op_type == "MatMul":
        return max(0, rank - 2)
    if node.op_type == "ConvTranspose" or (node.op_type == "Gemm" and not _flag(node, "transB")):
        return 0
    return rank - 1 if node.op_type in RECURRENT else 1


def _flag(node: NodeProto, name: str) -> bool:
    return any(attribute.name == name and attribute.i for attribute in node.attribute)


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """Yield a graph and its subgraphs."""
    yield graph
    for node in graph.node:
        for inner in branches(node):
            yield from _graphs(inner)


def _convolution(node: NodeProto, shapes: Shapes) -> int:
    return math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[1]][1:])


def _transposed(node: NodeProto, shapes: Shapes) -> int:
    return math.prod(shapes[node.input[0]]) * math.prod(shapes[node.input[1]][1:])


def _gemm(node: NodeProto, shapes: Shapes) -> int:
    rows = shapes[node.input[0]]
    return math.prod(shapes[node.output[0]]) * rows[0 if _flag(node, "transA") else 1]


def _matmul(node: NodeProto, shapes: Shapes) -> int:
    return math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]


def _recurrent(node: NodeProto, shapes: Shapes) -> int:
    steps, batch, *_ = shapes[node.input[0]]
    return steps * batch * sum(math.prod(shapes[name]) for name in node.input[1:3])


def _einsum(node: NodeProto, shapes: Shapes) -> int:
    """Return the product of the sizes of all letters in an equation; an ellipsis stands for the leading dimensions."""
    equation = next(a.s.decode() for a in node.attribute if a.name == "equation").replace(" ", "")
    if len(node.input) < 2:
        return 0
    sizes: dict[str, int] = {}
    for letters, name in zip(equation.partition("->")[0].split(","), node.input, strict=True):
        left, dots, right = letters.partition("...")
        shape, rest = shapes[name], len(shapes[name]) - len(left) - len(right)
        named = [*left, *(f".{rest - i}" for i in range(rest if dots else 0)), *right]
        for letter, size in zip(named, shape, strict=True):
            sizes[letter] = max(size, sizes.get(letter, 1))
    return math.prod(sizes.values())


COUNTED: dict[str, Callable[[NodeProto, Shapes], int]] = {
    "Conv": _convolution,
    "ConvTranspose": _transposed,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Einsum": _einsum,
    **dict.fromkeys(RECURRENT, _recurrent),
}
"""Operators that multiply and accumulate, and how much that is."""


def _inferred(proto: onnx.ModelProto, examples: Inputs) -> dict[str, Shape]:
    """Infer shapes from those of the examples, without running the graph."""
    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    for graph in _graphs(bare.graph):
        kept = [constant for constant in graph.initializer if math.prod(constant.dims) < SMALL]
        large = [constant for constant in graph.initializer if math.prod(constant.dims) >= SMALL]
        del graph.initializer[:], graph.value_info[:]
        graph.initializer.extend(kept)
        values_of = graph.input if graph is bare.graph else graph.value_info
        values_of.extend(onnx.helper.make_tensor_value_info(c.name, c.data_type, c.dims) for c in large)
    for source, example in zip(bare.graph.input, examples, strict=False):
        given = onnx.helper.make_tensor_value_info(source.name, source.type.tensor_type.elem_type, example.shape)
        source.CopyFrom(given)
    for output in bare.graph.output:
        output.type.tensor_type.ClearField("shape")
    try:
        known = shape_inference.infer_shapes(bare, data_prop=True)
    except Exception:  # it has errors of its own for operators that it does not know
        return {}
    found: dict[str, Shape] = {}
    for graph in _graphs(known.graph):
        for value in (*graph.input, *graph.value_info, *graph.output):
            dims = value.type.tensor_type.shape.dim
            if value.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
                found[value.name] = tuple(dim.dim_value for dim in dims)
    return found


def _measured(proto: onnx.ModelProto, names: Iterable[str], examples: Inputs) -> dict[str, Shape]:
    """Return the shapes of tensors from running the graph on the examples; empty if it does not run."""
    batch: Sequence[NDArray[np.generic]] = [x.numpy() for x in examples]
    outside = {name for node in proto.graph.node for name in (*node.input, *node.output)}
    try:
        return {name: value.shape for name, value in values(proto, outside.intersection(names), [batch])}
    except Exception:  # a runtime fails in any way
        return {}
