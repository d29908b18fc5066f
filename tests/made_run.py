"""A run directory whose costs are an analytic problem's, and whose model files are real and small."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

from autocompress.evaluators.analytic import AnalyticEvaluator
from autocompress.evaluators.evaluator import Request
from autocompress.evaluators.measurement import Measurement
from autocompress.evaluators.outcome_json import to_json
from autocompress.evaluators.runtimes import load
from autocompress.profiles.profile import Profile
from autocompress.search.options import Options
from autocompress.search.samplers import create
from autocompress.search.samplers.initial_design import warm_start
from autocompress.spaces.candidate import Candidate
from autocompress.storage.run_directory import RunDirectory
from autocompress.storage.study_store import StudyStore

WIDTH, CLASSES = 16, 4

ABOUT = {"license": "", "description": "Tells which <light> is on."}


def made_run(
    folder: Path,
    *,
    trials: int = 14,
    target_ms: float = 4.0,
    seed: int = 0,
    runtime: str = "onnxruntime",
    study: str = "lights",
    finished: bool = True,
    faster: float = 1.0,
    problem: AnalyticEvaluator | None = None,
    scale: float = 1.0,
    unit: str | None = "%",
) -> Path:
    """Return a run directory, closed.

    Args:
        folder: where.
        trials: how many it has.
        target_ms: what was asked for.
        seed: of the search.
        runtime: what serves the models.
        study: its name.
        finished: whether the front had its final evaluation.
        faster: by what the latencies of all but the baseline are divided.
        problem: what costs what.
        scale: what accuracies are multiplied with.
        unit: of the metric, as its task says it.
    """
    problem = problem or AnalyticEvaluator(3)
    profile = Profile.from_dict(problem.profile())
    options = Options(target_ms=target_ms, out=folder, trials=max(trials, 1), runtimes=(runtime,), unit=unit)
    identity = {"study": study, "runtime": runtime, "threads": "1", "device": "this machine"}
    rundir = RunDirectory(folder, identity, options.invocation(f"{study}.py", about=ABOUT).to_dict())
    rundir.write_json("profile.json", {"space": problem.space.fingerprint, "profile": profile.to_dict()})
    store = StudyStore(folder, None, study, problem.space, options.limits)
    store.study.sampler = create(
        "mutation", space=problem.space, profile=profile, judge=store, seed=seed, finished=store.count()
    )
    store.begin(warm_start(problem.space, profile, target_ms))
    for _ in range(trials):
        asked = store.ask()
        request = Request(folder="", candidate=asked.candidate, epochs=1, target_ms=None if asked.role else target_ms)
        outcome = problem.evaluate(request)
        if isinstance(outcome, tuple):
            (measured,) = outcome
            divided = 1.0 if asked.role == "baseline" else faster
            windows = tuple(
                replace(w, candidate_ns=tuple(ns / divided for ns in w.candidate_ns)) for w in measured.latency.windows
            )
            measured = replace(
                measured,
                accuracy=scale * measured.accuracy,
                latency=replace(measured.latency, runtime=runtime, windows=windows),
            )
            outcome = (measured,)
        store.tell(asked.number, outcome)
    kept = [*store.found.references(), *(m for m in store.found.front() if m.role == "front")]
    for model in kept:
        place = folder / "baseline" if model.role == "baseline" else folder / "models" / model.id
        rung = "final" if finished else "short"
        _files(place, replace(model.measurement, rung=rung), model.candidate, int(model.path[-2:]))
    if finished:
        limits = {"target_ms": target_ms}
        rundir.write_json("finished.json", {"trials": store.count(), "limits": limits})
    store.close()
    rundir.close()
    return folder


def _files(place: Path, measured: Measurement, candidate: Candidate, seed: int) -> None:
    """Write a linear network that ONNX Runtime and OpenVINO serve, and what it answers."""
    place.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    weight = random.standard_normal((WIDTH, CLASSES)).astype(np.float32)
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", width])
        for name, width in (("input", WIDTH), ("output", CLASSES))
    )
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["input", "weight"], ["output"])],
        "net",
        [x],
        [y],
        [numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    content = model.SerializeToString()
    (place / measured.file).write_bytes(content)
    (place / "canonical.onnx").write_bytes(content)
    save_file({"layer.weight": weight}, place / "model.safetensors")
    (place / "candidate.json").write_text(candidate.to_json())
    (place / "measurement.json").write_text(to_json((measured,)))
    inputs = random.standard_normal((8, WIDTH)).astype(np.float32)
    with load(measured.latency.runtime).build(content, threads=1) as engine:
        (output,) = engine.infer([inputs])
    np.savez(place / "predictions.npz", input0=inputs, output=output)
