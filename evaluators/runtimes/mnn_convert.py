"""Makes a .mnn file of an ONNX file, in a process of its own: the converter ends its process where it gives up.

Only MNN's native converter is called. The commands and `MNN.tools` around it install packages and report home.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from ...errors import InfeasibleError
from ..scratch import scratch
from ..subprocess_protocol import begin, run
from . import needed

TIMEOUT_S = 300.0

SOURCE, FLAGS, LOG, RESULT = "model.onnx", "flags.json", "log.txt", "model.mnn"


def convert(onnx: bytes, flags: Sequence[str]) -> bytes:
    """Return an ONNX file as a .mnn file.

    Args:
        onnx: without Q/DQ pairs.
        flags: more arguments for the converter.

    Raises:
        InfeasibleError: MNN's converter gives up.
    """
    with scratch() as folder:
        (folder / SOURCE).write_bytes(onnx)
        (folder / FLAGS).write_text(json.dumps(list(flags)))
        run(__name__, folder, threads=1, timeout_s=TIMEOUT_S, doing="converted", rung="build")
        if not (folder / RESULT).is_file():
            raise InfeasibleError(f"MNN cannot convert the model: {_reason(folder / LOG)}.", rung="build")
        return (folder / RESULT).read_bytes()


def _reason(log: Path) -> str:
    """Return the first complaint that the converter printed, without its colours and times."""
    lines = [re.sub(r"\x1b\[[0-9;]*m|^\[[^\]]*\] *:\d+: *", "", line) for line in log.read_text().splitlines()]
    complaints = [line for line in lines if re.search(r"fail|error|not support|unknown", line, re.IGNORECASE)]
    return next(iter(complaints), "it gives no reason").rstrip(". ")


def main(folder: Path) -> None:
    """Convert the file in a folder; runs in a process of its own."""
    begin()
    with (folder / LOG).open("wb") as log:  # the converter prints its reasons and exits with 0
        os.dup2(log.fileno(), 1)
    tools = needed("_tools", runtime="mnn", extra="mnn")
    flags = json.loads((folder / FLAGS).read_text())
    files = ["--modelFile", SOURCE, "--MNNModel", RESULT]  # in the working directory
    tools.mnnconvert(["mnnconvert", "-f", "ONNX", *files, "--bizCode", "autocompress", *flags])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
