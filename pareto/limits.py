"""The limits that a model must meet: the target latency, and others that the user has set.

A candidate is stopped as soon as it certainly costs too much; it meets the limits if it certainly does. Measurements
are kept and limits are not: a study that is resumed with other limits judges its old trials by them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, field, fields, replace

from ..errors import UsageError
from ..evaluators.measurement import Infeasible, Latency, Measurement, Measurements, Outcome, cut, known
from ..evaluators.scores import reserve, standard_error
from ..studies.metric_units import PLAIN, SHARE, change_of, noun, shown, unit_of
from ..units import format_quantity

UNKNOWN = 1.0
"""Violation of a limit on something that was not measured."""

FAR = 10.0
"""From this factor on, a cost is shown as a multiple of its limit, and not in per cent over it."""


@dataclass(frozen=True)
class Limits:
    """The hard constraints of a study.

    Attributes:
        target_ms: maximum milliseconds of the upper end of the latency's interval.
        min_accuracy: minimum metric on the validation data; see `Compared`.
        min_change: minimum difference of that metric from the unchanged network's; see `against`.
        max_size_bytes: maximum size of the served file.
        max_memory_bytes: maximum memory of a fresh process that serves the model.
        max_energy_mj: maximum millijoules of one run.
        unit: of the metric, see `units`; None if the task does not say, and the measured values decide.

    >>> str(Limits(5.0, max_size_bytes=4e6, min_accuracy=0.88)), str(Limits(5.0, min_change=-0.3, unit="dB"))
    ('5 ms, 4 MB, 88.00% accuracy', '5 ms, -0.3 dB in the metric')
    """

    target_ms: float
    _: KW_ONLY
    min_accuracy: float | None = None
    min_change: float | None = None
    max_size_bytes: float | None = None
    max_memory_bytes: float | None = None
    max_energy_mj: float | None = None
    unit: str | None = field(default=None, compare=False)

    def __str__(self) -> str:
        share = self.metric_unit == SHARE
        form = {"memory": "{} of memory", "accuracy": "{} accuracy" if share else "metric {}"}
        words = [form.get(name, "{}").format(self._words(name, limit)) for name, limit in self._asked()]
        if self.min_change is not None:
            words.append(change_of(self.min_change, self.metric_unit))
        return ", ".join(words)

    def _words(self, name: str, value: float) -> str:
        return shown(value, self.metric_unit) if name == "accuracy" else format_quantity(name, value)

    @property
    def metric_unit(self) -> str:
        """The metric's unit: the known one, else by the least accuracy."""
        return unit_of(self.unit, () if self.min_accuracy is None else (self.min_accuracy,))

    def told_by(self, seen: Iterable[Measurement]) -> Limits:
        """Return the limits with the metric's unit, where the task does not say it by all that was measured."""
        return replace(self, unit=unit_of(self.unit, (value for each in seen for value in each.metrics)))

    def _asked(self) -> Iterator[tuple[str, float]]:
        """Yield each limit that was asked for and is known: its name, its value."""
        asked = {
            "latency": self.target_ms,
            "size": self.max_size_bytes,
            "memory": self.max_memory_bytes,
            "energy": self.max_energy_mj,
            "accuracy": self.min_accuracy,
        }
        for name, limit in asked.items():
            if limit is not None:
                yield name, limit

    @property
    def several(self) -> bool:
        """Whether more than a latency was asked for."""
        return self != Limits(self.target_ms)

    @property
    def asked(self) -> dict[str, float | None]:
        """What was asked for, as plain data."""
        return {each.name: getattr(self, each.name) for each in fields(Limits)}

    @property
    def measured(self) -> tuple[str, ...]:
        """What has to be measured of each candidate besides latency, size and accuracy."""
        return tuple(name for name, _ in self._asked() if name in ("memory", "energy"))

    def against(self, baseline: Measurement | None) -> Limits:
        """Return the limits with the minimum change as a minimum accuracy, if the unchanged network's is known.

        If its examples were scored one by one, models are judged on the same examples; see `Compared`.
        """
        if baseline is None or (self.min_change is None and self.min_accuracy is None):
            return self
        least = self.min_accuracy if self.min_change is None else baseline.accuracy + self.min_change
        found = replace(self, min_accuracy=least, min_change=None)
        return Compared(**found.asked, reference=baseline.scores) if baseline.scores else found  # type: ignore[arg-type]

    @property
    def aim(self) -> float | None:
        """The accuracy that a candidate should be predicted to have, so that it meets the minimum."""
        return self.min_accuracy

    def known(self, outcome: Measurement | Infeasible, name: str) -> float | None:
        """Return the value of a cost or of the accuracy that must meet its limit; None if it was not measured."""
        return known(outcome, name)

    def violations(self, outcome: Measurement | Infeasible) -> dict[str, float]:
        """Return by what share of itself each limit is missed; at most 0 is met, and an unknown value is not."""
        found = {}
        for name, limit in self._asked():
            value = self.known(outcome, name)
            missing = UNKNOWN if value is None else (value - limit) / (abs(limit) or 1.0)
            found[name] = -missing if name == "accuracy" and value is not None else missing
        return found

    def largest(self, outcome: Measurement | Infeasible) -> float:
        """Return the largest of the violations."""
        return max(self.violations(outcome).values())

    def satisfied_by(self, measurement: Measurement) -> bool:
        """Return whether a measurement meets every limit."""
        return self.largest(measurement) <= 0

    def surely_violated_by(self, outcome: Measurement | Infeasible) -> bool:
        """Return whether a cost is certainly over its limit: for a latency, the lower end of its ratio is."""
        surely = {} if outcome.latency is None else {"latency": outcome.latency.least_ms}
        costs = ((surely.get(name, known(outcome, name)), most) for name, most in self._asked() if name != "accuracy")
        return any(value is not None and value > most for value, most in costs)

    def still_valid(self, outcome: Outcome) -> bool:
        """Return whether an outcome holds for these limits too.

        It does not if a candidate was stopped early that may meet them, or if a value is missing that may decide.
        """
        if isinstance(outcome, Infeasible):
            return not cut(outcome) or self.surely_violated_by(outcome)
        return not any(self.lacks_measurement((each,)) and not self._missed(each) for each in outcome)

    def _missed(self, outcome: Measurement | Infeasible) -> bool:
        """Return whether some known value misses its limit."""
        return any(share > 0 for name, share in self.violations(outcome).items() if known(outcome, name) is not None)

    def lacks_measurement(self, measurements: Measurements) -> bool:
        """Return whether a limited cost was not measured in some deployment."""
        return any(known(each, name) is None for each in measurements for name in self.measured)

    def distance(self, measurement: Measurement) -> tuple[float, float]:
        """Return the distance of a measurement from the limits, to sort by: the largest violation, then the latency."""
        return max(0.0, self.largest(measurement)), measurement.latency.median_ms

    def verdicts(self, measurement: Measurement) -> dict[str, str]:
        """Return a phrase for each limit that says whether a measurement meets it.

        >>> from ..evaluators.measurement import Latency, Window
        >>> latency = Latency(windows=(Window(baseline_ns=(1,), candidate_ns=(1,)),) * 2, baseline_ms=4.0)
        >>> measured = Measurement(accuracy=0.9, latency=latency, size_bytes=5_000_000, params=1, macs=1)
        >>> Limits(5.0, max_size_bytes=4e6).verdicts(measured)
        {'latency': 'latency up to 4 ms (at most 5 ms)', 'size': 'size 5 MB, 25% over 4 MB'}
        """
        violations, said = self.violations(measurement), {}
        for name, limit in self._asked():
            value, least = self.known(measurement, name), name == "accuracy"
            now = "unknown" if value is None else self._told(measurement, name, value)
            so = f" ({'at least' if least else 'at most'} {self._words(name, limit)})"
            if value is not None and violations[name] > 0:
                far = f"{_under(limit - value, self.metric_unit)} under" if least else _over(value, limit)
                so = f", {far} {self._words(name, limit)}"
            kind = noun(self.metric_unit) if least else name
            said[name] = f"{kind} {'up to ' * (name == 'latency')}{now}{so}"
        return said

    def _told(self, measurement: Measurement, name: str, value: float) -> str:
        return self._words(name, value)

    def reasons(self, measurement: Measurement, others: Iterable[Measurement]) -> tuple[str, ...]:
        """Return sentences on the limits that a measurement misses: by how much, and the best value of the others."""
        violations, lines = self.violations(measurement), []
        others = list(others)
        for name, verdict in self.verdicts(measurement).items():
            if violations[name] > 0:
                values = [value for other in others if (value := self.known(other, name)) is not None]
                best = max(values, default=None) if name == "accuracy" else min(values, default=None)
                so = "" if best is None else f"; the best measured value: {self._words(name, best)}"
                lines.append(f"  It misses: {verdict}{so}.")
        return (*lines, *map("  {}.".format, spread_alone(measurement.latency, self.target_ms)))


