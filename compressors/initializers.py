"""Which constants of an ONNX graph are read, subgraphs included. This module imports no torch."""

from __future__ import annotations

from onnx import GraphProto, NodeProto


def branches(node: NodeProto) -> list[GraphProto]:
    """Return the subgraphs of a node."""
    return [g for a in node.attribute for g in (*([a.g] if a.HasField("g") else []), *a.graphs)]


def read(node: NodeProto) -> set[str]:
    """Return the tensors that a node reads, including those that its subgraphs read."""
    return set(node.input).union(*(read(inner) for graph in branches(node) for inner in graph.node))


def drop_unread(graph: GraphProto) -> None:
    """Remove the constants that no node reads and that are not outputs."""
    used = {output.name for output in graph.output}.union(*map(read, graph.node))
    kept = [constant for constant in graph.initializer if constant.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def made(node: NodeProto) -> str:
    """Return a node's first output that exists: recurrent nodes may leave out outputs that nothing reads."""
    return next((name for name in node.output if name), "")
