"""Writes quantization into an ONNX graph as explicit Q/DQ pairs: the one canonical file.

Canonical means activations in INT8 with zero point 0, which TensorRT accepts, or in UINT8 with any zero point where all
runtimes of a study take that; weights stored as integers with one scale for each output channel, biases in float.
Runtimes that like another layout rewrite it; see `onnxruntime_layout.py`.

A residual addition, a concatenation or a pooling of what quantized convolutions made is quantized as well, since
runtimes fuse a quantized convolution only when its neighbours take integers too. What linear layers made is merged in
float: it fuses either way, and a transformer's residual stream in INT8 costs it its accuracy. A layer that stays in
float reads the float tensor: some runtimes would otherwise quantize its weights without being asked.

Linear layers with weights in INT4 read float tensors too. Their weights lie as (inputs, outputs), with one scale for
each block of inputs: ONNX Runtime has a kernel for no other layout. Such a file has the first operator set that knows
blocks; all others keep that of the float graph.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping

import ml_dtypes
import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper
from torch import nn

from ...errors import InfeasibleError
from ..initializers import drop_unread, made
from ..modules import LAYERS, Inputs
from ..quantization.calibration import MAX, Grid
from ..quantization.quantize import WEIGHTS_ALONE, Scales
from ..quantization.quantizers import weight_scale
from . import recurrent_layers
from .number_formats import at_opset
from .tensor_ranges import MOVES, grids

BLOCKS_OPSET = 21
"""The first operator set whose ``DequantizeLinear`` takes INT4 and blocks."""

PASSES_ON = {"Relu", "Clip", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity"}
POOLS = {"MaxPool", "AveragePool", "GlobalAveragePool", "ReduceMean"}
MERGES = {"Add", "Concat"}
MULTIPLY = {"Conv", "ConvTranspose", "Gemm", "MatMul"}

UNSTORED = (
    "the exported file multiplies by no such weight, as the layer's own forward computes another from it in each call, "
    "or as nothing reads its outputs"
)
"""Why a layer's numbers cannot be held in another way."""

AXES = {"Conv": 0, "ConvTranspose": 1}
"""Along which dimension of its weight a convolution's output channels lie."""


def insert(
    graph: onnx.ModelProto,
    model: nn.Module,
    scales: Mapping[str, Scales],
    calibration: Iterable[Inputs],
    *,
    method: str = MAX,
    asymmetric: bool = False,
) -> onnx.ModelProto:
    """Return a copy of a float graph whose given layers compute on integers or have INT4 weights.

    Args:
        graph: the exported float network.
        model: the network it was exported from, without quantizers.
        scales: for each layer to quantize, how its numbers are rounded.
        calibration: inputs from which the ranges of the tensors between layers are taken.
        method: how they are taken; one of `calibration.METHODS`.
        asymmetric: whether they may have any zero point.

    Raises:
        InfeasibleError: weights are in INT4, and the graph has no form in an operator set that knows blocks.

    """
    if any(scale.bits == WEIGHTS_ALONE for scale in scales.values()):
        copy = at_opset(graph.SerializeToString(), BLOCKS_OPSET)
    else:
        copy = onnx.ModelProto()
        copy.CopyFrom(graph)
    if not scales or not graph.graph.node:  # a network without a file
        return copy
    return _Inserter(copy, model, scales).insert(calibration, method, asymmetric=asymmetric)


