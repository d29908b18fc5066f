"""Which candidates are recorded: the warm start for several targets, and a mixture of children and of chance."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from autocompress.pareto.limits import Limits
from autocompress.profiles.profile import Profile
from autocompress.search.samplers.encoding import EncodedSpace
from autocompress.search.samplers.initial_design import warm_start
from autocompress.search.samplers.mutation import MutationSampler
from autocompress.spaces.candidate import Candidate
from autocompress.spaces.space import Space
from autocompress.storage.study_store import PendingTrial, StudyStore

TARGETS = (0.06, 0.045, 0.085)
"""Targets of the warm starts, as shares of the baseline's latency; the first one's are recorded first."""

AIMS = (0.035, 0.1)
"""Between these shares of the baseline's latency children and random points are made fast enough for."""

KINDS = {"child": 0.6, "random": 0.25, "astray": 0.15}
"""Shares of the mixture; those astray are not made to meet anything."""

PRESENT = 0.6
"""Share of the axes that a random point does something on, before it is made fast enough."""


class Aim:
    """Judges trials as a store does, but asks for a latency of its own."""

    def __init__(self, store: StudyStore) -> None:
        self.limits = store.limits
        self.feasible = store.feasible


class Chooser:
    """Says which candidate is recorded next; what was recorded is read from the table, so that it can be resumed.

    Args:
        folder: for the study that children are drawn from.
        space: what may vary.
        profile: predicts latencies.
        targets_ms: of the warm starts.
        seed: random seed.
    """

    def __init__(self, folder: Path, space: Space, profile: Profile, targets_ms: Sequence[float], *, seed: int) -> None:
        self.space = space
        self.profile = profile
        self.seed = seed
        widest_ms = AIMS[1] * profile.baseline_ms
        self.store = StudyStore(folder, None, "record", space, Limits(widest_ms))
        self.aim = Aim(self.store)
        self.store.study.sampler = MutationSampler(EncodedSpace(space, profile), self.aim, seed=seed)
        self.starts: dict[Candidate, str] = {}
        for target_ms in targets_ms:
            for start in warm_start(space, profile, target_ms):
                self.starts.setdefault(start.candidate, start.role or f"warm start for {target_ms:.3g} ms")
        self.first = len(warm_start(space, profile, targets_ms[0]))

    def again(self, candidate: Candidate) -> PendingTrial:
        """Begin a candidate that was recorded before."""
        self.store.study.enqueue_trial(self.space.levels(candidate))
        return self.store.ask()

    def next(self, recorded: Collection[Candidate]) -> tuple[PendingTrial, str]:
        """Begin the next candidate; return how it was chosen too."""
        number = len(self.store.study.get_trials(deepcopy=False))
        left = [candidate for candidate in self.starts if candidate not in recorded]
        if left and (number < self.first or number % 4 == 0):
            return self.again(left[0]), self.starts[left[0]]
        rng = np.random.default_rng([self.seed, number])
        kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
        aim_ms = float(rng.uniform(*AIMS)) * self.profile.baseline_ms
        self.aim.limits = Limits(aim_ms)
        if kind == "child":
            return self.store.ask(), f"{kind} for {aim_ms:.3g} ms"
        levels = self._random(rng)
        if kind == "random":
            levels = self._fast_enough(rng, levels, aim_ms)
        return self.again(self.space.candidate(levels)), f"{kind} for {aim_ms:.3g} ms" if kind == "random" else kind

    def _random(self, rng: np.random.Generator) -> dict[str, int]:
        """Return a point whose axes are as strong as chance wants; settings are drawn evenly."""
        axes = sorted({choice.axis for choice in self.space.choices})
        strength = {axis: rng.beta(0.8, 1.2) * (rng.random() < PRESENT) for axis in axes}
        levels = {}
        for choice in self.space.choices:
            most = len(choice.levels) - 1
            if choice.neutral is None:
                levels[choice.name] = int(rng.integers(most + 1))
            else:
                levels[choice.name] = int(rng.binomial(most, strength[choice.axis]))
        return levels

    def _fast_enough(self, rng: np.random.Generator, levels: dict[str, int], aim_ms: float) -> dict[str, int]:
        """Strengthen random choices until the predicted latency is what it should be."""
        compressing = [choice.name for choice in self.space.choices if choice.neutral is not None]
        now_ms = self.profile.predict_ms(self.space.candidate(levels))
        for name in rng.permutation(compressing * 6):
            if now_ms <= aim_ms:
                break
            if levels[name] + 1 < self.space.sizes[name]:
                stronger = {**levels, str(name): levels[name] + 1}
                then_ms = self.profile.predict_ms(self.space.candidate(stronger))
                if then_ms < now_ms:
                    levels, now_ms = stronger, then_ms
        return levels
