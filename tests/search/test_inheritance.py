"""Which trained model a candidate starts from."""

from __future__ import annotations

from collections.abc import Mapping

from autocompress.evaluators.measurement import Latency, Measurement, Window
from autocompress.pareto.model import Model
from autocompress.search.inheritance import ancestor_of
from autocompress.spaces.candidate import Candidate, Value

LATENCY = Latency(windows=(Window(baseline_ns=(2,), candidate_ns=(1,)),) * 3, baseline_ms=1.0)


def model(name: str, *, epochs: float = 1.0, accuracy: float = 0.9, **axes: dict[str, Value]) -> Model:
    """Return a measured model."""
    measured = Measurement(accuracy=accuracy, latency=LATENCY, size_bytes=1, params=1, macs=1, epochs=epochs)
    return Model(id=name, candidate=Candidate(axes), measurements=(measured,))


def chosen(candidate: Mapping[str, Mapping[str, Value]], *models: Model) -> str:
    """Return the name of a candidate's ancestor; empty where it has none."""
    found = ancestor_of(Candidate(candidate), models)
    return found.id if found else ""


def test_nearest_wider_model_is_the_ancestor() -> None:
    """Of those that have all channels of the candidate the one that lacks least pruning is taken."""
    wanted = {"pruning_ratio": {"a": 0.5, "b": 0.5}}
    far, near = model("far", pruning_ratio={"a": 0.5}), model("near", pruning_ratio={"a": 0.5, "b": 0.25})
    narrower = model("narrower", pruning_ratio={"a": 0.625, "b": 0.5})
    other = model("other", pruning_ratio={"a": 0.5, "c": 0.25})
    assert chosen(wanted, far, near, narrower, other) == "near"
    assert chosen(wanted, far) == "far"
    assert chosen(wanted, narrower, other) == ""


def test_bits_do_not_matter_and_accuracy_decides_between_equals() -> None:
    """Models with the same channels are equal, whatever their numbers."""
    wanted = {"pruning_ratio": {"a": 0.5}, "bits": {"a": 8.0}}
    worse, better = model("worse", pruning_ratio={"a": 0.5}), model("better", pruning_ratio={"a": 0.5}, accuracy=0.95)
    assert chosen(wanted, worse, better) == "better"


def test_far_untrained_and_factorised_models_are_no_ancestors() -> None:
    """Neither a model with less than half of the pruning, nor one that was not trained or has other layers."""
    wanted = {"pruning_ratio": {"a": 0.5, "b": 0.5}}
    assert chosen(wanted, model("far", pruning_ratio={"a": 0.25})) == ""
    assert chosen(wanted, model("raw", pruning_ratio={"a": 0.5, "b": 0.5}, epochs=0.0)) == ""
    assert chosen(wanted, model("factors", pruning_ratio={"a": 0.5, "b": 0.5}, rank={"a": 0.5})) == ""
    assert chosen(wanted, model("original")) == ""
    assert chosen({"bits": {"a": 8.0}}, model("original")) == ""


def test_branches_count_as_whole_groups() -> None:
    """A model without branches is an ancestor of what lacks these and more, and of nothing that has one of them."""
    wanted = {"depth": {"one": "gone", "two": "gone"}, "pruning_ratio": {"a": 0.5}}
    near, other = (
        model("near", depth={"one": "gone"}, pruning_ratio={"a": 0.5}),
        model("other", depth={"three": "gone"}),
    )
    assert chosen(wanted, model("pruned", pruning_ratio={"a": 0.5})) == ""
    assert chosen(wanted, near, other, model("same", depth={"one": "gone", "two": "gone"})) == "same"
    assert chosen({"pruning_ratio": {"a": 0.5}}, near) == ""


def test_cheaper_functions_are_inherited_by_what_has_them_too() -> None:
    """A model with cheaper functions in a stage is no ancestor of a candidate with the original ones there."""
    wanted = {"pruning_ratio": {"a": 0.5}}
    relu = model("relu", pruning_ratio={"a": 0.5}, activation={"one": "relu"})
    assert chosen(wanted, relu) == ""
    assert chosen({**wanted, "activation": {"one": "relu", "two": "hard"}}, relu) == "relu"
