"""Compress a trained PyTorch network to a latency target that is measured on a real device.

Public names are loaded on first use, so that ``import autocompress`` stays light:
neither torch nor ray is imported before something needs it.
"""

import logging
from typing import TYPE_CHECKING

from .version import __version__

logging.getLogger("autocompress").addHandler(logging.NullHandler())  # as libraries do: silent unless the program asks

_PUBLIC = {
    "compress": "autocompress.search.compress",
    "Task": "autocompress.studies.task",
    "Options": "autocompress.search.options",
    "open_run": "autocompress.storage.run",
    "Run": "autocompress.storage.run",
    "Trial": "autocompress.storage.trials",
    "ParetoFront": "autocompress.pareto.front",
    "Limits": "autocompress.pareto.limits",
    "Model": "autocompress.pareto.model",
    "Candidate": "autocompress.spaces.candidate",
    "Measurement": "autocompress.evaluators.measurement",
    "Latency": "autocompress.evaluators.measurement",
    "Infeasible": "autocompress.evaluators.measurement",
    "plot_front": "autocompress.reports.plotly_figure",
    "load_model": "autocompress.reports.from_python",
    "pick": "autocompress.reports.from_python",
    "PickedModel": "autocompress.reports.pick.pick",
    "SelectedModel": "autocompress.reports.pick.selection",
    "compare": "autocompress.reports.comparison",
    "Comparison": "autocompress.reports.comparison",
    "AutocompressError": "autocompress.errors",
    "UsageError": "autocompress.errors",
    "StudyError": "autocompress.errors",
    "RunDirectoryError": "autocompress.errors",
    "StorageError": "autocompress.errors",
    "MissingRuntimeError": "autocompress.errors",
    "CompactFileError": "autocompress.errors",
    "Interrupted": "autocompress.search.interrupts",
}
"""The public names and their modules, in the order of the reference page, where `scripts/docs_pages.py` groups them."""

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
    from .evaluators.measurement import Infeasible, Latency, Measurement
    from .pareto.front import ParetoFront
    from .pareto.limits import Limits
    from .pareto.model import Model
    from .reports.comparison import Comparison, compare
    from .reports.from_python import load_model, pick
    from .reports.pick.pick import PickedModel
    from .reports.pick.selection import SelectedModel
    from .reports.plotly_figure import plot_front
    from .search.compress import compress
    from .search.interrupts import Interrupted
    from .search.options import Options
    from .spaces.candidate import Candidate
    from .storage.run import Run, open_run
    from .storage.trials import Trial
    from .studies.task import Task

__all__ = [
    "AutocompressError",
    "Candidate",
    "CompactFileError",
    "Comparison",
    "Infeasible",
    "Interrupted",
    "Latency",
    "Limits",
    "Measurement",
    "MissingRuntimeError",
    "Model",
    "Options",
    "ParetoFront",
    "PickedModel",
    "Run",
    "RunDirectoryError",
    "SelectedModel",
    "StorageError",
    "StudyError",
    "Task",
    "Trial",
    "UsageError",
    "__version__",
    "compare",
    "compress",
    "load_model",
    "open_run",
    "pick",
    "plot_front",
]


def __getattr__(name: str) -> object:
    """Import the module that defines a public name when the name is first asked for."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'autocompress' has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415  # start-up time: public names are loaded on first use

    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
