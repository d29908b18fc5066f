"""A recorded study as a search problem: what was really measured of some candidates, looked up instead of measured.

A table is a file of lines of JSON, written by ``bench/record.py``: a header, then a row a candidate. A search runs on
it within seconds: whatever its sampler proposes, the nearest recorded candidate that no trial has had is taken.

    problem = RecordedProblem(TABLE)
    store.study.sampler = Pooled(create("mutation", …), problem)
    store.begin(problem.starts(warm_start(problem.space, Profile.from_dict(problem.profile()), target_ms)))
    Driver(store, InlineWorkers(problem), …).run()
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from autocompress.evaluators.evaluator import BARE, Host, Request
from autocompress.evaluators.measurement import Infeasible, Latency, Measurement, Outcome, Window
from autocompress.profiles.profile import Profile
from autocompress.spaces.candidate import Candidate
from autocompress.spaces.space import Choice, Space
from autocompress.storage.study_store import Start
from autocompress.storage.trial_queue import distributions

FORMAT = 1

TABLE = Path(__file__).parents[1] / "recorded" / "fashion_mnist.jsonl"

RUNGS = ("build", "latency", "one-shot", "short", "long")
"""How far a candidate may be taken; the last two are trainings of two lengths, each from the one-shot network."""

UNIT_NS = 10**9
"""A window is kept as the ratio of its medians, and read back as one run of the baseline of this length."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """What one length of training made of a candidate.

    Attributes:
        accuracy: of the trained network, even if worse than the untrained one's; None where there is none.
        seconds: spent on the rungs ``train`` and ``accuracy``.
        reason: why there is no accuracy.
    """

    accuracy: float | None
    seconds: Mapping[str, float]
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Row:
    """All that was measured of one candidate.

    Attributes:
        number: from 0, in the order of the recording.
        origin: how it was chosen, in a word or two.
        candidate: what was built.
        latency: one ratio a window; None where it could not be built or timed.
        size_bytes: of the exported file; 0 where training failed, like the two counts that follow.
        params: weights and biases.
        macs: multiply-accumulates of one example.
        one_shot: accuracy before training; None where it did not come so far.
        trained: by ``short`` and ``long``; empty for the unchanged network and for what did not come so far.
        seconds: spent on ``build``, ``latency`` and ``one-shot``, or all of them on the rung that stopped it.
        reason: why it is infeasible; empty for most.
        rung: where it ended, if it is.
    """

    number: int
    origin: str
    candidate: Candidate
    latency: Latency | None
    size_bytes: int = 0
    params: int = 0
    macs: int = 0
    one_shot: float | None = None
    trained: Mapping[str, Training] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""
    rung: str = ""

    def accuracy(self, upto: str) -> float | None:
        """Return what the ladder keeps after a rung: the better of what was trained and what was not."""
        found = [self.one_shot, self.trained[upto].accuracy if upto in self.trained else None]
        return max((value for value in found if value is not None), default=None)

    def spent(self, upto: str) -> float:
        """Return the seconds from the start to the end of a rung; all that it took, where it ended earlier."""
        before = [s for rung, s in self.seconds.items() if rung not in RUNGS or RUNGS.index(rung) <= RUNGS.index(upto)]
        return sum(before) + (sum(self.trained[upto].seconds.values()) if upto in self.trained else 0.0)

    def to_json(self, space: Space) -> str:
        """Return a line of the table; what can be derived is in it too, for readers without this file."""
        levels = space.levels(self.candidate)
        return json.dumps(
            {
                "number": self.number,
                "origin": self.origin,
                "levels": [levels[choice.name] for choice in space.choices],
                "candidate": self.candidate.to_dict(),
                "latency": None if self.latency is None else _latency_to_dict(self.latency),
                "size_bytes": self.size_bytes,
                "params": self.params,
                "macs": self.macs,
                "one_shot": self.one_shot,
                "trained": {k: {**asdict(v), "better": self.accuracy(k)} for k, v in self.trained.items()},
                "seconds": dict(self.seconds),
                "reason": self.reason,
                "rung": self.rung,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> Row:
        """Read a line of the table back."""
        fields = json.loads(text)
        del fields["levels"]
        latency = fields["latency"]
        for each in fields["trained"].values():
            del each["better"]
        return cls(
            **{
                **fields,
                "candidate": Candidate(fields["candidate"]),
                "latency": None if latency is None else _latency_from_dict(latency),
                "trained": {name: Training(**each) for name, each in fields["trained"].items()},
            }
        )


def _latency_to_dict(latency: Latency) -> dict[str, Any]:
    return {
        "median_ms": round(latency.median_ms, 4),
        "low_ms": round(latency.low_ms, 4),
        "high_ms": round(latency.high_ms, 4),
        "ratios": [round(ratio, 6) for ratio in latency.ratios],
        "contention": [round(window.contention, 3) for window in latency.windows],
        "baseline_ms": latency.baseline_ms,
        "runtime": latency.runtime,
        "clock": latency.clock,
        "threads": latency.threads,
        "percentile": latency.percentile,
        "baseline_spread": round(latency.baseline_spread, 6),
        "build_s": round(latency.build_s, 4),
        "processes": latency.processes,
    }


def _latency_from_dict(fields: Mapping[str, Any]) -> Latency:
    kept = {k: v for k, v in fields.items() if k not in ("median_ms", "low_ms", "high_ms", "ratios", "contention")}
    windows = zip(fields["ratios"], fields["contention"], strict=True)
    return Latency(
        windows=tuple(
            Window(baseline_ns=(UNIT_NS,), candidate_ns=(round(ratio * UNIT_NS),), contention=contention)
            for ratio, contention in windows
        ),
        **kept,
    )


def header(space: Space, profile: Profile, *, epochs: Mapping[str, float], **facts: object) -> str:
    """Return the first line of a table.

    Args:
        space: what may vary.
        profile: what a search knows beforehand.
        epochs: passes over the training data of ``short`` and ``long``.
        facts: whatever else a reader should know, such as the command and the versions.
    """
    choices = [asdict(choice) for choice in space.choices]
    return json.dumps(
        {"format": FORMAT, **facts, "epochs": dict(epochs), "space": choices, "profile": profile.to_dict()}
    )


class RecordedProblem:
    """A table as an evaluator that knows the recorded candidates, and only those.

    Args:
        path: the table.

    Raises:
        ValueError: it is of another format.
    """

    def __init__(self, path: Path = TABLE) -> None:
        first, *lines = path.read_text().splitlines()
        self.header: dict[str, Any] = json.loads(first)
        if self.header["format"] != FORMAT:
            raise ValueError(f"a table must have format {FORMAT}, got {self.header['format']!r} in {path}")
        self.space = Space(
            tuple(Choice(**{**fields, "levels": tuple(fields["levels"])}) for fields in self.header["space"])
        )
        self.epochs: dict[str, float] = self.header["epochs"]
        self.rows = {row.candidate: row for row in map(Row.from_json, lines)}

    @property
    def pool(self) -> tuple[Candidate, ...]:
        """The recorded candidates, in the order of the recording."""
        return tuple(self.rows)

    @cached_property
    def baseline(self) -> Measurement:
        """The unchanged network."""
        unchanged = self.space.candidate({})
        found = self.evaluate(Request(folder="", candidate=unchanged, epochs=0)) if unchanged in self.rows else None
        if not isinstance(found, tuple):
            raise ValueError("a table must hold the unchanged network; this one does not")
        return found[0]

    def profile(self) -> dict[str, Any]:
        """Return what a search knows beforehand, as plain data for `Profile.from_dict`."""
        return dict(self.header["profile"])

    def evaluate(self, request: Request, host: Host = BARE) -> Outcome:
        """Return what was measured with the longest recorded training that a request has epochs for.

        A candidate that is surely slower than the request's target ends there.

        Raises:
            KeyError: the candidate was not recorded; `nearest` finds one that was.
        """
        row = self.rows[request.candidate]
        latency = row.latency
        if latency is None:
            return Infeasible(reason=row.reason, rung=row.rung)
        if request.target_ms is not None and latency.least_ms > request.target_ms:
            reason = f"{latency.median_ms:.2f} ms is over the target of {request.target_ms:g} ms"
            return Infeasible(reason=reason, rung="latency", latency=latency)
        upto = self._upto(request.epochs)
        training = row.trained.get(upto)
        if row.reason or (training is not None and training.accuracy is None):
            reason, rung = (row.reason, row.rung) if training is None else (training.reason, "train")
            return Infeasible(reason=reason, rung=rung, latency=latency)
        accuracy = row.accuracy(upto)
        assert accuracy is not None
        measurement = Measurement(
            accuracy=accuracy,
            latency=latency,
            size_bytes=row.size_bytes,
            params=row.params,
            macs=row.macs,
            one_shot_accuracy=row.one_shot,
            epochs=self.epochs[upto] if training is not None and training.accuracy == accuracy else 0.0,
            seconds={**row.seconds, **(training.seconds if training is not None else {})},
        )
        return (measurement,)

    def _upto(self, epochs: float) -> str:
        """Return the longest recorded training of at most so many epochs."""
        fitting = {name: length for name, length in self.epochs.items() if length <= epochs}
        return max(fitting, key=lambda name: fitting[name], default="one-shot")

    def seconds(self, candidate: Candidate, upto: str = "long") -> float:
        """Return the recorded seconds from the start of a candidate to the end of one of the `RUNGS`.

        ``long`` does not hold what ``short`` took: both begin with the untrained network.
        """
        return self.rows[candidate].spent(upto)

    def nearest(self, candidate: Candidate, taken: Collection[Candidate] = ()) -> Candidate:
        """Return the recorded candidate that differs least and is not taken, the first of equals.

        Each choice counts by how many levels apart the two are, as a share of all its levels.

        Raises:
            ValueError: all are taken.
        """
        if candidate in self.rows and candidate not in taken:
            return candidate
        gone = np.array([other in taken for other in self.rows])
        if gone.all():
            raise ValueError(f"all {len(self.rows)} recorded candidates are taken; a search must have fewer trials")
        distances = np.abs(self._points - self._point(candidate)).sum(axis=1)
        return self.pool[int(np.where(gone, np.inf, distances).argmin())]

    def starts(self, wanted: Iterable[Start]) -> list[Start]:
        """Return a warm start of recorded candidates: those that are wanted, or the nearest that are left."""
        found: dict[Candidate, Start] = {}
        for start in wanted:
            candidate = self.nearest(start.candidate, found.keys())
            found[candidate] = Start(candidate, start.role)
        return list(found.values())

    def _point(self, candidate: Candidate) -> np.ndarray[Any, Any]:
        """Return a candidate's levels between 0 and 1."""
        levels = self.space.levels(candidate)
        return np.array([levels[name] / max(size - 1, 1) for name, size in self.space.sizes.items()])

    @cached_property
    def _points(self) -> np.ndarray[Any, Any]:
        return np.array([self._point(candidate) for candidate in self.rows])


