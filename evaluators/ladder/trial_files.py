"""The files that a trial leaves in its folder."""

from __future__ import annotations

from collections.abc import Sequence

from ..runtime import Runtime
from ..runtimes import plain

SHAPES = "shapes.safetensors"
"""File in a trial's folder with its weights after its channels went and before its numbers changed."""


ANCESTOR = "ancestor.safetensors"
"""File in a trial's folder with the weights that it started from."""


RUNG = "rung"
"""File in a request's folder that names the rung it is on."""


WRITTEN = "written.json"
"""What a model's file holds of each layer; see `Written.to_dict`."""


def suffixed(stem: str, runtime: Runtime, runtimes: Sequence[Runtime]) -> str:
    """Return a file's name that tells the study's runtimes apart; the first one's is plain."""
    if runtime.name == runtimes[0].name:
        return stem
    return f"{stem}-{plain(runtime.name)}"


ERROR = "error.txt"
"""File in the folder of a trial that failed in the user's code."""
