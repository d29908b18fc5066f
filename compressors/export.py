"""Exports a float network to ONNX."""

from __future__ import annotations

import io
import warnings

import onnx
import torch
from onnx import helper
from torch import nn

from ..errors import InfeasibleError, gist
from ..studies.keywords import Keywords
from ..studies.networks.copied import copied
from .graph import Inputs

OPSET = 17


def to_onnx(model: nn.Module, examples: Inputs) -> onnx.ModelProto:
    """Return the network as an ONNX graph with a free batch dimension.

    Inputs that have no first dimension in common, as a graph's nodes and its edges, keep their shapes.

    Args:
        model: a float network.
        examples: inputs, batch first.

    Raises:
        InfeasibleError: the network cannot be exported.

    """
    model = copied(model).eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False).data = parameter.data.contiguous()  # some forwards go by what wants gradients
    reasons = []
    for export in (_scripted, _traced):  # the first takes tenths of a second, the second takes seconds
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                graph = export(model, examples)
            _constants_to_initializers(graph)
            _explicit_padding(graph)
            _all_inputs(graph, model, examples)
            onnx.checker.check_model(graph)
        except Exception as error:  # exporters fail in any way
            reasons.append(gist(error))
        else:
            return graph
    raise InfeasibleError(
        f"the network does not export to ONNX: {' / '.join(reasons)} (--runtime pytorch needs no ONNX)", rung="build"
    )


def have_a_batch(examples: Inputs) -> bool:
    """Whether the first dimension of all inputs is the same."""
    return len({len(x) for x in examples}) == 1


def _names(model: nn.Module, examples: Inputs) -> list[str]:
    if isinstance(model, Keywords):
        return list(model.names)
    return ["input"] if len(examples) == 1 else [f"input{i}" for i in range(len(examples))]


def _scripted(model: nn.Module, examples: Inputs) -> onnx.ModelProto:
    names = _names(model, examples)
    file = io.BytesIO()
    torch.onnx.export(
        model,
        tuple(examples),
        file,  # type: ignore[arg-type]
        dynamo=False,
        opset_version=OPSET,
        training=torch.onnx.TrainingMode.PRESERVE,  # else it folds norms into weights, which are no layer's then
        input_names=names,
        output_names=["output"],
        dynamic_axes={name: {0: "batch"} for name in (*names, "output")} if have_a_batch(examples) else None,
    )
    return onnx.load_from_string(file.getvalue())


def _traced(model: nn.Module, examples: Inputs) -> onnx.ModelProto:
    free = have_a_batch(examples)
    two = tuple(torch.cat((x, x)) if free and len(x) == 1 else x for x in examples)  # one would be taken as fixed
    program = torch.onnx.export(
        model,
        two,
        dynamo=True,
        opset_version=18,
        verbose=False,
        input_names=_names(model, examples),
        output_names=["output"],
        dynamic_shapes=tuple({0: torch.export.Dim("batch")} for _ in examples) if free else None,
    )
    assert program is not None
    return program.model_proto


def _all_inputs(proto: onnx.ModelProto, model: nn.Module, examples: Inputs) -> None:
    """Give a graph the inputs too that it does not read, so that it is called as the network is."""
    given = {value.name: onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in proto.graph.input}
    del proto.graph.input[:]
    for name, x in zip(_names(model, examples), examples, strict=True):
        dtype = helper.np_dtype_to_tensor_dtype(x.numpy().dtype)
        proto.graph.input.append(given.get(name) or helper.make_tensor_value_info(name, dtype, x.shape))


def _explicit_padding(proto: onnx.ModelProto) -> None:
    """Write how much convolutions pad where the exporter leaves it to the runtime: not all can if they are dilated.

    Their stride is 1, as PyTorch allows no other.
    """
    sizes = {constant.name: constant.dims[2:] for constant in proto.graph.initializer}
    for node in proto.graph.node:
        attributes = {attribute.name: attribute for attribute in node.attribute}
        automatic = attributes.get("auto_pad")
        if automatic is None or not automatic.s.startswith(b"SAME") or node.input[1] not in sizes:
            continue
        size = sizes[node.input[1]]
        dilations = attributes["dilations"].ints if "dilations" in attributes else [1] * len(size)
        total = [step * (length - 1) for step, length in zip(dilations, size, strict=True)]
        pads = [*(n // 2 for n in total), *(n - n // 2 for n in total)]
        node.attribute.remove(automatic)
        node.attribute.append(helper.make_attribute("pads", pads))


def _constants_to_initializers(proto: onnx.ModelProto) -> None:
    """Turn constant nodes into initializers, so that a graph has one kind of constant."""
    graph = proto.graph
    for node in [n for n in graph.node if n.op_type == "Constant" and n.attribute[0].name == "value"]:
        constant = node.attribute[0].t
        constant.name = node.output[0]
        graph.initializer.append(constant)
        graph.node.remove(node)