@dataclass(frozen=True)
class Compared(Limits):
    """Limits with a minimum accuracy that is judged on the same examples as the unchanged network's.

    A model meets it if its accuracy does, less one standard error of its difference from the unchanged network: with
    about 84 % confidence, its loss on further examples is no larger than allowed. Examples that both get right or
    wrong say nothing about the difference, so this is far more precise than comparing two intervals.

    Attributes:
        reference: the unchanged network's scores on the validation data; see `evaluators.scores`.
    """

    _: KW_ONLY
    reference: str = field(default="", repr=False)

    @property
    def aim(self) -> float | None:
        """The minimum accuracy plus its standard error."""
        return None if self.min_accuracy is None else self.min_accuracy + reserve(self.reference, self.min_accuracy)

    def known(self, outcome: Measurement | Infeasible, name: str) -> float | None:
        """Return the value that must meet its limit; of the accuracy its lower end."""
        value = known(outcome, name)
        if name != "accuracy" or value is None or isinstance(outcome, Infeasible):
            return value
        return value - standard_error(outcome.scores, self.reference)

    def _told(self, measurement: Measurement, name: str, value: float) -> str:
        if name != "accuracy" or value == measurement.accuracy:
            return self._words(name, value)
        error = shown(measurement.accuracy - value, self.metric_unit)
        return f"{self._words(name, measurement.accuracy)} less {error} of standard error"


