"""Exports a float network to ONNX."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from unittest.mock import patch

import numpy as np
import onnx
import torch
from onnx import helper
from torch import Tensor, nn
from torch.jit._trace import TracerWarning

from ...errors import InfeasibleError, gist, users_line
from ...studies.keywords import Keywords
from ...studies.networks.copied import copied
from ...studies.task import have_a_batch
from ..modules import Inputs
from ..technique import Way
from .tensor_ranges import loaded

OPSET = 17

NEAR = 0.01
"""Share of its outputs' reach by which a float file may be off."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """An exported network, and how it was exported.

    Attributes:
        graph: the network.
        way: how.
        note: what its owner should know; empty where it takes any batch.
        decided: lines of the network's code that the exporter found to depend on its inputs, and took as decided.

    """

    graph: onnx.ModelProto
    way: Way
    note: str = ""
    decided: tuple[str, ...] = ()


def to_onnx(model: nn.Module, examples: Inputs, way: Way | None = None) -> onnx.ModelProto:
    """Return the network as an ONNX graph with a free batch dimension.

    Inputs that have no first dimension in common, as a graph's nodes and its edges, keep their shapes.

    Args:
        model: a float network.
        examples: inputs, batch first.
        way: that is known to do for the network, whatever its widths are; None finds one.

    Raises:
        InfeasibleError: the network cannot be exported.

    """
    if way is not None:
        with warnings.catch_warnings(), suppress(Exception):  # what does for a network may not do for what it became
            warnings.simplefilter("ignore")
            return _finished(_prepared(model), examples, way)
    return exported(model, examples).graph


def exported(model: nn.Module, examples: Inputs) -> Exported:
    """Export a network in the first way whose file matches it, at another batch size too.

    A batch that its forward turns into a number of Python is a constant of the file. Where no exporter does without,
    the file has the examples' batch.

    Args:
        model: a float network.
        examples: inputs, batch first.

    Raises:
        InfeasibleError: the network cannot be exported.

    """
    model = _prepared(model)
    reasons: list[str] = []
    decided: dict[str, None] = {}
    found: list[Exported] = []
    baked = ""
    for way in (Way(), Way(traced=True)):  # the first takes tenths of a second, the second takes seconds
        try:
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                graph = _finished(model, examples, way)
        except Exception as error:  # exporters fail in any way
            reasons.append(gist(error))
            continue
        finally:
            decided |= dict.fromkeys(_decided(said))
        found.append(Exported(graph=graph, way=way, note=_taken(said), decided=tuple(decided)))
        why = _baked(graph, model, examples) if have_a_batch(examples) else ""
        if not why:
            return found[-1]
        baked = baked or why
    if found:
        return _fixed(model, examples, tuple(decided), baked) or found[0]
    raise InfeasibleError(
        f"the network does not export to ONNX: {' / '.join(reasons)} (--runtime pytorch needs no ONNX)", rung="build"
    )


def _fixed(model: nn.Module, examples: Inputs, decided: tuple[str, ...], why: str) -> Exported | None:
    """Return a file with the examples' fixed batch; None if that does not match the network either."""
    with warnings.catch_warnings(), suppress(Exception):
        warnings.simplefilter("ignore")
        graph = _finished(model, examples, Way(fixed=True))
        if not _apart(graph, model, examples):
            return Exported(graph=graph, way=Way(fixed=True), note=_note(examples, decided, why), decided=decided)
    return None


def _prepared(model: nn.Module) -> nn.Module:
    model = copied(model).eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False).data = parameter.data.contiguous()  # some forwards go by what wants gradients
    return model


def _finished(model: nn.Module, examples: Inputs, way: Way) -> onnx.ModelProto:
    silent = patch.object(torch._C, "_jit_onnx_log", lambda *graph: None)  # where it fails, it prints its whole graph
    with redirect_stdout(io.StringIO()), silent:
        graph = _traced(model, examples) if way.traced else _scripted(model, examples, fixed=way.fixed)
    _constants_to_initializers(graph)
    _explicit_padding(graph)
    _all_inputs(graph, model, examples)
    onnx.checker.check_model(graph)
    return graph


