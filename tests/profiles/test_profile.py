"""A profile says what is known about a network, and is kept as JSON."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from autocompress.evaluators.analytic import AnalyticEvaluator
from autocompress.profiles.level_filter import DroppedLevel
from autocompress.profiles.profile import Profile

PROBLEM = AnalyticEvaluator(4)
PROFILE = Profile.from_dict(PROBLEM.profile())


def test_profiles_come_back_from_json() -> None:
    """`Profile.from_dict` undoes `to_dict`, also through JSON."""
    assert Profile.from_dict(PROFILE.to_dict()) == PROFILE
    assert Profile.from_dict(json.loads(json.dumps(PROFILE.to_dict()))) == PROFILE


@pytest.mark.parametrize(("share", "noted"), [(0.4, False), (0.6, True)])
def test_time_outside_of_layers_is_noted(share: float, noted: bool) -> None:
    """A network that spends most of its time outside of layers has a note; another one has none."""
    layers_ms = sum(PROFILE.costs.layer_ms.values())
    costs = replace(PROFILE.costs, other_ms=share / (1 - share) * layers_ms)
    assert ("are not spent in layers" in replace(PROFILE, costs=costs).overhead_note) == noted


def test_dropped_levels_leave_the_space() -> None:
    """The space on offer lacks the levels that do not pay."""
    dropped = DroppedLevel(name="bits:layer0", level=8, before_ms=1.0, after_ms=1.1)
    left = replace(PROFILE, dropped=(dropped,)).space(PROBLEM.space)
    assert {choice.name for choice in PROBLEM.space.choices} - {choice.name for choice in left.choices} == {
        dropped.name
    }


def test_the_slowest_device_tells_the_slowness() -> None:
    """Predictions are of the first device; the slowest one takes so many times longer, and never less."""
    assert PROFILE.slowness == 1.0
    assert replace(PROFILE, others_ms={"slow": 3 * PROFILE.baseline_ms, "fast": 0.1}).slowness == pytest.approx(3.0)
    assert replace(PROFILE, others_ms={"fast": 0.1}).slowness == 1.0


def test_reasons_name_what_limits_the_speed() -> None:
    """The floor, the most expensive layers, and the layers that are left alone."""
    network = replace(PROFILE.network, left_alone=(("head", "it is in `keep`"),))
    lines = replace(PROFILE, network=network, floor_ms=1.5).reasons()
    dearest = max(PROFILE.costs.layer_ms, key=lambda name: PROFILE.costs.layer_ms[name])
    assert lines[0].endswith("1.50 ms.")
    assert f": {dearest} " in lines[1]
    assert lines[2] == "  head is left alone: it is in `keep`."
