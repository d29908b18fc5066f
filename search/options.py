"""What the user asked for, checked once, where it enters."""

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
from ..units import Words, is_a, parse_duration, parse_size

if TYPE_CHECKING:
    from ..studies.task import Task

SAMPLERS = ("surrogate", "mutation", "tpe", "nsga2", "random")


QUANTITIES: Mapping[str, tuple[str, Callable[[Words], float]]] = {
    "time_budget": ("time_budget_s", partial(parse_duration, option="--time-budget")),
    "trial_timeout": ("trial_timeout_s", partial(parse_duration, option="--trial-timeout")),
    "trial_memory": ("trial_memory_bytes", partial(parse_size, option="--trial-memory")),
}
"""Further quantities that may be in words, and the fields of `Options` that they are."""


def parse_options(words: Mapping[str, Any]) -> Options:
    """Return the options that are asked for in words or numbers; what is None has its default.

    Args:
        words: `LIMITS`, `QUANTITIES`, and further fields of `Options` as they are; several names may be one alone.

    Raises:
        UsageError: a value is none that the option takes.
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
    """How to run a study.

    Attributes:
        target_ms: the latency that a model must meet.
        min_accuracy: the least metric on the validation data; this and the next four are `Limits` beside the target.
        min_change: the least difference of the metric to the unchanged network's.
        max_size_bytes: the most bytes of the file that is served.
        max_memory_bytes: the most bytes of memory of a process that serves it.
        max_energy_mj: the most millijoules of one run.
        unit: in which a least accuracy was given; the metric's, once that is known.
        out: the run directory.
        runtimes: what serves the models, and times them; milliseconds are told by the first one's baseline.
        trials: how many trials the study has when it is done.
        time_budget_s: seconds for the whole run: no trial begins when the end needs the rest; None for no limit.
        trial_timeout_s: seconds after which one trial is given up.
        trial_memory_bytes: a trial that needs more of its worker's node is ended; None for no limit.
        workers: how many trials run at a time; 0 runs them in this process, None takes what this machine's cores and
            memory allow, see `capacity`, or the CPUs of the cluster.
        ray_address: of a running Ray cluster, whose nodes train; None trains on this machine.
        measure_on: resources of the cluster's nodes where is measured: on each, and layers' costs are of the first;
            empty measures on this machine.
        sampler: where candidates come from after the warm start.
        seed: of everything random.
        threads: threads that a served model may use.
        batch: examples that are served at a time; None takes the task's.
        percentile: which of the run times must meet the target; 50 is the median.
        promote: whether a candidate ends untrained where nothing that may be hoped of it brings it onto the front.
        inherit: whether a candidate goes on from the weights of a trained neighbour.
        compact: whether models are kept as compact files too, and their bytes are what counts as size.
        storage: URL of the database that holds the study; None keeps it in the run directory.
        artifacts: URL where workers keep files of trials; None keeps them in the run directory, which all must reach.
        tensorboard: folder in which TensorBoard finds how the trials go; None writes nothing for it.
        epochs: passes over the training data in a trial; None takes the task's.
        final_epochs: passes for each model of the front; None takes the task's.

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
        """What a model must meet."""
        return Limits(**{field.name: getattr(self, field.name) for field in fields(Limits)})

    def invocation(
        self,
        study: str = "",
        source: Mapping[str, object] | None = None,
        about: Mapping[str, str] | None = None,
    ) -> Invocation:
        """Return what is kept of these options in the run directory; the arguments are those of `Invocation`."""
        limits = {each.name for each in fields(Limits)}
        given = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in {*limits, "out"}}
        defaults = {each.name: None if each.default is MISSING else each.default for each in fields(self)}
        changed = {name: value for name, value in given.items() if value != defaults[name]}
        return Invocation.of(self.limits, changed, study, source, about)

    @property
    def places(self) -> int:
        """At how many places a model is served: by each runtime on each device."""
        return len(self.runtimes) * max(1, len(self.measure_on))

    def passes(self, task: Task) -> tuple[float, float]:
        """Return the passes over the training data of a trial, and of a model of the front."""
        return (
            task.epochs if self.epochs is None else self.epochs,
            task.final_epochs if self.final_epochs is None else self.final_epochs,
        )

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(Options).items():
            self._check_type(name, kind)
        if self.sampler not in SAMPLERS:
            raise UsageError(f"--sampler must be one of: {', '.join(SAMPLERS)}; got {self.sampler!r}.")
        for name, least in (("trials", 1), ("workers", 0), ("threads", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"--{name} must be {least} or more; got {value}.")
        if len(set(self.runtimes)) < max(1, len(self.runtimes)):
            raise UsageError(f"--runtime must name one runtime or several different ones; got {list(self.runtimes)}.")
        if self.batch is not None and self.batch < 1:
            raise UsageError(f"--batch must be 1 or more; got {self.batch}.")
        if self.trial_memory_bytes is not None and self.workers == 0:
            raise UsageError(
                "--trial-memory ends a trial's process, so that must be one of its own; with --workers 0 it is not. "
                "Give --workers 1 or more."
            )
        if not 1 <= self.percentile <= 99:
            raise UsageError(f"--percentile must be between 1 and 99; got {self.percentile:g}.")
        if self.ray_address is not None and self.workers == 0:
            raise UsageError("--ray-address needs --workers 1 or more, since trials run on the cluster; got 0.")
        if isinstance(self.measure_on, str) or len(set(map(plain, self.measure_on))) < len(self.measure_on):
            raise UsageError(f"--measure-on must name different resources, in a list; got {self.measure_on!r}.")
        if self.measure_on and self.ray_address is None:
            raise UsageError(
                f"--measure-on {self.measure_on[0]} needs --ray-address: its node is one of a Ray cluster's."
            )
        if not self.measure_on and (self.ray_address or "").startswith("ray://"):
            raise UsageError(
                "--ray-address ray://HOST:PORT needs --measure-on NAME, as this machine is no node of the cluster."
            )
        for name in ("epochs", "final_epochs"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise UsageError(f"--{name.replace('_', '-')} must be 0 or more; got {value:g}.")

    def _check_type(self, name: str, kind: Any) -> None:
        """Check that a field is of one of its types."""
        kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
        value = getattr(self, name)
        if not any(is_a(value, kind) for kind in kinds):
            flag = UNITS.get(name, (name.replace("_", "-"), ""))[0]
            raise UsageError(f"--{flag} must be {TYPES[kinds[0]]}; got {value!r}, of type {type(value).__name__}.")


TYPES = {
    bool: "True or False",
    int: "a whole number",
    float: "a finite number",
    str: "text",
    Path: "a path",
    tuple[str, ...]: "names, in a tuple",
}
"""The types of `Options`, in words."""