def _decided(said: Iterable[warnings.WarningMessage]) -> Iterator[str]:
    """Yield the lines of the user's code that depend on the inputs, as the exporter warns."""
    for each in said:
        if issubclass(each.category, TracerWarning):
            line = users_line(each.filename, each.lineno)
            if line:
                yield line


def _taken(said: Sequence[warnings.WarningMessage]) -> str:
    """Return a note on the branches that the exporter decided; empty if it warned of none."""
    lines = dict.fromkeys(_decided(each for each in said if "Python boolean" in str(each.message)))
    return (
        f"the exported file takes the branches in {', '.join([*lines][:3])} that the example inputs take, whatever its "
        "inputs are. Where others may take another, compute both and choose by torch.where"
        if lines
        else ""
    )


def _note(examples: Inputs, decided: Sequence[str], why: str) -> str:
    size = len(examples[0])
    many = "one example" if size == 1 else f"{size} examples"
    where = (
        f"; its forward turns what depends on that into numbers of Python ({', '.join(decided[:3])})" if decided else ""
    )
    return (
        f"the exported file takes batches of {size} alone, as another size {why}{where}. Everything is scored {many} "
        "at a time: keep the batch a tensor's dimension, as by x.flatten(1) or x.reshape(x.shape[0], -1), for any size"
    )


def _baked(graph: onnx.ModelProto, model: nn.Module, examples: Inputs) -> str:
    """Return how a file's outputs differ from the network's, at a larger batch or at the examples' own.

    It is empty where the file does the same, or cannot be loaded here.
    """
    try:
        loaded(graph)
    except Exception:  # its exceptions share no base of their own
        return ""
    larger = tuple(torch.cat((x, x[:1])) for x in examples)
    return _apart(graph, model, larger) or _apart(graph, model, examples)


def _apart(graph: onnx.ModelProto, model: nn.Module, inputs: Inputs) -> str:
    """Return how a file's outputs differ from the network's; empty if they match."""
    try:
        with torch.no_grad():
            expected: Tensor = model(*(x.clone() for x in inputs))
    except Exception as error:  # a user's forward may fail in any way
        return f"cannot be computed by the network itself ({gist(error)})"
    try:
        session = loaded(graph)
        names = [source.name for source in session.get_inputs()]
        actual = session.run(None, dict(zip(names, (x.numpy() for x in inputs), strict=True)))[0]
    except Exception:  # its exceptions share no base of their own, and tell of nodes that nobody has named
        return "cannot be computed by it"
    if actual.shape != tuple(expected.shape):
        return f"gives outputs of shape {tuple(actual.shape)}, not {tuple(expected.shape)}"
    finite = expected[expected.isfinite()].abs()
    reach = float(finite.max()) if len(finite) else 0.0
    close = np.allclose(actual, expected.numpy(), rtol=0, atol=NEAR * reach + 1e-6, equal_nan=True)
    return "" if close else "gives other outputs"


def _names(model: nn.Module, examples: Inputs) -> list[str]:
    if isinstance(model, Keywords):
        return list(model.names)
    return ["input"] if len(examples) == 1 else [f"input{i}" for i in range(len(examples))]


def _scripted(model: nn.Module, examples: Inputs, *, fixed: bool = False) -> onnx.ModelProto:
    free = have_a_batch(examples) and not fixed
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
        dynamic_axes={name: {0: "batch"} for name in (*names, "output")} if free else None,
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
    """Add the inputs that a graph does not read, so that it is called like the network."""
    given = {value.name: onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in proto.graph.input}
    del proto.graph.input[:]
    for name, x in zip(_names(model, examples), examples, strict=True):
        dtype = helper.np_dtype_to_tensor_dtype(x.numpy().dtype)
        proto.graph.input.append(given.get(name) or helper.make_tensor_value_info(name, dtype, x.shape))


def _explicit_padding(proto: onnx.ModelProto) -> None:
    """Write explicit padding where the exporter leaves it to the runtime: not every runtime can if it is dilated.

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