class _Inserter:
    def __init__(self, proto: onnx.ModelProto, model: nn.Module, scales: Mapping[str, Scales]) -> None:
        self.proto = proto
        self.constants = _constants(proto)
        layers = owners(proto, model)
        chosen = [node for node in proto.graph.node if layers.get(made(node)) in scales]
        missing = sorted(set(scales).difference(layers.values()))
        if missing:
            raise InfeasibleError(f"{missing[0]!r} cannot have other bits: {UNSTORED}", rung="build")
        self.weights: dict[str, Scales] = {}
        for node in chosen:
            rounded = scales[layers[made(node)]]
            if not _alike(self.weights.setdefault(node.input[1], rounded), rounded):  # layers share it, not its steps
                node.input[1] = self._copied(node.input[1], layers[made(node)])
                self.weights[node.input[1]] = rounded
        self.quantized = [node for node in chosen if self.weights[node.input[1]].bits != WEIGHTS_ALONE]
        self.stored_alone = [node for node in chosen if self.weights[node.input[1]].bits == WEIGHTS_ALONE]
        self.grids: dict[str, Grid] = {}
        for node in self.quantized:
            grid = scales[layers[made(node)]].input
            assert grid is not None  # only layers with weights in INT4 read floats
            self.grids[node.input[0]] = grid.joined(self.grids.get(node.input[0], grid))

    def insert(self, calibration: Iterable[Inputs], method: str, *, asymmetric: bool) -> onnx.ModelProto:
        between, integer = self._between()
        readers = self.quantized + between
        tensors = {t for node in readers for t in self._activations(node)}
        batches = ([x.numpy() for x in batch] for batch in calibration)
        given = set(self.grids)
        self.grids |= grids(self.proto, tensors - given, batches, method, asymmetric=asymmetric)
        for node in reversed(self.proto.graph.node):  # moves integers, if they mean the same on both sides
            if node.op_type in MOVES and node.output[0] in self.grids and node.input[0] in integer - given:
                self.grids[node.input[0]] = self.grids[node.output[0]]
                readers += [node] if node not in readers else []
        pairs = {name: self._pair(name, grid) for name, grid in self.grids.items()}
        weights = {node.input[1]: node for node in self.quantized}  # a layer that runs twice has one weight
        stored = [self._integer_weight(name, node) for name, node in weights.items()]
        alone = {node.input[1]: node for node in self.stored_alone}
        stored += [self._weight_in_blocks(name, node) for name, node in alone.items()]
        for node in self.stored_alone:
            _untranspose(node)
        for node in (*self.quantized, *self.stored_alone):
            node.input[1] = f"{node.input[1]}_dequantized"
        for node in readers:
            for position, name in enumerate(node.input):
                if name in pairs:
                    node.input[position] = f"{name}_dequantized"
        self._rebuild(stored, pairs)
        onnx.checker.check_model(self.proto)
        return self.proto

    def _between(self) -> tuple[list[NodeProto], set[str]]:
        """Return the additions, concatenations and pools that read only integers, and the integer tensors.

        These are what quantized convolutions made, and what quantized layers read: it is rounded anyway.
        """
        integer = {node.output[0] for node in self.quantized if node.op_type in AXES} | set(self.grids)
        between = []
        for node in self.proto.graph.node:
            activations = self._activations(node)
            if activations and all(name in integer for name in activations):
                if node.op_type in POOLS or (node.op_type in MERGES and len(activations) > 1):
                    between.append(node)
                if node.op_type in MERGES | POOLS | PASSES_ON:
                    integer.update(node.output)
        return between, integer

    def _activations(self, node: NodeProto) -> list[str]:
        if node in self.quantized or node.op_type in POOLS | PASSES_ON:
            return list(node.input[:1])
        return [name for name in node.input if name and name not in self.constants]

    def _constant(self, name: str, value: NDArray[np.generic]) -> str:
        self.constants[name] = numpy_helper.from_array(value, name)
        return name

    def _copied(self, weight: str, layer: str) -> str:
        """Return the name of a copy of a shared weight for one layer."""
        return self._constant(f"{weight}_of_{layer}", numpy_helper.to_array(self.constants[weight]))

    def _pair(self, name: str, grid: Grid) -> list[NodeProto]:
        step = self._constant(f"{name}_scale", np.array(grid.step, np.float32))
        zero = self._constant(f"{name}_zero", grid.zero)
        quantized, dequantized = f"{name}_quantized", f"{name}_dequantized"
        return [
            helper.make_node("QuantizeLinear", [name, step, zero], [quantized], f"{name}_Q"),
            helper.make_node("DequantizeLinear", [quantized, step, zero], [dequantized], f"{name}_DQ"),
        ]

    def _integer_weight(self, name: str, node: NodeProto) -> NodeProto:
        weight = numpy_helper.to_array(self.constants[name])
        axis = AXES[node.op_type] if node.op_type in AXES else 0 if _transposed(node) else weight.ndim - 1
        integers, scale = quantize_weight(weight, axis, self.weights[name].weight)
        inputs = [
            self._constant(f"{name}_quantized", integers),
            self._constant(f"{name}_scale", scale),
            self._constant(f"{name}_zero", np.zeros(scale.shape, np.int8)),
        ]
        return helper.make_node("DequantizeLinear", inputs, [f"{name}_dequantized"], f"{name}_DQ", axis=axis)

    def _weight_in_blocks(self, name: str, node: NodeProto) -> NodeProto:
        weight, scale = numpy_helper.to_array(self.constants[name]), self.weights[name].weight
        assert scale is not None  # there is no default for blocks
        weight = weight.T if _transposed(node) else weight
        scale = np.ascontiguousarray(scale.T)
        block = weight.shape[0] // scale.shape[0]
        integers = np.clip(np.rint(weight / np.repeat(scale, block, 0)), -7, 7).astype(ml_dtypes.int4)
        inputs = [self._constant(f"{name}_quantized", integers), self._constant(f"{name}_scale", scale)]
        made = [f"{name}_dequantized"]
        return helper.make_node("DequantizeLinear", inputs, made, f"{name}_DQ", axis=0, block_size=block)

    def _rebuild(self, weights: list[NodeProto], pairs: Mapping[str, list[NodeProto]]) -> None:
        graph = self.proto.graph
        nodes = list(weights)
        for source in graph.input:
            nodes += pairs.get(source.name, [])
        for node in graph.node:
            if node.output[0] in self.constants:
                continue
            nodes.append(node)
            for name in node.output:
                nodes += pairs.get(name, [])
        for field, items in ((graph.node, nodes), (graph.initializer, list(self.constants.values()))):
            copies = [type(item).FromString(item.SerializeToString()) for item in items]
            del field[:]
            field.extend(copies)
        drop_unread(graph)
        del graph.value_info[:]


