"""Reads and writes outcomes as JSON, and checks what is read, since anyone may have written it."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from typing import Any

from ..errors import RunDirectoryError
from .measurement import Infeasible, Latency, Measurement, Outcome, Window

FILE = re.compile(r"model(-[a-z0-9-]+)?(\.[A-Za-z0-9_]+)+")
"""Name of a file that a runtime serves, in the folder of its model."""

RUNTIME = re.compile(r"[a-z0-9_]+(:[\w.+-]*)?|[^\x00-\x1f\x7f\u2028\u2029]+\.py(:[\w.+-]*)?")
"""Name of a runtime; one of a user's own is in a Python file."""


def to_json(outcome: Outcome) -> str:
    """Write an outcome as JSON; `from_json` reads it back equal.

    The first measurement's fields are the object's own; those of the other deployments are in its ``elsewhere``.
    """
    if isinstance(outcome, Infeasible):
        return json.dumps({"kind": "infeasible", **asdict(outcome)})
    first, *others = ({**asdict(measurement), "elsewhere": ()} for measurement in outcome)
    return json.dumps({"kind": "measurement", **first, "elsewhere": others})


def from_json(text: str) -> Outcome:
    """Read what `to_json` wrote.

    Raises:
        ValueError: the text is no outcome.
        RunDirectoryError: it names a file or a runtime as `to_json` never does: somebody else has written it.
    """
    fields = json.loads(text)
    kind = fields.pop("kind", None)
    if kind not in ("measurement", "infeasible"):
        raise ValueError(f"kind must be 'measurement' or 'infeasible', got {kind!r}")
    if kind == "infeasible":
        return _infeasible(fields)
    return tuple(_measurement(each) for each in (fields, *fields.get("elsewhere", ())))


def _infeasible(fields: dict[str, Any]) -> Infeasible:
    latency = fields.get("latency")
    return Infeasible(**{**fields, "latency": None if latency is None else _latency(latency)})


def _named(what: str, value: object, form: re.Pattern[str], such: str) -> None:
    if not (isinstance(value, str) and form.fullmatch(value)):
        raise RunDirectoryError(
            f"the record of a model must name a {what} such as {such}; it names {value!r}. autocompress has not "
            "written that: do not use the run directory or the database that it is from."
        )


def _measurement(fields: dict[str, Any]) -> Measurement:
    _named("file", fields.get("file", "model.onnx"), FILE, "model.onnx, beside it")
    failure = fields.get("failure")
    fields = {name: value for name, value in fields.items() if name != "elsewhere"}
    return Measurement(
        **{
            **fields,
            "latency": _latency(fields["latency"]),
            "failure": None if failure is None else _infeasible(failure),
            "warnings": tuple(fields.get("warnings", ())),
        }
    )


def _latency(fields: dict[str, Any]) -> Latency:
    windows = fields.pop("windows")
    _named("runtime", fields.get("runtime", "onnxruntime"), RUNTIME, "openvino:bf16 or /home/me/mine.py")
    return Latency(
        windows=tuple(
            Window(
                baseline_ns=tuple(w["baseline_ns"]),
                candidate_ns=tuple(w["candidate_ns"]),
                contention=w["contention"],
                timed=w.get("timed", 0),
                bridge=w.get("bridge", 1.0),
            )
            for w in windows
        ),
        **fields,
    )
