"""Turns a candidate into a compressed network: prune, quantize, distil, export, in this order."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx
import torch
from torch import nn

from ..errors import InfeasibleError, StudyError, blamed, gist
from ..spaces.candidate import Candidate
from ..spaces.capabilities import SYMMETRIC, Capabilities, Integers
from ..spaces.layers import Network
from ..spaces.space import Choice, Space
from ..studies.networks.copied import copied
from ..studies.random_states import seeded
from ..studies.task import Batch, Task, have_a_batch
from .batch_norm import estimate_batch_norm, fold_batch_norm
from .batches import Endless, one_pass
from .distillation import distill
from .distillation.answers import Answers
from .distillation.training import Training
from .frozen import freeze_as
from .inherited_weights import Ancestor
from .onnx_files import qdq, recurrent_layers
from .onnx_files.export import to_onnx
from .onnx_files.written import Written, in_file, in_network, lacks
from .phases import TECHNIQUES, Phase, applied, phases
from .quantization import recurrent
from .quantization.quantize import Quantized, Scales, calibration_of, strip
from .refit import LayerOutputs
from .stream import Stream
from .supplies import GRADIENTS, RANGES, STATISTICS, affordable, divided, enough, joined
from .technique import Supplies


@dataclass(frozen=True, eq=False)
class Begun:
    """A network to which the techniques of the first phase were applied, before anything else."""

    phase: Phase
    model: nn.Module


@dataclass(frozen=True, kw_only=True)
class Compressed:
    """A network with a candidate applied.

    Attributes:
        model: runs in PyTorch, with quantization simulated.
        onnx: the canonical ONNX file; empty where there is none, and no runtime needs one.
        params: weights and biases.
        written: what its file multiplies and accumulates, and how its weights are stored there.
        plain: the same network in float, batch norms folded and without quantizers.
        quantized: names of its layers that are meant to compute in INT8.
        scales: what those of them round their inputs and weights to that are not recurrent.
        apply_s: seconds that the techniques took, without training.
        export_s: seconds that the export took.
        ancestor: what others may start from; None if it was not trained, or has other layers than the original.
        begun: what its training may begin with; None if it was trained.

    """

    model: nn.Module
    onnx: bytes
    params: int
    written: Written
    plain: nn.Module
    quantized: frozenset[str] = frozenset()
    scales: Mapping[str, Scales] = field(default_factory=dict)
    apply_s: float = 0.0
    export_s: float = 0.0
    ancestor: Ancestor | None = None
    begun: Begun | None = None

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one example."""
        return self.written.macs

    @property
    def low_precision(self) -> float:
        """The share of multiply-accumulates that the file computes on integers."""
        return self.written.low_precision

    def state(self) -> dict[str, torch.Tensor]:
        """Return the network's float weights by name, batch norms folded; each is a copy."""
        return {k: v.contiguous().clone() for k, v in self.plain.state_dict().items()}


def space_of(network: Network, capabilities: Capabilities, task: Task | None = None) -> Space:
    """Return the space of everything that the techniques offer for a network on a runtime.

    Args:
        network: its layers and groups.
        capabilities: of the runtime.
        task: says which settings do something in its training; None offers all of them.

    """
    found: list[Choice] = []
    stored = replace(network, layers=tuple(layer for layer in network.layers if layer.stored))
    for technique in TECHNIQUES:
        offers = technique.choices(stored, capabilities)
        found += [*offers, *technique.settings()] if offers else []
    if task is not None and task.fit is not None:
        found = [choice for choice in found if choice.name != "pruning:penalty"]  # a term of a loss of ours
    found += distill.CHOICES if task is None else distill.choices(task)
    conflicts = (conflict for technique in TECHNIQUES for conflict in technique.conflicts(stored, found))
    return Space(tuple(found), tuple(conflicts))


def supplies_of(task: Task, batch: int | None = None, *, integers: Integers = SYMMETRIC) -> Supplies:
    """Return the example inputs and as much data for statistics, ranges and gradients as a trial has time for.

    Args:
        task: gives both.
        batch: how many examples are served at a time; None takes the task's example inputs as they are.
        integers: that all of its runtimes take.

    Raises:
        StudyError: a batch is asked for, and the inputs have no first dimension in common.

    """
    if batch is not None and not have_a_batch(task.examples):
        shapes = ", ".join(str(tuple(x.shape)) for x in task.examples)
        raise StudyError(f"--batch needs inputs with one first dimension; this task's are {shapes}. Leave it out")
    most = affordable(task.base, task.examples)

    def some(source: Iterable[Batch], wanted: int) -> list[Batch]:
        return enough(((batch, len(task.inputs(batch)[0])) for batch in source), min(wanted, most))

    with seeded(0):  # the same batches in every process
        source = one_pass(task.train) if task.calibration is None else task.calibration
        statistics = joined(task.base, [task.inputs(batch) for batch in some(source, STATISTICS)])
    with seeded(0):
        batches = [part for batch in some(one_pass(task.train), GRADIENTS) for part in divided(batch)]
    calibration = enough(((inputs, len(inputs[0])) for inputs in statistics), min(RANGES, most))
    examples = task.examples if batch is None else tuple(_tiled(x, batch) for x in calibration[0])
    return Supplies(
        examples=examples,
        calibration=calibration,
        statistics=statistics,
        batches=batches,
        loss=task.loss,
        integers=integers,
        original=LayerOutputs(task.base, statistics),
    )


def _tiled(inputs: torch.Tensor, batch: int) -> torch.Tensor:
    """Return a number of examples, repeated if there are too few."""
    repeated = itertools.islice(itertools.cycle(range(len(inputs))), batch)
    return inputs[list(repeated)]


