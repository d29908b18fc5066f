"""The record that says that a model's folder is complete."""

from __future__ import annotations

from pathlib import Path

from ..evaluators.measurement import Measurement, from_json

RECORD = "measurement.json"


def read_record(folder: Path) -> Measurement | None:
    """Return the measurement in a complete model's folder; None where there is none."""
    try:
        outcome = from_json((folder / RECORD).read_text())
    except (OSError, ValueError):
        return None
    return outcome if isinstance(outcome, Measurement) else None