def quantize_weight(
    weight: NDArray[np.floating], axis: int, scale: NDArray[np.float32] | None = None
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return a weight as integers in −127…127, and its scales along the axis of its output channels.

    Args:
        weight: with any number of axes.
        axis: of its output channels.
        scale: of each of them; None maps their largest values to 127.

    """
    if scale is None:
        scale = weight_scale(torch.tensor(np.moveaxis(weight, axis, 0))).numpy()
    shape = [1] * weight.ndim
    shape[axis] = -1
    return np.clip(np.rint(weight / scale.reshape(shape)), -127, 127).astype(np.int8), scale


def _transposed(node: NodeProto) -> bool:
    return node.op_type == "Gemm" and any(a.name == "transB" and a.i for a in node.attribute)


def _untranspose(node: NodeProto) -> None:
    for attribute in node.attribute:
        if attribute.name == "transB":
            attribute.i = 0


def layers_of(proto: onnx.ModelProto, model: nn.Module) -> dict[str, str]:
    """Map each weight in the graph to the name of its layer (one of them, if several share it)."""
    found = owners(proto, model)
    nodes = [node for node in proto.graph.node if node.op_type in MULTIPLY and made(node) in found]
    return {node.input[1]: found[made(node)] for node in nodes} | recurrent_layers.layers_of(proto, model)


def owners(proto: onnx.ModelProto, model: nn.Module) -> dict[str, str]:
    """Map each node's output to the layer that it computes, by the weight's name or else by its values.

    Where layers share a weight, or have the same values, the name of the node decides, and then their order.
    """
    layers = {name: m for name, m in model.named_modules(remove_duplicate=True) if isinstance(m, LAYERS)}
    named = {f"{name}.weight": name for name in layers}
    tied: dict[int, list[str]] = defaultdict(list)
    by_value: dict[bytes, list[str]] = defaultdict(list)
    for name, module in layers.items():
        tied[id(module.weight)].append(name)
        weight = module.weight.detach().numpy()
        values = {weight.tobytes()} | ({np.ascontiguousarray(weight.T).tobytes()} if weight.ndim == 2 else set())
        for value in values:
            by_value[value].append(name)
    constants, found = _constants(proto), dict(recurrent_layers.owners(proto, model))
    for node in proto.graph.node:
        if node.op_type not in MULTIPLY or node.input[1] not in constants:
            continue
        known = named.get(node.input[1])
        stored = numpy_helper.to_array(constants[node.input[1]])
        same = by_value.get(stored.tobytes(), []) if known is None else tied[id(layers[known].weight)]
        same = [name for name in same if _multiplies_alike(node, stored, layers[name])]
        inside = sorted((name for name in same if _inside(name, node.name)), key=len, reverse=True)
        free = [name for name in same if name not in found.values()]
        if same:
            found[made(node)] = (inside or free or same)[0]
    return found


def _multiplies_alike(node: NodeProto, stored: NDArray[np.generic], layer: nn.Module) -> bool:
    """Whether a product with a layer's weight computes the layer: a decoder may multiply by the transpose."""
    if not isinstance(layer, nn.Linear) or stored.ndim != 2:
        return True
    weight = layer.weight.detach().numpy()
    return np.array_equal(stored, weight if _transposed(node) else weight.T)


def _alike(one: Scales, other: Scales) -> bool:
    """Whether two layers' weights are rounded to the same steps."""
    return one.bits == other.bits and np.array_equal(one.weight, other.weight)  # type: ignore[arg-type]  # both may be None


def _inside(layer: str, node: str) -> bool:
    """Return whether a node's name, such as ``/blocks/blocks.0/fc/MatMul``, contains a layer's path in order."""
    path = iter(re.split(r"[./]", node))
    return all(part in path for part in layer.split("."))


def _constants(proto: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Return the constants by name, also through the identities that the exporter adds for equal ones."""
    constants = {constant.name: constant for constant in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type == "Identity" and node.input[0] in constants:
            copy = onnx.TensorProto()
            copy.CopyFrom(constants[node.input[0]])
            copy.name = node.output[0]
            constants[copy.name] = copy
    return constants
