"""JSON files in a run directory, among them the record that completes a model's folder."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ..errors import RunDirectoryError
from ..evaluators.measurement import Infeasible, Measurements
from ..evaluators.outcome_json import from_json

RECORD = "measurement.json"


def read_record(folder: Path, runtimes: Collection[str] | None = None) -> Measurements | None:
    """Return the measurements in a complete model's folder; None if there are none.

    Args:
        folder: the model's folder.
        runtimes: runtimes in Python files that it may have; None allows any, for models that are not served again.

    Raises:
        RunDirectoryError: autocompress has not written the record for these runtimes.
    """
    try:
        text = (folder / RECORD).read_text()
    except OSError:
        return None
    try:
        outcome = from_json(text)
    except json.JSONDecodeError:
        return None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise RunDirectoryError(
            f"a record must be as autocompress writes it; {str(folder / RECORD)!r} is not "
            f"({type(error).__name__}: {error}). Delete the folder."
        ) from error
    if isinstance(outcome, Infeasible):
        return None
    code = {each.latency.runtime for each in outcome if ".py" in each.latency.runtime}
    if runtimes is not None and code - set(runtimes):
        raise RunDirectoryError(
            f"a runtime in a Python file must be named on the command line to be run; {str(folder / RECORD)!r} is of "
            f"{', '.join(sorted(code))}. Delete the folder, or give another directory with --out DIR."
        )
    return outcome


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the content of a JSON file; None if there is none."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
