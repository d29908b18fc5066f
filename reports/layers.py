"""The layers in a report: their costs and sensitivities, and the changes of a candidate, as data and in words."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..profiles.profile import Profile
from ..spaces.candidate import (
    ACTIVATION,
    BITS,
    DEPTH,
    PALETTE,
    PRUNING_RATIO,
    RANK,
    RESOLUTION,
    SETTINGS,
    SPARSITY,
    Candidate,
    Value,
)
from ..spaces.layers import INPUT, Layer, Network

ON_LAYERS = (BITS, RANK, SPARSITY, PALETTE)
"""Axes whose targets are layers."""

PLACES = 4
"""Decimal places of shares, enough for drawing."""

FLOAT = 32

INTEGERS = 8
"""Most bits of a weight that is stored as an integer."""

REPORTED_ZEROS = 0.1
"""Zeros of a layer are reported from this share of its weights on."""

Shapes = Mapping[str, tuple[int, ...]]


def changes(
    profile: Profile,
    candidate: Candidate,
    levels: Mapping[str, int],
    written: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, dict[str, Any]]:
    """Return the changes to each layer that a candidate changes.

    Milliseconds and damages come from the profile, where each choice was measured alone; only whole models are measured
    with all choices. The damage of a group, of a branch or of activation functions is listed at the first layer.

    Args:
        profile: the network's profile.
        candidate: the choices.
        levels: the choices as levels of a trial, by which damages are found.
        written: how the model's file stores each layer; None if no file was kept.

    Returns:
        By layer: ``resolution`` (the share of the images' height and width),
        ``activation`` (the level of the functions after it), ``depth`` (``gone`` with its branch), ``pruned``
        (removed share of its output channels), ``pruned_inputs``, ``bits``, ``rank``, ``sparsity``, ``palette``, all as
        chosen, ``written`` (how the file stores its weights), ``ms`` and ``damage``; without the entries that do not
        apply or are unknown.
    """
    pruned, begins = candidate[PRUNING_RATIO], _begins(profile.network)
    others = {axis: _by_layer(candidate, axis, profile.network) for axis in (ACTIVATION, DEPTH, RESOLUTION)}
    found = {}
    for layer in profile.network.layers:
        kept_inputs = math.prod(1 - float(pruned.get(group, 0.0)) for group in {*layer.in_groups} - {layer.out_group})
        change: dict[str, Any] = {
            **{axis: by_layer.get(layer.name) for axis, by_layer in others.items()},
            "pruned": float(pruned.get(layer.out_group or "", 0.0)) or None,
            "pruned_inputs": round(1 - kept_inputs, PLACES) or None,
            **{axis: candidate[axis].get(layer.name) for axis in ON_LAYERS},
        }
        change = {name: value for name, value in change.items() if value is not None}
        if change:
            damage = _damage(profile, layer.name, levels, begins)
            stored = stored_in_words(written or {}, layer.name)
            change |= {"written": stored} if stored else {}
            found[layer.name] = {**change, **({} if damage is None else {"damage": round(damage, 6)})}
    for name, milliseconds in profile.costs.predict_layers_ms(profile.network, candidate).items():
        if name in found:
            found[name]["ms"] = round(milliseconds, 5)
    return found


def _by_layer(candidate: Candidate, axis: str, network: Network) -> dict[str, Value]:
    """Return the layers that a candidate's choices on an axis reach, with their level."""
    return {layer: level for name, level in candidate[axis].items() for layer in network.reached(axis, name)}


def _begins(network: Network) -> dict[tuple[str, str], str]:
    """Return what begins with each layer, by axis and layer: the smallest branch, activation functions, the images."""
    first = {(RESOLUTION, layer.name): INPUT for layer in network.layers[:1]}
    largest_first = sorted(network.branches, key=lambda branch: -len(branch.layers))
    found = {(DEPTH, branch.layers[0]): branch.name for branch in largest_first}
    return found | {(ACTIVATION, each.layers[0]): each.name for each in network.activations if each.layers} | first


def _damage(
    profile: Profile, layer: str, levels: Mapping[str, int], begins: Mapping[tuple[str, str], str]
) -> float | None:
    """Return the total damage of the choices for a layer, or for the group or what else begins with it."""
    names = [f"{axis}:{layer}" for axis in (PRUNING_RATIO, *ON_LAYERS)]
    names += [f"{axis}:{begins.get((axis, layer))}" for axis in (ACTIVATION, DEPTH, RESOLUTION)]
    known = [
        by_level[levels[name]]
        for name in names
        if name in levels and (by_level := profile.damage.get(name)) is not None and levels[name] < len(by_level)
    ]
    finite = [damage for damage in known if math.isfinite(damage)]
    return sum(finite) if finite and len(finite) == len(known) else None


def settings(candidate: Candidate) -> dict[str, dict[str, Any]]:
    """Return the settings of a candidate, which apply to no single layer."""
    return {axis: dict(targets) for axis, targets in candidate.axes.items() if axis in SETTINGS}


def network(profile: Profile, values: Mapping[str, Mapping[int, Any]]) -> dict[str, Any]:
    """Return the network: the costs of its layers, and their sensitivity to each choice.

    Args:
        profile: the network's profile.
        values: the known values of each choice by level; see `levels_of`.
    """
    costs, begins = profile.costs, _begins(profile.network)
    return {
        "baseline_ms": round(profile.baseline_ms, 5),
        "baseline_low_ms": round(profile.baseline_low_ms, 5),
        "baseline_high_ms": round(profile.baseline_high_ms, 5),
        "floor_ms": None if profile.floor_ms is None else round(profile.floor_ms, 5),
        "macs": profile.network.macs,
        "other_ms": round(costs.other_ms, 5),
        "layers": [
            {
                "name": layer.name,
                "kind": layer.kind,
                "params": layer.params,
                "macs": layer.macs,
                "shape": list(layer.shape),
                "group": layer.out_group,
                "branch": begins.get((DEPTH, layer.name)),
                "functions": begins.get((ACTIVATION, layer.name)),
                "images": begins.get((RESOLUTION, layer.name)),
                "ms": round(costs.layer_ms.get(layer.name, 0.0), 5),
            }
            for layer in profile.network.layers
        ],
        "sensitivity": [
            _sensitivity(name, by_level, values.get(name, {})) for name, by_level in profile.damage.items()
        ],
        "distance": profile.distance,
        "left_alone": [{"name": name, "reason": why} for name, why in profile.network.left_alone],
        "dropped": [
            {
                "axis": each.axis,
                "target": each.target,
                "level": each.level,
                "before_ms": round(each.before_ms, 5),
                "after_ms": round(each.after_ms, 5),
            }
            for each in profile.dropped
        ],
    }


def _sensitivity(name: str, by_level: tuple[float, ...], values: Mapping[int, Any]) -> dict[str, Any]:
    axis, _, target = name.partition(":")
    return {
        "axis": axis,
        "target": target,
        "values": [values.get(level) for level in range(len(by_level))],
        "damage": [round(damage, 7) if math.isfinite(damage) else None for damage in by_level],
    }


def levels_of(chosen: list[tuple[Candidate, Mapping[str, int]]]) -> dict[str, dict[int, Any]]:
    """Return the values behind the levels of each choice; only of levels that a candidate has.

    >>> levels_of([(Candidate({"bits": {"conv1": 8}}), {"bits:conv1": 1, "bits:head": 0})])
    {'bits:conv1': {1: 8}}
    """
    found: dict[str, dict[int, Any]] = {}
    for candidate, levels in chosen:
        for name, level in levels.items():
            axis, _, target = name.partition(":")
            value = candidate[axis].get(target)
            if value is not None:
                found.setdefault(name, {})[level] = value
    return found


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors in a safetensors file; reads only its header."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(min(length, path.stat().st_size)))
    return {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}


def changes_in_words(candidate: Candidate, network: Network, shapes: Shapes) -> list[tuple[str, str]]:
    """Return the changes to each layer in words; empty if it is unchanged.

    Args:
        candidate: the choices.
        network: the unchanged layers.
        shapes: shapes of the compressed weights, which show to what a ratio was rounded.

    >>> layer = Layer(name="conv1", kind="conv2d", params=0, macs=0, out_group="conv1", shape=(64, 3, 3, 3))
    >>> chosen = Candidate({"pruning_ratio": {"conv1": 0.38}, "bits": {"conv1": 8}})
    >>> changes_in_words(chosen, Network(layers=(layer,), groups=()), {"conv1.weight": (40, 3, 3, 3)})
    [('conv1', '40 of 64 outputs kept, INT8')]
    >>> layer = Layer(name="up", kind="conv_transpose2d", params=0, macs=0, out_group="up", shape=(64, 32, 2, 2))
    >>> chosen = Candidate({"pruning_ratio": {"up": 0.5}})
    >>> changes_in_words(chosen, Network(layers=(layer,), groups=()), {"up.weight": (32, 40, 2, 2)})
    [('up', '40 of 64 outputs kept')]
    """
    gone, functions = (_by_layer(candidate, axis, network) for axis in (DEPTH, ACTIVATION))

    def words(layer: Layer) -> Iterator[str]:
        yield from _words(candidate, layer, shapes)
        if layer.name in functions:
            yield f"cheaper functions after it ({functions[layer.name]})"

    share = candidate[RESOLUTION].get(INPUT)
    images = [] if share is None else [(INPUT, f"shrunk to {float(share):.0%} of its height and width")]
    return images + [
        (layer.name, "gone with its branch" if layer.name in gone else ", ".join(words(layer)))
        for layer in network.layers
    ]


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


def stored_in_words(written: Mapping[str, Mapping[str, Any]], layer: str) -> str:
    """Return how a layer's weights are stored in the written file; empty if that is unknown.

    Args:
        written: see `Written.to_dict`.
        layer: its name; for a factorised layer, the parts are given one after another.

    >>> row = {"bits": 8, "integers": True, "zeros": 0.5, "distinct": 90, "two_four": False}
    >>> stored_in_words({"conv1": row, "fc.0": {**row, "bits": 32, "zeros": 0.0, "distinct": 4}}, "conv1")
    'INT8, 50% zeros'
    >>> stored_in_words({"fc.0": {**row, "bits": 32, "zeros": 0.0, "distinct": 4}}, "fc")
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
    elif row["zeros"] >= REPORTED_ZEROS:
        yield f"{row['zeros']:.0%} zeros"
    if bits == FLOAT and row["distinct"] is not None:
        yield f"{row['distinct']} values"


def settings_in_words(candidate: Candidate) -> list[str]:
    """Return the settings of pruning, factorisation, calibration and training in words.

    >>> settings_in_words(Candidate({"pruning": {"importance": "taylor"}}))
    ['pruning: importance taylor']
    """
    return [
        f"{axis}: {', '.join(f'{name} {value}' for name, value in targets.items())}"
        for axis, targets in settings(candidate).items()
    ]
