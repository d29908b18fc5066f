"""The model card of a picked model: its changes, its numbers, its origin, and how to load it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from ...evaluators.ladder.trial_files import WRITTEN
from ...evaluators.measurement import Measurement
from ...evaluators.portable import has_program, needs
from ...pareto.comparison_words import gains
from ...pareto.front import ParetoFront
from ...pareto.model import Model
from ...storage.run import Run
from ...storage.run_directory import read_json
from ...studies.metric_units import noun, points_of, shown
from ..layers import changes_in_words, settings_in_words, stored_in_words, tensor_shapes
from ..markdown import code, escaped

UNCHANGED = 5
"""How many unchanged layers are named."""

NO_LICENSE = "not given by the study. Ask the authors of the original before you pass this on"
"""Text for a study that gives no license."""


def card(run: Run, front: ParetoFront, model: Model, folder: Path, proof: str) -> str:
    """Return a model card in Markdown.

    Args:
        run: where the model comes from.
        front: the front that the model was picked from, with its limits and the unchanged network.
        model: the model.
        folder: folder with the model's files, which show how wide its layers are.
        proof: the result of running the copy in a fresh process; empty if it was not run.
    """
    sections = {
        "Numbers": _numbers(front.baseline.measurement, model.measurement, front.unit),
        "What was done": _done(run, model, folder),
        "Where it comes from": _origin(run, front, model),
        "Load it": _loading(model, proof),
        "Measured on": _environment(model.measurement),
    }
    name = run.identity["study"]
    lines = [f"# {escaped(name)} {model.id}", "", _headline(name, front, model), ""]
    for heading, content in sections.items():
        lines += [f"## {heading}", "", *content, ""]
    return "\n".join(lines).rstrip() + "\n"


def _headline(name: str, front: ParetoFront, model: Model) -> str:
    measured, base = model.measurement, front.baseline.measurement
    if model.id == front.baseline.id:
        return f"The unchanged network of the study {code(name)}, for {escaped(measured.deployment)}."
    return (
        f"The network of the study {code(name)}, compressed for {escaped(measured.deployment)}. "
        f"Compared with the unchanged network: {gains(measured, base)}, "
        f"{points_of(measured.accuracy - base.accuracy, front.unit)} on the validation data."
    )


def _numbers(base: Measurement, measured: Measurement, unit: str) -> Iterator[str]:
    """Yield a table of this model and the unchanged network."""
    yield "| | this model | unchanged network |"
    yield "|---|---|---|"
    for name, format_value in ROWS.items():
        one, other = format_value(measured, unit), format_value(base, unit)
        if one or other:
            yield f"| {name.replace('accuracy', noun(unit))} | {one or '–'} | {other or '–'} |"
    yield ""
    threads = measured.latency.threads
    yield (
        f"Latency of one run with {threads} thread{'s' * (threads > 1)}, percentile {measured.latency.percentile:g}, "
        "in turns with the unchanged network, with the 95 % interval between windows of time. "
        "The metric is the study's own, of the exported file in its runtime."
    )
    yield from (f"\nNote: {escaped(warning)}." for warning in measured.warnings)
    if measured.rung != "final":
        yield "\nNote: it had no final evaluation, which trains longer and measures carefully."


def _interval(measured: Measurement) -> str:
    latency = measured.latency
    return f"{latency.median_ms:.3g} ms ({latency.low_ms:.3g}–{latency.high_ms:.3g})"


def _metric(value: float | None, unit: str) -> str:
    return "" if value is None else shown(value, unit)


def _mega(value: float | None, unit: str) -> str:
    return "" if value is None else f"{value / 1e6:.3g} {unit}"


ROWS: Mapping[str, Callable[[Measurement, str], str]] = {
    "latency": lambda m, unit: _interval(m),
    "validation accuracy": lambda m, unit: _metric(m.accuracy, unit),
    "test accuracy": lambda m, unit: _metric(m.test_accuracy, unit),
    "size of the served file": lambda m, unit: _mega(m.size_bytes, "MB"),
    "parameters": lambda m, unit: _mega(m.params, "million"),
    "multiply-accumulates": lambda m, unit: _mega(m.macs, "million"),
    "memory of a process that serves it": lambda m, unit: _mega(m.memory_bytes, "MB"),
    "energy of one run": lambda m, unit: "" if m.energy_mj is None else f"{m.energy_mj:.3g} mJ",
    "compute on fewer than 32 bits": lambda m, unit: "" if m.low_precision is None else f"{m.low_precision:.0%}",
}


def _done(run: Run, model: Model, folder: Path) -> Iterator[str]:
    """Yield the changes to each layer."""
    if run.profile is None or not model.candidate.axes:
        yield "Nothing: this is the unchanged network."
        return
    file = folder / "model.safetensors"
    shapes = tensor_shapes(file) if file.exists() else {}
    layers = changes_in_words(model.candidate, run.profile.network, shapes)
    changed, rest = [(n, w) for n, w in layers if w], [n for n, w in layers if not w]
    if changed:
        written = read_json(folder / WRITTEN) or {}
        yield from ("| layer | what was done | in the file |", "|---|---|---|")
        yield from (f"| {code(n)} | {escaped(words)} | {stored_in_words(written, n)} |" for n, words in changed)
    if rest:
        named = ", ".join(code(name) for name in rest[:UNCHANGED]) + (", …" if len(rest) > UNCHANGED else "")
        yield f"\nUnchanged: {named}; {len(rest)} of {len(layers)} layers."
    chosen = settings_in_words(model.candidate)
    if chosen:
        yield f"\nSettings: {escaped('; '.join(chosen))}."
    if model.measurement.epochs:
        yield f"\nThen it was trained for {model.measurement.epochs:g} passes over the study's training data."


def _origin(run: Run, front: ParetoFront, model: Model) -> Iterator[str]:
    about = run.asked.about if run.asked else {}
    if about.get("description"):
        yield escaped(about["description"]) + "\n"
    study = (run.asked.study if run.asked else "") or run.identity["study"]
    yield f"- Study: {code(study)}, {len(run.trials)} trials; limits: {front.limits}."
    yield f"- Role: {escaped(model.role)}." if model.role not in ("front", "baseline") else f"- Trial: {model.id}."
    yield "- Data: that of the study; this folder only has the inputs in `predictions.npz`."
    licence = escaped(about.get("license") or NO_LICENSE)
    yield f"- Licence of the original network: {licence}."
    if run.asked:
        yield f"- Made with autocompress {escaped(run.asked.version)}."


def _loading(model: Model, proof: str) -> Iterator[str]:
    runtime = model.measurement.latency.runtime
    if not has_program(runtime):
        yield f"{code(model.measurement.file)} is served by your own runtime, {code(runtime)}."
        return
    yield from (
        "```sh",
        f"pip install {needs(runtime)}",
        "python load.py   # compares its outputs with the stored ones",
    )
    yield from (
        "```",
        "",
        "```python",
        "from load import predict",
        "",
        "outputs = predict(inputs)  # arrays, batch first",
    )
    yield from ("```", "", f"In a fresh process, when it was picked: {escaped(proof or 'not tried')}.", "")
    yield from (f"- `{name}`: {what}" for name, what in FILES.items())


FILES = {
    "load.py": "runs the model without autocompress",
    "canonical.onnx": "the same network for other runtimes, with INT8 as the study's runtimes take it",
    "model.safetensors": "its float weights, batch norms folded",
    "candidate.json": "the choices for each layer",
    "measurement.json": "all numbers, with the raw times",
    "predictions.npz": "inputs, and the model's outputs for them",
}


def _environment(measured: Measurement) -> Iterator[str]:
    yield from (f"- {escaped(name)}: {escaped(value)}" for name, value in sorted(measured.latency.environment.items()))
