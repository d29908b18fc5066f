"""What a network and its runtimes offer to a search, before anything is measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..compressors.batch_norm import fold_batch_norm
from ..compressors.onnx_files.export import Exported, exported
from ..compressors.onnx_files.qdq import owners
from ..compressors.pipeline import space_of, supplies_of
from ..compressors.pruning.inspect import inspect, unstored
from ..compressors.quantization.quantize import without_kernels
from ..compressors.technique import Supplies, Way
from ..errors import StudyError
from ..evaluators.runtime import Runtime
from ..spaces.capabilities import Capabilities, Integers
from ..spaces.layers import Network
from ..spaces.space import Space
from ..studies.distance import OFF
from ..studies.loss_probe import Chosen, choose_distance
from ..studies.task import Task
from .baseline import baseline_required

ZEROS = (0.5, 0.75, 0.9)
"""Sparsities that are offered where the bytes of compact files count: zeros cost next to nothing there."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a network and its runtimes offer to a search.

    Attributes:
        task: with the distance that its students learn by.
        distance: the same, and why it was chosen.
        supplies: example inputs and calibration data.
        network: its layers and groups.
        space: everything that may be tried, whether it pays or not.
        notes: what the network's owner should know, a sentence each.
        decided: lines of the network's code whose decisions the exporter fixed, though they depend on the inputs.

    """

    task: Task
    distance: Chosen
    supplies: Supplies
    network: Network
    space: Space
    notes: tuple[str, ...] = ()
    decided: tuple[str, ...] = ()


def set_up(task: Task, runtimes: Sequence[Runtime], *, batch: int | None = None, compact: bool = False) -> Setup:
    """Find a network's layers and groups, and what may vary.

    Args:
        task: what is compressed.
        runtimes: serve the models.
        batch: examples that are served at a time; None takes the task's.
        compact: whether the bytes of compact files count as size.

    Raises:
        StudyError: the network cannot be exported, or nothing of it can be compressed.
    """
    needs_onnx = any(served.capabilities.opset is not None for served in runtimes)
    able = _combined([runtime.capabilities for runtime in runtimes], compact=compact)
    supplies = replace(supplies_of(task, batch, integers=able.integers), onnx=needs_onnx)
    network = inspect(task.base, task.examples, keep=task.keep, resolutions=task.resolutions)
    made: Exported | None = None
    if needs_onnx:
        network, made = _exported(network, task, supplies)
        supplies = replace(supplies, way=made.way)
    distance = choose_distance(task)
    task = replace(task, distance=OFF if distance.distance is None else distance.distance)
    network = replace(network, left_alone=(*network.left_alone, *without_kernels(network, able)))
    space = space_of(network, able, task)
    if not any(choice.neutral is not None for choice in space.choices):
        raise StudyError(
            "a network must have a convolution or a linear layer that may be compressed; this one has none. "
            "Take names out of the task's `keep`, or give another network."
        )
    return Setup(
        task=task,
        distance=distance,
        supplies=supplies,
        network=network,
        space=space,
        notes=tuple(filter(None, (made.note if made else "", network.beyond))),
        decided=made.decided if made else (),
    )


def _exported(network: Network, task: Task, supplies: Supplies) -> tuple[Network, Exported]:
    """Export a network; return it without the layers whose weights the file lacks, and how it was exported."""
    plain = fold_batch_norm(task.base, task.examples)
    with baseline_required():
        made = exported(plain, supplies.examples)
        if task.student is not None and not made.way.fixed:  # the network that it replaces is exported as it is
            other = exported(fold_batch_norm(task.model, task.examples), supplies.examples)
            made = made if other.way == Way() else replace(other, graph=made.graph)
    return unstored(network, set(owners(made.graph, plain).values())), made


def _combined(tables: Sequence[Capabilities], *, compact: bool) -> Capabilities:
    """Return what at least one runtime can do, with channel counts that suit all of them.

    Bits of weights alone are offered where every runtime can hold them: one that cannot would be given another network.
    """
    kinds = [table.float_kinds for table in tables if len(table.bits) > 1]
    integers = [table.integers for table in tables if len(table.bits) > 1]
    return replace(
        tables[0],
        integers=Integers(
            asymmetric=all(each.asymmetric for each in integers), narrow=any(each.narrow for each in integers)
        ),
        bits=tuple(sorted({bits for table in tables for bits in table.bits}, reverse=True)),
        float_kinds=frozenset.intersection(*kinds) if kinds else frozenset(),
        weight_bits=tuple(b for b in tables[0].weight_bits if all(b in table.weight_bits for table in tables)),
        sparsity=tuple(dict.fromkeys((*(s for table in tables for s in table.sparsity), *(ZEROS if compact else ())))),
        palettes=compact,
        channel_multiple=math.lcm(*(table.channel_multiple for table in tables)),
    )
