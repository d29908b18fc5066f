"""Turns a candidate into a compressed network: prune, quantize, distil, export — the order of the techniques."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from ..errors import InfeasibleError
from ..spaces.candidate import DISTILLATION, Candidate
from ..spaces.capabilities import Capabilities
from ..spaces.layers import Network
from ..spaces.space import Space
from ..studies.task import Task
from . import distill, qdq
from .export import to_onnx
from .fold import estimate_batch_norm, fold_batch_norm
from .graph import count
from .prune import Prune
from .quantize import Quantize, Quantized, strip
from .technique import Supplies, Technique

SHAPES: tuple[Technique, ...] = (Prune(),)
"""Techniques that change shapes, in order; what they leave is trained with its batch norms in place."""

NUMBERS: tuple[Technique, ...] = (Quantize(),)
"""Techniques that change how numbers are held, in order; batch norms are folded before them."""

CALIBRATION_BATCHES = 4

NUMBERS_RATE = 0.1
"""Share of the learning rate with which a network is trained whose batch norms are folded: nothing evens steps out."""


@dataclass(frozen=True, kw_only=True)
class Compressed:
    """A network with a candidate applied.

    Attributes:
        model: runs in PyTorch, with quantization simulated.
        onnx: the canonical ONNX file.
        params: weights and biases.
        macs: multiply-accumulates of one example.
        plain: the same network in float, batch norms folded and without quantizers.
        quantized: names of its layers that are meant to compute in INT8.
        low_precision: their share of the multiply-accumulates.

    """

    model: nn.Module
    onnx: bytes
    params: int
    macs: int
    plain: nn.Module
    quantized: frozenset[str] = frozenset()
    low_precision: float = 0.0

    def state(self) -> dict[str, torch.Tensor]:
        """Return the network's float weights by name, batch norms folded."""
        return {k: v.contiguous() for k, v in self.plain.state_dict().items()}


def space_of(network: Network, capabilities: Capabilities) -> Space:
    """Return everything that all techniques offer for a network on a runtime."""
    offers = [choice for technique in (*SHAPES, *NUMBERS) for choice in technique.choices(network, capabilities)]
    return Space((*offers, *distill.choices()))


def supplies_of(task: Task, batch: int | None = None) -> Supplies:
    """Return the example inputs and the inputs of a few batches for calibration.

    Args:
        task: gives both.
        batch: how many examples are served at a time; None takes the task's example inputs as they are.
    """
    source = task.train if task.calibration is None else task.calibration
    with torch.random.fork_rng():
        torch.manual_seed(0)  # a loader that shuffles gives the same batches in every process
        calibration = [task.inputs(batch) for batch in itertools.islice(source, CALIBRATION_BATCHES)]
    examples = task.examples if batch is None else tuple(_tiled(x, batch) for x in calibration[0])
    return Supplies(examples=examples, calibration=calibration)


def _tiled(inputs: torch.Tensor, batch: int) -> torch.Tensor:
    """Return so many examples, repeated where there are fewer."""
    repeated = itertools.islice(itertools.cycle(range(len(inputs))), batch)
    return inputs[list(repeated)]


def compress(
    task: Task,
    candidate: Candidate,
    supplies: Supplies,
    *,
    epochs: float,
    seed: int = 0,
    deadline: float = math.inf,
    pause: Callable[[], None] | None = None,
) -> Compressed:
    """Apply a candidate to a task's network, train what is left, and export it.

    Training is shared between the network with its new shapes and the network with its new numbers.

    Args:
        task: the network and its data; neither is changed.
        candidate: what to do.
        supplies: see `supplies_of`.
        epochs: passes over the training data; 0 leaves the network untrained (one-shot).
        seed: of everything random.
        deadline: a time of `time.monotonic` after which training gives up.
        pause: is called before each batch of training, and may wait.

    Raises:
        InfeasibleError: the network cannot be built, trained or exported that way.

    """
    shapes = [t for t in SHAPES if candidate[t.axis]]
    numbers = [t for t in NUMBERS if candidate[t.axis]]
    shares = _shares(epochs, bool(shapes), bool(numbers))
    model = copy.deepcopy(task.model).eval()
    try:
        for stage, techniques, share in (("shapes", shapes, shares[0]), ("numbers", numbers, shares[1])):
            for technique in techniques:
                model = technique.apply(model, candidate[technique.axis], supplies)
            if stage == "shapes" and techniques:
                estimate_batch_norm(model, supplies.calibration)
            if share:
                distill.distil(
                    model,
                    task.model,
                    task,
                    settings=candidate[DISTILLATION],
                    rate=NUMBERS_RATE if stage == "numbers" else 1.0,
                    epochs=share,
                    seed=seed,
                    deadline=deadline,
                    pause=pause,
                )
            if stage == "shapes" and (techniques or share):
                estimate_batch_norm(model, supplies.calibration)
        return _export(model, supplies)
    except (InfeasibleError, MemoryError):
        raise
    except RuntimeError as error:  # what torch raises when shapes do not fit
        raise InfeasibleError(f"the network cannot be built: {str(error).splitlines()[0]}", rung="build") from error


def _shares(epochs: float, shapes: bool, numbers: bool) -> tuple[float, float]:
    if shapes and numbers:
        return 0.6 * epochs, 0.4 * epochs
    return (0.0, epochs) if numbers else (epochs, 0.0)


def _export(model: nn.Module, supplies: Supplies) -> Compressed:
    quantized = any(isinstance(module, Quantized) for module in model.modules())
    folded = model if quantized else fold_batch_norm(model, supplies.examples)
    plain, scales = strip(folded)
    costs = count(plain, supplies.examples)
    graph = qdq.insert(to_onnx(plain, supplies.examples), plain, scales, supplies.calibration)
    macs = sum(cost.macs for cost in costs.values())
    return Compressed(
        model=folded,
        onnx=graph.SerializeToString(),
        params=sum(p.numel() for p in plain.parameters()),
        macs=macs,
        plain=plain,
        quantized=frozenset(scales),
        low_precision=sum(costs[name].macs for name in scales) / macs if macs else 0.0,
    )
