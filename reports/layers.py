"""The changes of a candidate to each layer, with the estimated saving and damage."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..profiles.profile import Profile
from ..spaces.candidate import BITS, PALETTE, PRUNING_RATIO, RANK, SETTINGS, SPARSITY, Candidate
from .layer_words import in_file

ON_LAYERS = (BITS, RANK, SPARSITY, PALETTE)
"""Axes whose targets are layers."""

PLACES = 4
"""Decimal places of shares, enough for drawing."""


def changes(
    profile: Profile,
    candidate: Candidate,
    levels: Mapping[str, int],
    written: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, dict[str, Any]]:
    """Return the changes to each layer that a candidate changes.

    Milliseconds and damages come from the profile, where each choice was measured alone; only whole models are measured
    with all choices. A group's damage is listed at its first layer.

    Args:
        profile: what is known of the network.
        candidate: what was chosen.
        levels: the same as the levels of a trial; damages are looked up by them.
        written: what the model's file holds of each layer; None where no file was kept.

    Returns:
        By layer: ``pruned`` (share of its output channels that went), ``pruned_inputs``, ``bits``, ``rank``,
        ``sparsity``, ``palette``, all as they were chosen, ``written`` (how its weights lie in the file), ``ms`` and
        ``damage``; what does not apply or is not known is left out.

    """
    pruned = candidate[PRUNING_RATIO]
    found = {}
    for layer in profile.network.layers:
        kept_inputs = math.prod(1 - float(pruned.get(group, 0.0)) for group in {*layer.in_groups} - {layer.out_group})
        told: dict[str, Any] = {
            "pruned": float(pruned.get(layer.out_group or "", 0.0)) or None,
            "pruned_inputs": round(1 - kept_inputs, PLACES) or None,
            **{axis: candidate[axis].get(layer.name) for axis in ON_LAYERS},
        }
        told = {name: value for name, value in told.items() if value is not None}
        if told:
            damage = _damage(profile, layer.name, levels)
            stored = in_file(written or {}, layer.name)
            told |= {"written": stored} if stored else {}
            found[layer.name] = {**told, **({} if damage is None else {"damage": round(damage, 6)})}
    for name, milliseconds in profile.costs.predict_layers_ms(profile.network, candidate).items():
        if name in found:
            found[name]["ms"] = round(milliseconds, 5)
    return found


def _damage(profile: Profile, layer: str, levels: Mapping[str, int]) -> float | None:
    """Return the total damage of the choices for a layer, or for the group that begins with it."""
    known = [
        by_level[levels[name]]
        for axis in (PRUNING_RATIO, *ON_LAYERS)
        if (name := f"{axis}:{layer}") in levels
        and (by_level := profile.damage.get(name)) is not None
        and levels[name] < len(by_level)
    ]
    finite = [damage for damage in known if math.isfinite(damage)]
    return sum(finite) if finite and len(finite) == len(known) else None


def settings(candidate: Candidate) -> dict[str, dict[str, Any]]:
    """Return the settings of a candidate, which apply to no single layer."""
    return {axis: dict(targets) for axis, targets in candidate.axes.items() if axis in SETTINGS}


def network(profile: Profile, values: Mapping[str, Mapping[int, Any]]) -> dict[str, Any]:
    """Return the network: the costs of its layers, and their sensitivity to each choice.

    Args:
        profile: what is known of it.
        values: for a choice's name and a level the value on offer, as far as that is known; see `levels_of`.

    """
    costs = profile.costs
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
    """Return the values behind the levels of choices, as far as candidates have chosen them.

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
