"""What is known about a network before the first trial: its layers' costs, its sensitivities, the latency floor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..evaluators.meters.latency import spread
from ..spaces.candidate import Candidate, Value
from ..spaces.layers import Activations, Branch, Group, Layer, Network
from ..spaces.space import Choice, Space
from .cost_model import CostModel
from .level_filter import DroppedLevel, reduced


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Everything that a search knows before its first trial.

    Attributes:
        network: layers, groups, and the layers left alone, with the reason.
        baseline_ms: the unchanged network's latency.
        baseline_low_ms: smallest of its windows' medians; the spread is a property of the machine.
        baseline_high_ms: largest of its windows' medians.
        timed: candidates that were timed for the profile, as plain data, with their milliseconds.
        device: the device that measured; empty for this machine.
        others_ms: the unchanged network's latency on the study's other devices, by their names.
        others_spread: the spread of each of these; see `Calibration.spread`.
        costs: costs of the layers.
        damage: the damage of each choice's levels, each applied alone: the mean squared change of the outputs over
            their variance.
        floor_ms: latency of the fastest candidate in the space; None if it cannot be built.
        dropped: levels that are not offered, because they do not pay on the runtime.
        global_pruning: the pruning ratios of the groups for one threshold over the whole network, by the share of all
            channels that it removes, as text.
        distance: distance between a student's outputs and its teacher's, and why it was chosen.

    """

    network: Network
    baseline_ms: float
    baseline_low_ms: float
    baseline_high_ms: float
    costs: CostModel
    damage: Mapping[str, tuple[float, ...]]
    floor_ms: float | None
    dropped: tuple[DroppedLevel, ...] = ()
    global_pruning: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    timed: tuple[tuple[Mapping[str, Mapping[str, Value]], float], ...] = ()
    device: str = ""
    others_ms: Mapping[str, float] = field(default_factory=dict)
    distance: str = ""
    others_spread: Mapping[str, float] = field(default_factory=dict)

    @property
    def spread(self) -> float:
        """The spread of the unchanged network's latency during its calibration; see `Calibration.spread`."""
        return spread(self.baseline_low_ms, self.baseline_ms, self.baseline_high_ms)

    @property
    def slowness(self) -> float:
        """How many times slower the unchanged network is on the slowest device than on the first; at least 1."""
        return max((self.baseline_ms, *self.others_ms.values())) / self.baseline_ms

    @property
    def overhead_note(self) -> str:
        """Return a warning if most of the time is spent outside of layers; empty otherwise."""
        if self.costs.other_ms <= 0.5 * self.costs.total_ms:
            return ""
        return (
            f"{self.costs.other_ms:.3g} of the network's {self.costs.total_ms:.3g} ms are not spent in layers but "
            "between them (activations, norms, copies, attention's own products) and on the call itself: compression "
            "speeds up only the rest, and what pruning makes smaller"
        )

    def space(self, full: Space) -> Space:
        """Return a space without the dropped levels."""
        return reduced(full, self.dropped)

    def predict_ms(self, candidate: Candidate) -> float:
        """Return the predicted latency of a candidate, in milliseconds."""
        return self.costs.predict_ms(self.network, candidate)

    def damage_at(self, choice: Choice, level: int) -> float:
        """Return the damage of one choice alone; 0 if unknown."""
        return self.damage[choice.name][level] if choice.name in self.damage else 0.0

    def damage_of(self, space: Space, levels: Mapping[str, int]) -> float:
        """Return the summed damage of a point's choices."""
        return sum(self.damage_at(choice, levels[choice.name]) for choice in space.choices)

    def reasons(self) -> tuple[str, ...]:
        """Return lines about what limits the speed-up: the floor, the most expensive layers, and layers left alone."""
        where = f" on {self.device}" if self.others_ms else ""
        dearest = sorted(self.costs.layer_ms.items(), key=lambda item: -item[1])[:3]
        layers = ", ".join(f"{name} {ms:.2f} ms" for name, ms in dearest)
        other = f"everything outside of layers: {self.costs.other_ms:.2f} ms"
        lines = [f"  What costs most in the baseline{where}: {layers}; {other}."]
        if self.floor_ms is not None:
            lines.insert(0, f"  The floor, measured with everything at its strongest{where}: {self.floor_ms:.2f} ms.")
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
            layers=tuple(Layer(**_tuples(row)) for row in parts["layers"]),
            groups=tuple(Group(**_tuples(row)) for row in parts["groups"]),
            activations=tuple(Activations(**_tuples(row)) for row in parts.get("activations", ())),
            left_alone=tuple((name, why) for name, why in parts["left_alone"]),
            macs=parts.get("macs", 0),
            unreached=parts.get("unreached", 0),
            branches=tuple(Branch(**_tuples(row)) for row in parts.get("branches", ())),
            resolutions=tuple(parts.get("resolutions", ())),
        )
        costs = CostModel(**fields.pop("costs"))
        dropped = tuple(DroppedLevel(**row) for row in fields.pop("dropped", ()))
        damage = {name: tuple(by_level) for name, by_level in fields.pop("damage").items()}
        timed = tuple((axes, milliseconds) for axes, milliseconds in fields.pop("timed", ()))
        return cls(network=network, costs=costs, dropped=dropped, damage=damage, timed=timed, **fields)


def _tuples(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields as they were before JSON made lists of tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in row.items()}


NARROW = 0.5
"""Uniform pruning ratio at which it is timed whether INT8 pays in narrow layers too."""
