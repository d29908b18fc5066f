"""A model is served in deployments: by one of the runtimes on a device, and on all devices."""

from __future__ import annotations

from autocompress.evaluators.measurement import Infeasible, Latency, Measurement, Window, ranked
from autocompress.evaluators.outcome_json import from_json, to_json
from autocompress.pareto.limits import Limits
from autocompress.pareto.model import Model, decisive, devices_in, on_device
from autocompress.spaces.candidate import Candidate

GPU, EDGE = "gpu0", "edge"


def measured(milliseconds: float, runtime: str = "ort", device: str = "", accuracy: float = 0.9) -> Measurement:
    """Return a measurement in one deployment."""
    windows = (Window(baseline_ns=(100,), candidate_ns=(100,)),) * 2
    latency = Latency(windows=windows, baseline_ms=milliseconds, runtime=runtime, device=device)
    return Measurement(accuracy=accuracy, latency=latency, size_bytes=1, params=1, macs=1)


def model(*measurements: Measurement) -> Model:
    """Return a model that was measured in several deployments."""
    return Model(id="1", candidate=Candidate(), measurements=ranked(measurements, Limits(5.0).distance))


def deployments(models: list[Model]) -> list[str]:
    """Return the deployments that decide about models."""
    return [str(m.measurement.deployment) for m in models]


def test_the_worst_device_decides_by_its_best_runtime() -> None:
    """A device serves by any runtime, and a model must do on all devices."""
    one = model(measured(1, "ort", GPU), measured(9, "vino", GPU), measured(4, "ort", EDGE), measured(3, "vino", EDGE))
    assert str(one.measurement.deployment) == "vino on edge"
    assert len(one.measurements) == 4
    assert from_json(to_json(one.measurements)) == one.measurements
    assert Limits(3.0).satisfied_by(one.measurement)
    assert not Limits(2.9).satisfied_by(one.measurement)


def test_a_model_is_a_point_where_no_other_device_is_worse() -> None:
    """On one device each runtime is one; with several, a runtime that another device undercuts is none."""
    alone = decisive([model(measured(2, "ort"), measured(9, "vino"))], Limits(5.0))
    assert deployments(alone) == ["ort", "vino"]
    assert all(len(m.measurements) == 1 for m in alone)
    each = measured(1, "ort", GPU), measured(9, "vino", GPU), measured(4, "ort", EDGE), measured(3, "vino", EDGE)
    found = decisive([model(*each)], Limits(5.0))
    assert sorted(deployments(found)) == ["ort on edge", "vino on edge", "vino on gpu0"]
    by_deployment = {str(m.measurement.deployment): m.measurements[1:] for m in found}
    assert [str(other.deployment) for other in by_deployment["vino on gpu0"]] == ["vino on edge"]
    equal = decisive([model(measured(1, device=GPU), measured(1, device=EDGE))], Limits(5.0))
    assert len(equal) == 1


def test_each_device_has_models_of_its_own() -> None:
    """On one device only what was measured there counts; one device alone is not told apart."""
    models = [model(measured(1, device=GPU), measured(7, device=EDGE)), model(measured(2, device=GPU))]
    assert set(devices_in(models)) == {GPU, EDGE}
    assert deployments(on_device(models, GPU)) == ["ort on gpu0", "ort on gpu0"]
    assert deployments(on_device(models, EDGE)) == ["ort on edge"]
    assert devices_in(models[1:]) == []


def test_a_candidate_cut_on_all_devices_is_cut_for_the_slowest() -> None:
    """The deciding latency says what holds for looser targets."""
    cut = Infeasible(reason="", rung="latency", latency=measured(7, device=EDGE).latency)
    assert Limits(6.0).still_valid(cut)
    assert not Limits(8.0).still_valid(cut)
