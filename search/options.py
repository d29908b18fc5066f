"""The options of a run, checked once, where they enter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import partial
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from ..errors import UsageError
from ..evaluators.runtimes import plain
from ..pareto.limit_options import LIMITS, parse_limits
from ..pareto.limits import Limits
from ..storage.invocation import UNITS, Invocation
from ..units import Quantity, is_a, parse_duration, parse_size

if TYPE_CHECKING:
    from ..studies.task import Task

SAMPLERS = ("surrogate", "mutation", "tpe", "nsga2", "random")
"""Search methods after the initial design."""

QUANTITIES: Mapping[str, tuple[str, Callable[[Quantity], float]]] = {
    "time_budget": ("time_budget_s", partial(parse_duration, option="--time-budget")),
    "trial_timeout": ("trial_timeout_s", partial(parse_duration, option="--trial-timeout")),
    "trial_memory": ("trial_memory_bytes", partial(parse_size, option="--trial-memory")),
}
"""Further quantities that may be given in words, with the fields of `Options` that they set."""

LEAST = {"trials": 1, "workers": 0, "seed": 0, "threads": 1, "batch": 1, "epochs": 0, "final_epochs": 0}
"""The least value of each number that has one."""

TYPES = {
    bool: "True or False",
    int: "a whole number",
    float: "a finite number",
    str: "text",
    Path: "a path",
    tuple[str, ...]: "names, in a tuple",
}
"""The types of `Options`, in words."""


def parse_options(words: Mapping[str, Any]) -> Options:
    """Return options given in words or numbers; None means the default.

    Args:
        words: `LIMITS`, `QUANTITIES`, and further fields of `Options` unchanged; a list of names may be a single one.

    Raises:
        UsageError: an option does not take its value.
    """
    given = {name: value for name, value in words.items() if value is not None}
    found: dict[str, Any] = parse_limits(**{name: given.pop(name) for name in LIMITS if name in given})
    for name, value in given.items():
        if name in QUANTITIES:
            field, parse = QUANTITIES[name]
            found[field] = parse(value)
        elif name in ("runtimes", "measure_on"):
            found[name] = (value,) if isinstance(value, str) else tuple(value)
        else:
            found[name] = value
    return Options(**found)


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of a run.

    Attributes:
        target_ms: latency that a model must meet.
        min_accuracy: lowest metric on the validation data; this and the next four are the `Limits` besides the target.
        min_change: lowest difference of the metric from the unchanged network's.
        max_size_bytes: most bytes of the served file.
        max_memory_bytes: most bytes of memory of a process that serves the model.
        max_energy_mj: most millijoules of one inference.
        unit: unit of a given least accuracy; the metric's unit, once that is known.
        out: run directory.
        runtimes: runtimes that serve and time the models; milliseconds refer to the first one's baseline.
        trials: total number of trials in the study.
        time_budget_s: seconds for the whole run; no trial starts when the final evaluation needs the rest. None means
            no limit.
        trial_timeout_s: seconds after which a trial is stopped.
        trial_memory_bytes: memory above which a trial is stopped; None means no limit.
        workers: parallel trials; 0 runs them in this process, None takes what the cores and the memory of this machine,
            or of the cluster, allow; see `capacity`.
        ray_address: address of a running Ray cluster to train on; None trains on this machine.
        measure_on: resources of cluster nodes to measure on; layers' costs come from the first. Empty measures on this
            machine.
        sampler: search method after the initial design.
        seed: random seed.
        threads: threads of a served model.
        batch: examples per inference; None takes the task's.
        percentile: percentile of the run times that must meet the target; 50 is the median.
        promote: whether a candidate stops untrained if even an optimistic prediction leaves it behind the front.
        inherit: whether a candidate starts from the weights of a trained neighbour.
        compact: whether models are also kept as compact files, whose bytes count as size.
        storage: URL of the database with the study; None keeps it in the run directory.
        artifacts: URL where workers keep files of trials; None keeps them in the run directory, which all must reach.
        tensorboard: folder where the trials are logged for TensorBoard; None logs nothing.
        epochs: passes over the training data per trial; None takes the task's.
        final_epochs: passes for the final training of each model; None takes the task's.

    Raises:
        UsageError: a value is out of its range.

    """

    target_ms: float
    out: Path
    runtimes: tuple[str, ...] = ("onnxruntime",)
    trials: int = 24
    time_budget_s: float | None = None
    trial_timeout_s: float = 1800.0
    workers: int | None = None
    ray_address: str | None = None
    measure_on: tuple[str, ...] = ()
    sampler: str = "surrogate"
    seed: int = 0
    threads: int = 1
    batch: int | None = None
    percentile: float = 50.0
    promote: bool = True
    inherit: bool = True
    compact: bool = False
    storage: str | None = None
    epochs: float | None = None
    final_epochs: float | None = None
    min_accuracy: float | None = None
    min_change: float | None = None
    max_size_bytes: float | None = None
    max_memory_bytes: float | None = None
    max_energy_mj: float | None = None
    unit: str | None = field(default=None, compare=False)
    trial_memory_bytes: float | None = None
    artifacts: str | None = None
    tensorboard: str | None = None

    @property
    def limits(self) -> Limits:
        """The limits that a model must meet."""
        return Limits(**{field.name: getattr(self, field.name) for field in fields(Limits)})

    def invocation(
        self,
        study: str = "",
        source: Mapping[str, object] | None = None,
        about: Mapping[str, str] | None = None,
    ) -> Invocation:
        """Return the invocation to keep in the run directory; the arguments are those of `Invocation`."""
        limits = {each.name for each in fields(Limits)}
        given = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in {*limits, "out"}}
        defaults = {each.name: None if each.default is MISSING else each.default for each in fields(self)}
        changed = {name: value for name, value in given.items() if value != defaults[name]}
        return Invocation.of(self.limits, changed, study, source, about)

    @property
    def deployments(self) -> int:
        """The number of deployments: each runtime on each device."""
        return len(self.runtimes) * max(1, len(self.measure_on))

    def passes(self, task: Task) -> tuple[float, float]:
        """Return the passes over the training data of a trial, and of the final training."""
        return (
            task.epochs if self.epochs is None else self.epochs,
            task.final_epochs if self.final_epochs is None else self.final_epochs,
        )

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(Options).items():
            self._check_type(name, kind)
        for name, least in LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"--{name.replace('_', '-')} must be {least} or more; got {value:g}.")
        if not 1 <= self.percentile <= 99:
            raise UsageError(f"--percentile must be between 1 and 99; got {self.percentile:g}.")
        if self.sampler not in SAMPLERS:
            raise UsageError(f"--sampler must be one of: {', '.join(SAMPLERS)}; got {self.sampler!r}.")
        if len(set(self.runtimes)) < max(1, len(self.runtimes)):
            raise UsageError(f"--runtime must name one runtime or several different ones; got {list(self.runtimes)}.")
        if self.trial_memory_bytes is not None and self.workers == 0:
            raise UsageError(
                "--trial-memory ends a trial's process, which must be a separate one; with --workers 0 it is not. "
                "Give --workers 1 or more."
            )
        self._check_cluster()

    def _check_cluster(self) -> None:
        """Check that the options of a cluster fit together."""
        if self.ray_address is not None and self.workers == 0:
            raise UsageError("--ray-address needs --workers 1 or more, because trials run on the cluster; got 0.")
        if len(set(map(plain, self.measure_on))) < len(self.measure_on):
            raise UsageError(f"--measure-on must name different resources; got {list(self.measure_on)}.")
        if self.measure_on and self.ray_address is None:
            raise UsageError(
                f"--measure-on {self.measure_on[0]} needs --ray-address: its node belongs to a Ray cluster."
            )
        if not self.measure_on and (self.ray_address or "").startswith("ray://"):
            raise UsageError(
                "--ray-address ray://HOST:PORT needs --measure-on NAME, because this machine is not one of its nodes."
            )

    def _check_type(self, name: str, kind: Any) -> None:
        """Check that a field is of one of its types."""
        kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
        value = getattr(self, name)
        if not any(is_a(value, kind) for kind in kinds):
            flag = UNITS.get(name, (name.replace("_", "-"), ""))[0]
            raise UsageError(f"--{flag} must be {TYPES[kinds[0]]}; got {value!r}, of type {type(value).__name__}.")
