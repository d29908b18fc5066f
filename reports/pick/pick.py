"""Copies one model of a run with everything needed to serve it, and checks that the copy works."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import AutocompressError, InfeasibleError, UsageError, gist
from ...evaluators.ladder.trial_files import WRITTEN
from ...evaluators.meters.serve_once import serve_once
from ...evaluators.outcome_json import to_json
from ...evaluators.parity import compare
from ...evaluators.portable import has_program, script
from ...evaluators.subprocess_protocol import finished
from ...pareto.model import Model
from ...storage.run import Run
from ...storage.run_directory import RECORD
from . import metadata
from .model_card import card
from .selection import SelectedModel, Selection, select_model

PREDICTIONS = "predictions.npz"

COPIED = ("canonical.onnx", "model.safetensors", "candidate.json", WRITTEN, PREDICTIONS)
"""Files of a model besides the one that its runtime serves."""

PROGRAM, CARD = "load.py", "README.md"

PATIENCE_S = 600.0
"""How long a fresh process may take to answer."""


@dataclass(frozen=True, kw_only=True)
class PickedModel:
    """A model that was copied out of a run.

    Attributes:
        folder: the folder with the copy.
        selected: the model, its front and advice.
        proof: the result of running the copy in a fresh process; empty if it was not run.
    """

    folder: Path
    selected: SelectedModel
    proof: str = ""

    @property
    def model(self) -> Model:
        """The model."""
        return self.selected.model


def pick_model(
    run: Run, selection: Selection, out: Path | None = None, *, force: bool = False, prove: bool = True
) -> PickedModel:
    """Copy the selected model, run the copy in a fresh process, and return what was picked.

    Args:
        run: the run that has the model.
        selection: which model.
        out: new folder; by default the study's name and the model's id, in the working directory.
        force: whether to replace the folder of an earlier pick.
        prove: whether to run the copy; without, its files equal those of the run byte for byte.

    Raises:
        UsageError: there is no such model, its files were not kept, or the folder exists.
        AutocompressError: no model meets the limits, or the copy's outputs differ from the stored ones.
    """
    selected = select_model(run, selection)
    front, model = selected.front, selected.model
    if not selection.id and not front.meets(model):
        raise AutocompressError(
            f"the picked model must meet {front.limits}; none does. {' '.join(selected.advice)} "
            f"The nearest is {model.id}: pick it by its id."
        )
    return copy_model(run, selected, out, force=force, prove=prove, runtime=selection.runtime)


def copy_model(
    run: Run,
    selected: SelectedModel,
    out: Path | None = None,
    *,
    force: bool = False,
    prove: bool = True,
    runtime: str = "",
) -> PickedModel:
    """Copy a model that was chosen; see `pick_model`.

    Args:
        run: where it is.
        selected: the model.
        out: see `pick_model`.
        force: see `pick_model`.
        prove: see `pick_model`.
        runtime: the one that the user named; a run directory alone cannot name a runtime that is run as code.
    """
    model = selected.model
    if prove:
        _trusted(model, runtime)
    out = Path(f"{run.identity['study']}-{model.id}") if out is None else out
    _free(out, force=force)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as name:
        folder = Path(name) / out.name
        folder.mkdir()
        _copy(run, model, folder)
        if prove:
            said = metadata.notes(model, run.identity["study"], run.asked.about if run.asked else {})
            for path in folder.iterdir():
                metadata.describe(path, said)
        proof = _verify_copy(model, folder) if prove else ""
        (folder / CARD).write_text(card(run, selected.front, model, folder, proof), encoding="utf-8")
        if out.exists():
            shutil.rmtree(out)
        folder.rename(out)
    return PickedModel(folder=out, selected=selected, proof=proof)


def _trusted(model: Model, runtime: str) -> None:
    """Check that a copy may be run: some runtimes execute code in a file, and a run directory may be a stranger's.

    Raises:
        UsageError: its runtime executes code, and the user did not name it.
    """
    needed = model.measurement.latency.runtime
    if needed == runtime or (has_program(needed) and not needed.startswith("pytorch:")):
        return
    what = "its model files are" if has_program(needed) else "it is"
    raise UsageError(
        f"checking a copy runs it; {model.id} is served by {needed!r}, and {what} code, which runs with all your "
        f"rights. If you trust the authors of the run directory, name it: --runtime {shlex.quote(needed)}; "
        "--no-check copies the files without running them."
    )


def _free(out: Path, *, force: bool) -> None:
    """Check that a folder may be written.

    Raises:
        UsageError: it may not.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not ((out / CARD).exists() and (out / RECORD).exists()):
        raise UsageError(f"-o must be a new folder, or one of an earlier pick; {str(out)!r} has other files.")
    if not force:
        raise UsageError(f"-o must be a new folder; {str(out)!r} has an earlier pick. Replace it with --force.")