def apply_candidate(
    task: Task,
    candidate: Candidate,
    supplies: Supplies,
    *,
    epochs: float,
    seed: int = 0,
    stream: Stream | None = None,
    answers: Path | None = None,
    ancestor: Ancestor | None = None,
    begun: Begun | None = None,
    deadline: float = math.inf,
    pause: Callable[[], None] | None = None,
) -> Compressed:
    """Apply a candidate to a task's network, train what is left, and export it.

    Args:
        task: the network and its data; neither is changed.
        candidate: what to do.
        supplies: see `supplies_of`.
        epochs: passes over the training data, shared among the `phases`; 0 leaves the network untrained (one-shot).
        seed: random seed.
        stream: the training data of the study, and where in them to begin; None draws an order from the seed.
        answers: folder of the teacher's outputs for the batches of the stream; None computes them.
        ancestor: a trained network to start from, nowhere pruned more than the candidate; None starts from the task's.
        begun: of the same candidate and ancestor, so that its first phase is not applied again.
        deadline: a time of `time.monotonic` after which training gives up.
        pause: is called before each batch of training, and may wait.

    Raises:
        InfeasibleError: the network cannot be built, trained or exported that way.
        MemoryError: there is not enough memory for it.
        Exception: the task's own loss or data raised it; `blamed` tells which.

    """
    batches = Endless(task.train, Stream(seed=seed) if stream is None else stream)
    kept = None if answers is None or stream is None else Answers(answers, batches)
    compared = supplies.calibration[:1]
    training = Training(task, batches, kept, compared, epochs=epochs, seed=seed, deadline=deadline, pause=pause)
    apply_s = 0.0
    try:
        with _building():
            model, to_do = copied(task.base).eval(), candidate
            fresh = ancestor is None and supplies.original is not None and supplies.original.model is task.base
            if ancestor is not None:
                model = ancestor.network(model, supplies)
                to_do = ancestor.beyond(candidate, task.base)
            small = ancestor is not None or task.student is not None
            ways = phases(to_do, model, supplies.examples, small=small)
        for number, phase in enumerate(ways):
            started = time.monotonic()
            with _building():
                if begun is not None and not number and begun.phase == phase:
                    model = copied(begun.model)
                else:
                    known = supplies.original if fresh and not number else None
                    model = applied(model, phase.techniques, phase.candidate, supplies, known)
                if not epochs and not number and not supplies.rough:
                    begun = Begun(phase, copied(model))
                apply_s += time.monotonic() - started
                if (phase.techniques or task.student) and not phase.folded and not phase.refitted:
                    estimate_batch_norm(model, supplies.calibration if epochs else supplies.statistics)
            if epochs:
                freeze_as(model, task.base)
                shares, penalty = tuple(each.share for each in ways), phase.penalty
                with _held(model, candidate):
                    training.run(model, candidate, shares, number, folded=phase.folded, penalty=penalty)
            if epochs and not phase.folded:
                estimate_batch_norm(model, supplies.statistics)
                ancestor = Ancestor.of(candidate, model)
        started = time.monotonic()
        with _building():
            built = _export(model, candidate, supplies)
        export_s = time.monotonic() - started
        return replace(built, apply_s=apply_s, export_s=export_s, ancestor=ancestor, begun=None if epochs else begun)
    except RuntimeError as error:
        if _lacks_memory(error):
            raise MemoryError(str(error)) from error
        raise
    finally:
        batches.close()


@contextmanager
def _building() -> Iterator[None]:
    """Report torch's shape errors as infeasible candidates, but not errors from the user's own functions."""
    try:
        yield
    except RuntimeError as error:
        if blamed(error) or _lacks_memory(error):
            raise
        raise InfeasibleError(f"the network cannot be built: {gist(error)}", rung="build") from error


def _lacks_memory(error: RuntimeError) -> bool:
    """Return whether torch ran out of memory; on a CPU only the message shows it."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


@contextmanager
def _held(model: nn.Module, candidate: Candidate) -> Iterator[None]:
    """Keep a network's zeros, palettes and other structure while it is trained."""
    with ExitStack() as stack:
        for technique in TECHNIQUES:
            if candidate[technique.axis]:
                stack.enter_context(technique.hold(model, candidate))
        yield


def _file(plain: nn.Module, supplies: Supplies) -> onnx.ModelProto:
    """Return a float network as an ONNX graph; an empty one if none can or need be made."""
    try:
        return to_onnx(plain, supplies.examples, supplies.way)
    except InfeasibleError:
        if supplies.onnx:
            raise
        return onnx.ModelProto()


def _export(model: nn.Module, candidate: Candidate, supplies: Supplies) -> Compressed:
    quantized = any(isinstance(module, Quantized) for module in model.modules())
    folded = model if quantized else fold_batch_norm(model, supplies.examples)
    rounded = recurrent.quantized(folded)
    plain, scales = strip(folded)
    file, method = _file(plain, supplies), calibration_of(candidate)
    asymmetric = supplies.integers.asymmetric
    graph = qdq.insert(file, plain, scales, supplies.calibration, method=method, asymmetric=asymmetric)
    rounded_both = {name: scale for name, scale in scales.items() if scale.input is not None}  # not in INT4
    graph = recurrent_layers.insert(graph, plain, rounded)
    layers = qdq.owners(file, plain)
    found = in_file(graph, layers, supplies.examples) if layers else in_network(plain, supplies.examples)
    lacking = lacks(found, candidate)
    if lacking:
        raise InfeasibleError(f"nothing of the {lacking} chosen is in the file: {qdq.UNSTORED}", rung="build")
    return Compressed(
        model=folded,
        onnx=graph.SerializeToString(),
        params=sum(p.numel() for p in plain.parameters()),
        written=found,
        plain=plain,
        quantized=rounded.union(rounded_both),
        scales=rounded_both,
    )
