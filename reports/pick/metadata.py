"""Metadata of a model, written into ONNX and safetensors files, with the same bytes each time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from ...pareto.model import Model
from ...version import __version__

PREFIX = "autocompress."


def notes(model: Model, study: str, about: Mapping[str, str]) -> dict[str, str]:
    """Return the metadata of a model, with its task's ``license`` and ``description``."""
    measured = model.measurement
    found = {
        "version": __version__,
        "study": study,
        "model": model.id,
        "candidate": model.candidate.to_json(),
        "runtime": measured.latency.runtime,
        "latency_ratio": f"{measured.latency.ratio:.4f}",
        "accuracy": f"{measured.accuracy:.6g}",
        **about,
    }
    if measured.latency.device:
        found["device"] = measured.latency.device
    if measured.test_accuracy is not None:
        found["test_accuracy"] = f"{measured.test_accuracy:.6g}"
    return {PREFIX + name: value for name, value in found.items()}


def describe(path: Path, said: Mapping[str, str]) -> None:
    """Write metadata into an ONNX or a safetensors file; other files stay as they are."""
    if path.suffix == ".onnx":
        path.write_bytes(_onnx(path.read_bytes(), said))
    elif path.suffix == ".safetensors":
        path.write_bytes(_safetensors(path.read_bytes(), said))


def _onnx(content: bytes, said: Mapping[str, str]) -> bytes:
    import onnx  # noqa: PLC0415  # start-up time: onnx is slow to import

    model = onnx.load_from_string(content)
    known = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, dict(sorted({**known, **said}.items())))
    return bytes(model.SerializeToString(deterministic=True))


def _safetensors(content: bytes, said: Mapping[str, str]) -> bytes:
    """Rewrite the header; the tensors' offsets count from its end, a multiple of eight bytes."""
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header = {"__metadata__": dict(sorted({**header.pop("__metadata__", {}), **said}.items())), **header}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[8 + length :]
