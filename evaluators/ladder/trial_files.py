"""The files that an evaluation leaves in its request's folder."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...files import write_atomically
from ...spaces.candidate import Candidate
from ..runtime import Runtime
from ..runtimes import plain

if TYPE_CHECKING:
    from ...compressors.pipeline import Compressed

SHAPES = "shapes.safetensors"
"""The weights after the channels were pruned and before the numbers changed."""

ANCESTOR = "ancestor.safetensors"
"""The weights that the trial started from."""

ANSWERS = "answers"
"""Folder of the teacher's outputs, which all requests share."""

RUNG = "rung"
"""The name of the current rung."""

WRITTEN = "written.json"
"""What a model's file holds of each layer; see `Written.to_dict`."""

ERROR = "error.txt"
"""The traceback of a trial that failed in the user's code."""


def suffixed(stem: str, runtime: Runtime, runtimes: Sequence[Runtime]) -> str:
    """Return a file's name that tells the study's runtimes apart; the first one's is plain."""
    if runtime.name == runtimes[0].name:
        return stem
    return f"{stem}-{plain(runtime.name)}"


def model_file(runtime: Runtime, runtimes: Sequence[Runtime]) -> str:
    """Return the name of a runtime's own model file."""
    return suffixed("model", runtime, runtimes) + runtime.capabilities.reads[0]


def write_trial_files(
    folder: Path,
    candidate: Candidate,
    compressed: Compressed,
    models: Mapping[str, bytes],
    predictions: Mapping[str, NDArray[np.generic]],
    *,
    shapes: bool,
) -> None:
    """Write the files of a measured candidate, and delete the name of its rung.

    Args:
        folder: the request's folder.
        candidate: the candidate.
        compressed: its network, in the first runtime that serves it.
        models: the content of each model file, by its name.
        predictions: inputs and each runtime's outputs.
        shapes: whether to keep the weights that other trials may inherit.
    """
    from safetensors.torch import save  # noqa: PLC0415  # start-up time: torch is slow to import

    for name, content in models.items():
        write_atomically(folder / name, content)
    if compressed.onnx:
        write_atomically(folder / "canonical.onnx", compressed.onnx)
    write_atomically(folder / "candidate.json", candidate.to_json().encode())
    write_atomically(folder / WRITTEN, json.dumps(compressed.written.to_dict()).encode())
    write_atomically(folder / "model.safetensors", save(compressed.state()))
    if shapes and compressed.ancestor is not None:
        write_atomically(folder / SHAPES, compressed.ancestor.to_bytes())
    np.savez_compressed(archive := io.BytesIO(), **predictions)  # type: ignore[arg-type]
    write_atomically(folder / "predictions.npz", archive.getvalue())
    (folder / RUNG).unlink(missing_ok=True)