class Pooled(BaseSampler):
    """Proposes what another sampler does, as the nearest recorded candidate that no trial of the study has had.

    Args:
        sampler: proposes.
        problem: knows the candidates.
    """

    def __init__(self, sampler: BaseSampler, problem: RecordedProblem) -> None:
        self.sampler = sampler
        self.problem = problem

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the whole space."""
        return distributions(self.problem.space)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the levels of a recorded candidate; what the other sampler does not relate it draws one by one."""
        related = self.sampler.infer_relative_search_space(study, trial)
        levels = self.sampler.sample_relative(study, trial, related)
        if "fixed_params" in trial.system_attrs:  # the trial was enqueued with a candidate of its own
            return {}
        for name, distribution in search_space.items():
            if name not in levels:
                levels[name] = self.sampler.sample_independent(study, trial, name, distribution)
        candidates = (t.user_attrs.get("candidate") for t in study.get_trials(deepcopy=False))
        taken = {Candidate.from_json(text) for text in candidates if text is not None}
        taken |= self._waiting(study)
        return self.problem.space.levels(self.problem.nearest(self.problem.space.candidate(levels), taken))

    def _waiting(self, study: Study) -> set[Candidate]:
        """Return the candidates that are enqueued and were not begun yet."""
        waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        fixed = (trial.system_attrs.get("fixed_params") for trial in waiting)
        return {self.problem.space.candidate(levels) for levels in fixed if levels}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Return the other sampler's choice, for a parameter that is not of the space."""
        return self.sampler.sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Tell the other sampler."""
        self.sampler.before_trial(study, trial)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Any) -> None:
        """Tell the other sampler."""
        self.sampler.after_trial(study, trial, state, values)

    def reseed_rng(self) -> None:
        """Have the other sampler reseed."""
        self.sampler.reseed_rng()
