"""Files in a run directory that say something, among them the record that a model's folder is complete."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..evaluators.measurement import Measurement, from_json

RECORD = "measurement.json"


def read_record(folder: Path) -> Measurement | None:
    """Return the measurement in a complete model's folder; None where there is none."""
    try:
        outcome = from_json((folder / RECORD).read_text())
    except (OSError, ValueError):
        return None
    return outcome if isinstance(outcome, Measurement) else None


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the content of a JSON file; None where there is none."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
