"""What is learned of a network before the first trial: what its layers cost, what each choice damages, the floor."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from ..compressors import qdq
from ..compressors.fold import estimate_batch_norm
from ..compressors.pipeline import TECHNIQUES, Compressed, compress
from ..compressors.technique import Supplies, Technique
from ..errors import InfeasibleError
from ..evaluators.latency import SEARCH, Calibration, Meter
from ..evaluators.runtimes import Runtime
from ..evaluators.served import source_of
from ..spaces.candidate import BITS, Candidate
from ..spaces.layers import Group, Layer, Network
from ..spaces.space import Choice, Space
from ..studies.task import Task
from .costs import CostModel, layer_costs

PROBE_BATCHES = 2
PROBE_TIMEOUT_S = 600.0

Notice = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Everything that a search knows beforehand.

    Attributes:
        network: layers, groups, and what is left alone and why.
        baseline_ms: the unchanged network's latency.
        baseline_low_ms: least of its windows' medians; the spread is a property of the machine.
        baseline_high_ms: largest of its windows' medians.
        costs: latency of each layer.
        damage: for each choice, how far its middle level alone moves the outputs: the mean squared change over
            the outputs' variance.
        floor_ms: latency of the fastest candidate that the space can express; None where it cannot be built.

    """

    network: Network
    baseline_ms: float
    baseline_low_ms: float
    baseline_high_ms: float
    costs: CostModel
    damage: Mapping[str, float]
    floor_ms: float | None

    def predict_ms(self, candidate: Candidate) -> float:
        """Return the predicted latency of a candidate, in milliseconds."""
        return self.costs.predict_ms(self.network, candidate)

    def damage_of(self, space: Space, levels: Mapping[str, int]) -> float:
        """Return the summed damage of a point's choices; a level's damage grows with its square."""
        return sum(
            self.damage[choice.name] * (levels[choice.name] / middle(choice)) ** 2
            for choice in space.choices
            if choice.name in self.damage and levels[choice.name]  # an infinite damage of nothing is nothing
        )

    def reasons(self) -> tuple[str, ...]:
        """Say what holds the network back: the floor, the layers that cost most, and what cannot be compressed."""
        dearest = sorted(self.costs.layer_ms.items(), key=lambda item: -item[1])[:3]
        layers = ", ".join(f"{name} {ms:.2f} ms" for name, ms in dearest)
        other = f"all that is no layer: {self.costs.other_ms:.2f} ms"
        lines = [f"  What costs most in the baseline: {layers}; {other}."]
        if self.floor_ms is not None:
            lines.insert(0, f"  The floor, measured with everything at its strongest: {self.floor_ms:.2f} ms.")
        lines += [f"  {name} is left alone: {why}." for name, why in self.network.left_alone[:5]]
        return tuple(lines)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON; `from_dict` reads it back equal."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Profile:
        """Read a profile back from `to_dict`."""
        fields = dict(content)
        parts = fields.pop("network")
        network = Network(
            layers=tuple(Layer(**{**row, "in_groups": tuple(row["in_groups"])}) for row in parts["layers"]),
            groups=tuple(Group(**{**row, "members": tuple(row["members"])}) for row in parts["groups"]),
            left_alone=tuple((name, why) for name, why in parts["left_alone"]),
        )
        return cls(network=network, costs=CostModel(**fields.pop("costs")), **fields)


def middle(choice: Choice) -> int:
    """Return the level at which a choice is probed; at least 1."""
    return max(1, (len(choice.levels) - 1) // 2)


def profile(
    task: Task,
    supplies: Supplies,
    network: Network,
    space: Space,
    base: Compressed,
    artefact: bytes,
    runtime: Runtime,
    calibration: Calibration,
    meter: Meter,
    notice: Notice,
) -> Profile:
    """Measure the floor and uniform quantization, share the latency among layers, probe every choice once.

    Args:
        task: the network and its data.
        supplies: see `supplies_of`.
        network: the parts of the network.
        space: what may vary.
        base: the network that is compressed, unchanged and exported: the baseline, or the task's student.
        artefact: the same in the runtime's own file.
        runtime: serves the models.
        calibration: the baseline's own time.
        meter: times candidates.
        notice: is told what is being done.

    """
    notice("what the layers cost")
    base_ms = calibration.median_ms
    if task.student is not None:
        base_ms = meter.measure(artefact, SEARCH, timeout_s=PROBE_TIMEOUT_S).median_ms
    kernels = runtime.kernels(artefact, [x.numpy() for x in supplies.examples])
    node_ms = {kernel.name: kernel.milliseconds for kernel in kernels if kernel.milliseconds is not None}
    layers = qdq.layers_of(onnx.load_from_string(base.onnx), base.model)
    costs = layer_costs(network, base.onnx, layers, node_ms, base_ms)

    def measured_ms(candidate: Candidate) -> float | None:
        try:
            built = compress(task, candidate, supplies, epochs=0)
        except Exception:  # a user's forward may fail in any way
            return None
        try:
            served = runtime.convert(source_of(built, supplies))
            return meter.measure(served, SEARCH, timeout_s=PROBE_TIMEOUT_S).median_ms
        except InfeasibleError:
            return None

    notice("the fastest network that the space can express")
    strongest = {choice.name: len(choice.levels) - 1 for choice in space.choices if choice.neutral is not None}
    pruned_only = {name: level for name, level in strongest.items() if not name.startswith(f"{BITS}:")}
    candidates = [space.candidate(levels) for levels in (strongest, pruned_only)]
    floors = [ms for ms in map(measured_ms, dict.fromkeys(candidates)) if ms is not None]
    quantized_ms = measured_ms(space.at(lambda choice: int(choice.axis == BITS)))
    if quantized_ms is not None:
        gain = (base_ms - quantized_ms) / max(base_ms - costs.other_ms, 1e-9)
        costs = replace(costs, integer_factor=max(0.05, 1 - gain))
    return Profile(
        network=network,
        baseline_ms=calibration.median_ms,
        baseline_low_ms=calibration.low_ms,
        baseline_high_ms=calibration.high_ms,
        costs=costs,
        damage=damages(task.base, supplies, space, notice),
        floor_ms=min(floors, default=None),
    )


def damages(model: nn.Module, supplies: Supplies, space: Space, notice: Notice) -> dict[str, float]:
    """Return for each compressing choice how far its middle level alone moves the outputs.

    A choice that cannot be applied has infinite damage.
    """
    batches = supplies.calibration[:PROBE_BATCHES]
    few = replace(supplies, calibration=batches)
    model = copy.deepcopy(model).eval()
    before = _outputs(model, batches)
    techniques: dict[str, Technique] = {technique.axis: technique for technique in TECHNIQUES}
    choices = [choice for choice in space.choices if choice.neutral is not None]
    found = {}
    for number, choice in enumerate(choices):
        notice(f"what each choice damages ({number + 1} of {len(choices)})")
        try:
            alone = Candidate({choice.axis: {choice.target: choice.levels[middle(choice)]}})
            changed = techniques[choice.axis].apply(model, alone, few)
            estimate_batch_norm(changed, batches)
            change = float((_outputs(changed, batches) - before).square().mean() / before.var().clamp_min(1e-12))
        except Exception:  # a user's forward may fail in any way
            change = float("inf")
        found[choice.name] = change if change == change else float("inf")
    return found


def _outputs(model: nn.Module, batches: Sequence[tuple[Tensor, ...]]) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(*inputs) for inputs in batches])
