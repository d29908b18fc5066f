"""Compress a trained PyTorch network to a latency target that is measured on a real device.

Public names are loaded on first use, so that ``import autocompress`` stays light:
neither torch nor ray is imported before something needs it.
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

_PUBLIC = {
    "Task": "autocompress.studies.task",
    "compress": "autocompress.search.compress",
    "Candidate": "autocompress.spaces.candidate",
    "Measurement": "autocompress.evaluators.measurement",
    "Infeasible": "autocompress.evaluators.measurement",
    "ParetoFront": "autocompress.pareto.front",
    "Model": "autocompress.pareto.model",
    "open_run": "autocompress.storage.run",
    "Run": "autocompress.storage.run",
    "Trial": "autocompress.storage.run",
    "Limits": "autocompress.pareto.limits",
    "Options": "autocompress.search.options",
    "Interrupted": "autocompress.search.interrupts",
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
    from .pareto.front import ParetoFront
    from .pareto.limits import Limits
    from .pareto.model import Model
    from .search.compress import compress
    from .search.interrupts import Interrupted
    from .search.options import Options
    from .spaces.candidate import Candidate
    from .storage.run import Run, Trial, open_run
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
