"""The layers in a report and in a model card: what was chosen, and how the file stores it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from autocompress.evaluators.ladder.trial_files import WRITTEN
from autocompress.profiles.profile import Profile
from autocompress.reports.layers import changes, changes_in_words, stored_in_words
from autocompress.spaces.candidate import Candidate
from autocompress.spaces.layers import Activations
from autocompress.storage.run_directory import read_json

from .conftest import Tell


def test_a_choice_that_is_not_in_the_file_shows(tell: Tell, tmp_path: Path) -> None:
    """A layer of which INT8 was asked and which lies there in float is reported so; one that has it, too."""
    profile: Profile | None = tell(1).profile
    assert profile is not None
    one, other = (layer.name for layer in profile.network.layers[:2])
    row = {"macs": 1, "integers": False, "bits": 32, "zeros": 0.0, "distinct": None, "two_four": False}
    (tmp_path / WRITTEN).write_text(json.dumps({one: row, other: {**row, "bits": 8, "integers": True}}))
    written = read_json(tmp_path / WRITTEN)
    found = changes(profile, Candidate({"bits": {one: 8, other: 8}}), {}, written)
    assert [(found[name]["bits"], found[name]["written"]) for name in (one, other)] == [(8, "float"), (8, "INT8")]
    assert "written" not in changes(profile, Candidate({"bits": {one: 8}}), {})[one]


def test_words_tell_how_weights_are_stored() -> None:
    """Bits, integers of weights alone, zeros and palettes have their words; parts follow one another."""
    row = {"macs": 1, "integers": False, "bits": 4, "zeros": 0.0, "distinct": 15, "two_four": False}
    sparse = {**row, "bits": 32, "zeros": 0.5, "distinct": None, "two_four": True}
    written = {"a": row, "b.0": sparse, "b.1": {**row, "bits": 32, "distinct": 16}, "b.2": sparse}
    assert stored_in_words(written, "a") == "weights in INT4"
    assert stored_in_words(written, "b") == "float, two of four zero and float, 16 values"
    assert stored_in_words(written, "c") == ""


def test_layers_add_up_to_what_the_profile_predicts(tell: Tell) -> None:
    """The estimated milliseconds of the layers and the rest are the profile's prediction of the whole."""
    told = tell()
    for trial in told.trials[:20]:
        assert trial.candidate is not None
        parts = told.profile.costs.predict_layers_ms(told.profile.network, trial.candidate)
        total = sum(parts.values()) + told.profile.costs.other_ms
        assert total == pytest.approx(told.profile.predict_ms(trial.candidate))


def test_only_layers_that_change_are_told(tell: Tell) -> None:
    """A pruned group shows in its layer and in the one that reads it; damages are looked up by the trial's levels."""
    profile = tell().profile
    first, second, *_ = (layer.name for layer in profile.network.layers)
    levels = dict.fromkeys(profile.damage, 0) | {f"pruning_ratio:{first}": 2}
    found = changes(profile, Candidate({"pruning_ratio": {first: 0.5}}), levels)
    assert set(found) == {first, second}
    assert found[first]["pruned"] == found[second]["pruned_inputs"] == 0.5
    assert found[first]["damage"] == pytest.approx(profile.damage[f"pruning_ratio:{first}"][2], abs=1e-6)
    assert found[first]["ms"] == pytest.approx(0.5 * profile.costs.layer_ms[first], abs=1e-5)


def test_cheaper_functions_show_at_the_layers_before_them(tell: Tell) -> None:
    """Each layer whose outputs go through them has their level, and the first one their damage."""
    profile = tell().profile
    first, second, *_ = (layer.name for layer in profile.network.layers)
    functions = Activations(name="stage", functions=("silu",), layers=(first, second))
    told = replace(
        profile,
        network=replace(profile.network, activations=(functions,)),
        damage={**profile.damage, "activation:stage": (0.0, 0.25)},
    )
    candidate = Candidate({"activation": {"stage": "relu"}})
    found = changes(told, candidate, dict.fromkeys(told.damage, 0) | {"activation:stage": 1})
    assert {name: change["activation"] for name, change in found.items()} == {first: "relu", second: "relu"}
    assert found[first]["damage"] == 0.25
    assert found[second]["damage"] == 0.0
    assert dict(changes_in_words(candidate, told.network, {}))[first] == "cheaper functions after it (relu)"