def _copy(run: Run, model: Model, folder: Path) -> None:
    source, measured = run.path / model.path, model.measurement
    served = Path(measured.file)
    for name in (measured.file, str(served.with_suffix(".acz")), *COPIED):
        with suppress(FileNotFoundError):
            shutil.copyfile(source / name, folder / name)
    gone = [name for name in (measured.file, PREDICTIONS) if not (folder / name).exists()]
    if gone:
        raise UsageError(
            f"a picked model must have its files; {model.id} has no {' and no '.join(gone)}: its run continues, and "
            "other models are better by now. Pick again."
        )
    (folder / RECORD).write_text(to_json(model.measurements))
    runtime = measured.latency.runtime
    if has_program(runtime):
        title = f"Runs {run.identity['study']} {model.id} ({measured.file})"
        text = script(runtime, file=measured.file, output=_output(model), threads=measured.latency.threads, title=title)
        (folder / PROGRAM).write_text(text, encoding="utf-8")


def _output(model: Model) -> str:
    """Return the name of the outputs of a model's runtime among the predictions: files and outputs are named alike."""
    return "output" + Path(model.measurement.file).stem.removeprefix("model")


def _verify_copy(model: Model, folder: Path) -> str:
    """Return the output of the copy's own program, run in a fresh process without a hint of its location.

    Raises:
        AutocompressError: it fails, or reports different outputs.
    """
    runtime = model.measurement.latency.runtime
    if not has_program(runtime):
        return _served(model, folder)
    command = [sys.executable, "-I", str((folder / PROGRAM).resolve())]
    try:
        done = finished(
            command,
            timeout_s=PATIENCE_S,
            cwd=tempfile.gettempdir(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    except subprocess.TimeoutExpired as error:
        raise AutocompressError(
            f"the copy of {model.id} must answer in a fresh process; it has not within {PATIENCE_S:g} s."
        ) from error
    said = next((line for line in done.stdout.splitlines() if line.startswith(model.measurement.file)), "")
    if done.returncode:
        why = gist(done.stderr)
        raise AutocompressError(
            f"the copy of {model.id} must answer in a fresh process as the model did when it was measured; "
            f"it does not: {said or why}. Nothing was copied. "
            "Where its runtime cannot run here, --no-check copies the files as they are."
        )
    return said


def _served(model: Model, folder: Path) -> str:
    """Serve a model of a runtime in the user's own file, in a fresh process."""
    with np.load(folder / PREDICTIONS) as stored:
        inputs = [stored[f"input{i}"] for i in range(sum(name.startswith("input") for name in stored.files))]
        expected = stored[_output(model)]
    latency, file = model.measurement.latency, folder / model.measurement.file
    try:
        serving = serve_once(
            latency.runtime, file.read_bytes(), [inputs], threads=latency.threads, timeout_s=PATIENCE_S
        )
    except InfeasibleError as error:
        raise AutocompressError(f"the copy of {model.id} must run in a fresh process; {error.reason}") from error
    found = compare([[expected]], [serving.outputs[0][:1]])
    if found is None or found.difference > 1e-3:
        raise AutocompressError(
            f"the copy of {model.id} must answer as the model did when it was measured; it does not"
        )
    return f"the answers to {len(expected)} stored examples are the same as when it was measured"
