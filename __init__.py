"""Compress a trained PyTorch network to a latency target that is measured on a real device.

Public names are loaded on first use, so that ``import autocompress`` stays light:
neither torch nor ray is imported before something needs it.
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

_PUBLIC = {
    "Task": "autocompress.studies.task",
    "compress": "autocompress.search.api",
    "Candidate": "autocompress.spaces.candidate",
    "Measurement": "autocompress.evaluators.measurement",
    "Infeasible": "autocompress.evaluators.measurement",
    "ParetoFront": "autocompress.search.front",
    "Model": "autocompress.search.front",
    "open_run": "autocompress.search.opened",
    "Run": "autocompress.search.opened",
    "Trial": "autocompress.search.opened",
    "Limits": "autocompress.search.limits",
    "Options": "autocompress.search.options",
    "Interrupted": "autocompress.search.drive",
    "AutocompressError": "autocompress.errors",
    "UsageError": "autocompress.errors",
    "StudyError": "autocompress.errors",
    "RunDirectoryError": "autocompress.errors",
    "StorageError": "autocompress.errors",
    "MissingRuntimeError": "autocompress.errors",
    "CompactFileError": "autocompress.errors",
}

if TYPE_CHECKING:  # what type checkers and editors see of them
    from .errors import (
        AutocompressError,
        CompactFileError,
        MissingRuntimeError,
        RunDirectoryError,
        StorageError,
        StudyError,
        UsageError,
    )
    from .evaluators.measurement import Infeasible, Measurement
    from .search.api import compress
    from .search.drive import Interrupted
    from .search.front import Model, ParetoFront
    from .search.limits import Limits
    from .search.opened import Run, Trial, open_run
    from .search.options import Options
    from .spaces.candidate import Candidate
    from .studies.task import Task

__all__ = [
    "AutocompressError",
    "Candidate",
    "CompactFileError",
    "Infeasible",
    "Interrupted",
    "Limits",
    "Measurement",
    "MissingRuntimeError",
    "Model",
    "Options",
    "ParetoFront",
    "Run",
    "RunDirectoryError",
    "StorageError",
    "StudyError",
    "Task",
    "Trial",
    "UsageError",
    "__version__",
    "compress",
    "open_run",
]


def __getattr__(name: str) -> object:
    """Import the module that defines a public name when the name is first asked for."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'autocompress' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
