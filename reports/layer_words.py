"""Describes the changes to a network, layer by layer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..spaces.candidate import BITS, PALETTE, PRUNING_RATIO, RANK, SETTINGS, SPARSITY, Candidate
from ..spaces.layers import Layer, Network

FLOAT = 32

INTEGERS = 8
"""Most bits of a weight that is stored as an integer."""

TOLD_ZEROS = 0.1
"""Zeros of a layer are reported from this share of its weights on."""

Shapes = Mapping[str, tuple[int, ...]]


def shapes_in(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors in a safetensors file; reads only its header."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(min(length, path.stat().st_size)))
    return {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}


def by_layer(candidate: Candidate, network: Network, shapes: Shapes) -> list[tuple[str, str]]:
    """Return the changes to each layer in words; empty if it is unchanged.

    Args:
        candidate: what was chosen.
        network: the layers it was chosen for.
        shapes: of the weights that came of it, which tell what a ratio was rounded to.

    >>> layer = Layer(name="conv1", kind="conv2d", params=0, macs=0, out_group="conv1", shape=(64, 3, 3, 3))
    >>> chosen = Candidate({"pruning_ratio": {"conv1": 0.38}, "bits": {"conv1": 8}})
    >>> by_layer(chosen, Network(layers=(layer,), groups=()), {"conv1.weight": (40, 3, 3, 3)})
    [('conv1', '40 of 64 outputs kept, INT8')]
    >>> layer = Layer(name="up", kind="conv_transpose2d", params=0, macs=0, out_group="up", shape=(64, 32, 2, 2))
    >>> chosen = Candidate({"pruning_ratio": {"up": 0.5}})
    >>> by_layer(chosen, Network(layers=(layer,), groups=()), {"up.weight": (32, 40, 2, 2)})
    [('up', '40 of 64 outputs kept')]
    """
    return [(layer.name, ", ".join(_words(candidate, layer, shapes))) for layer in network.layers]


def _words(candidate: Candidate, layer: Layer, shapes: Shapes) -> Iterator[str]:
    ratio = candidate[PRUNING_RATIO].get(layer.out_group or "")
    weight = shapes.get(f"{layer.name}.weight")
    if ratio:
        axis = int(layer.transposed and layer.groups == 1)  # of its outputs, in the weight as it is stored
        whole = bool(weight) and bool(layer.shape) and len(weight or ()) == len(layer.shape)
        kept = f"{(weight or ())[axis]} of {layer.shape[0]} outputs kept" if whole else ""
        yield kept or f"{ratio:.0%} of its outputs pruned"
    rank, zeros = candidate[RANK].get(layer.name), candidate[SPARSITY].get(layer.name)
    bits, palette = candidate[BITS].get(layer.name, FLOAT), candidate[PALETTE].get(layer.name)
    if rank is not None:
        yield f"factorised to {float(rank):.0%} of its rank"
    if zeros is not None:
        yield f"{zeros} of its weights are zero" if isinstance(zeros, str) else f"{zeros:.0%} of its weights are zero"
    if palette is not None:
        yield f"weights from a palette of {2 ** int(palette)}"
    if bits != FLOAT:
        yield f"INT{bits}" if bits != 4 else "weights in INT4"


def in_file(written: Mapping[str, Mapping[str, Any]], layer: str) -> str:
    """Return how a layer's weights are stored in the written file; empty if that is unknown.

    Args:
        written: see `Written.to_dict`.
        layer: its name; for a factorised layer, the parts are given one after another.

    >>> row = {"bits": 8, "integers": True, "zeros": 0.5, "distinct": 90, "two_four": False}
    >>> in_file({"conv1": row, "fc.0": {**row, "bits": 32, "zeros": 0.0, "distinct": 4}}, "conv1")
    'INT8, 50% zeros'
    >>> in_file({"fc.0": {**row, "bits": 32, "zeros": 0.0, "distinct": 4}}, "fc")
    'float, 4 values'
    """
    rows = [row for name, row in written.items() if name == layer or name.startswith(f"{layer}.")]
    return " and ".join(dict.fromkeys(", ".join(_stored(row)) for row in rows))


def _stored(row: Mapping[str, Any]) -> Iterator[str]:
    bits = int(row["bits"])
    small = f"INT{bits}" if bits <= INTEGERS else f"{bits}-bit float"
    yield "float" if bits == FLOAT else small if row["integers"] else f"weights in {small}"
    if row["two_four"]:
        yield "two of four zero"
    elif row["zeros"] >= TOLD_ZEROS:
        yield f"{row['zeros']:.0%} zeros"
    if bits == FLOAT and row["distinct"] is not None:
        yield f"{row['distinct']} values"


def settings(candidate: Candidate) -> list[str]:
    """Return the settings of pruning, factorisation, calibration and training in words.

    >>> settings(Candidate({"pruning": {"importance": "taylor"}}))
    ['pruning: importance taylor']
    """
    chosen = {axis: targets for axis, targets in candidate.axes.items() if axis in SETTINGS}
    return [
        f"{axis}: {', '.join(f'{name} {value}' for name, value in targets.items())}" for axis, targets in chosen.items()
    ]