def same_unit(given: str | None, unit: str | None) -> None:
    """Check that a minimum accuracy was given in the metric's unit, if the metric has one.

    Args:
        given: its unit; None for a number on the metric's scale.
        unit: the metric's; None if it is unknown, and may be a share.

    Raises:
        UsageError: the units differ.
    """
    if given is None or given.lower() == (SHARE if unit is None else unit.lower()):
        return
    rule = "--min-accuracy must be a number on the metric's scale"
    if unit is None or unit == PLAIN:
        way = 'leave the unit out, or let the task say it: Task(metric_unit="dB")'
        raise UsageError(f"{rule}, whose unit is not known; got one in {given}: {way}.")
    example = "-0.5%" if unit == SHARE else f"-0.3{unit}"
    raise UsageError(f"{rule}, or have its unit, {unit}, such as {example}; got one in {given}.")


def merged(limits: Limits, changes: Mapping[str, float]) -> Limits:
    """Return limits with some changes; a minimum accuracy replaces a minimum change, and vice versa.

    >>> str(merged(Limits(5.0, min_change=-0.01), {"min_accuracy": 0.9}))
    '5 ms, 90.00% accuracy'
    """
    if changes.keys() & {"min_accuracy", "min_change"}:
        limits = replace(limits, min_accuracy=None, min_change=None)
    return replace(limits, **changes)  # type: ignore[arg-type]  # mypy takes the mark of keywords for a field


def _under(missing: float, unit: str) -> str:
    return f"{100 * missing:.3g} points" if unit == SHARE else shown(missing, unit)


def _over(value: float, limit: float) -> str:
    """Return how far a cost is over its limit, as words to put before the limit.

    >>> _over(6.2, 5.0), _over(0.757, 0.001)
    ('24% over', '757× the limit of')
    """
    times = value / limit
    if times >= 100:
        return f"{times:.0f}× the limit of"
    return f"{times:.3g}× the limit of" if times >= FAR else f"{100 * (times - 1):.3g}% over"


def spread_alone(latency: Latency, target_ms: float) -> tuple[str, ...]:
    """Return a hint if a target is missed only because the unchanged network's own milliseconds vary; else nothing.

    >>> from ..evaluators.measurement import Window
    >>> windows = (Window(baseline_ns=(2,), candidate_ns=(1,)),) * 3
    >>> spread_alone(Latency(windows=windows, baseline_ms=9.5, baseline_spread=0.1), 5.0)[0][:71]
    "as a ratio it would do: 0.500 to 0.500 of the unchanged network's time,"
    >>> spread_alone(Latency(windows=windows, baseline_ms=9.5), 5.0)
    ()
    """
    if latency.meets(target_ms) or latency.most_ms > target_ms:
        return ()
    low, high = latency.least_ms / latency.baseline_ms, latency.most_ms / latency.baseline_ms
    return (
        f"as a ratio it would do: {low:.3f} to {high:.3f} of the unchanged network's time, and {target_ms:g} ms is "
        f"{target_ms / latency.baseline_ms:.3f} of it; but that time varied by ±{latency.baseline_spread:.0%} while it "
        "was calibrated, and so may these milliseconds. Calibrate on a quieter machine (another --out), or take the "
        "ratio as the target",
    )
