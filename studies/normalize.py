"""Makes plain copies of a task's networks, without wrappers, before anything else uses them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import StudyError
from .networks.baked import bake, outputs_of
from .networks.floats import FloatInputs, as_float32, other_floats, take_any_float, to_float32
from .networks.multihead import unpacked
from .networks.norms import with_plain_norms
from .networks.refused import must_be_network
from .networks.wrappers import unwrapped, without_wrappers
from .task import Task

NETWORKS = ("model", "teacher", "student")


def normalized(task: Task) -> tuple[Task, tuple[str, ...]]:
    """Return a task with plain networks, and a sentence on each change; the user's networks are not changed.

    Plain networks have no wrappers. Their parameters are in float32 on the CPU and not computed from others, attention
    is built of layers, and they are not frozen as a whole.

    Raises:
        StudyError: a network cannot be compressed.

    """
    given = {name: getattr(task, name) for name in NETWORKS}
    networks = {
        name: must_be_network(name, network)
        for name, network in given.items()
        if network is not None or name == "model"
    }
    examples = tuple(example for example in task.examples if isinstance(example, Tensor))
    casts = other_floats(*examples, *(p for network in networks.values() for p in network.parameters()))
    plain, notes = {}, []
    for name, network in networks.items():
        with torch.random.fork_rng(devices=[]):
            plain[name], said = _plain(name, network, examples, casts=casts)
        notes += [f"`{name}`: {each}" for each in said]
    base = "model" if task.student is None else "student"
    notes += [f"`{base}`: {each}" for each in _thawed(plain[base])]
    changes: dict[str, Any] = dict(plain)
    if casts:
        changes |= {"example_inputs": _cast(task.example_inputs), "inputs": FloatInputs(task.inputs)}
    if not isinstance(task.keep, str):
        changes["keep"] = tuple(without_wrappers(networks[base], name) for name in task.keep)
    return replace(task, **changes), tuple(notes)


def _plain(name: str, network: nn.Module, examples: tuple[Tensor, ...], *, casts: bool) -> tuple[nn.Module, list[str]]:
    """Return a plain copy of a network in evaluation mode, and the changes in words."""
    plain, said = unwrapped(network)
    if len(examples) == 1 and type(plain).__module__.startswith("torch.nn.") and not any(plain.children()):
        plain = nn.Sequential(plain)
        said.append("it is one layer, and is compressed as the layer '0' of a network")
    ran = casts and outputs_of(plain, examples) is not None
    said += to_float32(plain)
    if casts:
        take_any_float(plain)
    before = outputs_of(plain, examples)
    if ran and before is None:
        raise StudyError(
            f"`{name}` must run in float32 on the CPU, where networks are compressed; it does not after this: "
            f"{'; '.join(said)}. Its forward may name a type or a device: use those of the weights there"
        )
    baked = bake(plain)
    said += [*baked, *with_plain_norms(plain, examples)]
    after = outputs_of(plain, examples) if baked else before
    if before is not None and not _close(before, after):
        raise StudyError(
            f"`{name}` must compute the same weights in each call, because they are fixed: {'; '.join(baked)}. It "
            "returns other outputs with fixed weights: remove what computes them, or train without it"
        )
    return unpacked(plain, examples), said


def _close(before: Tensor, after: Tensor | None) -> bool:
    if after is None or after.shape != before.shape:
        return False
    scale = float(before.abs().nan_to_num().max()) if before.numel() else 0.0
    return torch.allclose(before, after, rtol=1e-3, atol=1e-4 * scale + 1e-6, equal_nan=True)


def _thawed(network: nn.Module) -> list[str]:
    """Unfreeze a network that is frozen as a whole, in place; return how it will be trained, in words."""
    frozen = [parameter for parameter in network.parameters() if not parameter.requires_grad]
    every = len(list(network.parameters()))
    if frozen and len(frozen) == every:
        network.requires_grad_(True)
        return [f"all of its {every} parameters are frozen, as for serving; all of them will be trained"]
    if frozen:
        return [
            f"{len(frozen)} of its {every} parameters are frozen (requires_grad=False); they are "
            "compressed but not trained. Statistics of norms are still re-estimated"
        ]
    return []


def _cast(example_inputs: Any) -> Any:
    if isinstance(example_inputs, Mapping):
        return {name: as_float32(value) for name, value in example_inputs.items()}
    if isinstance(example_inputs, Tensor):
        return as_float32(example_inputs)
    return tuple(map(as_float32, example_inputs))
