"""Compress a trained PyTorch network to a latency target that is measured on a real device.

Public names are loaded on first use, so that ``import autocompress`` stays light:
neither torch nor ray is imported before something needs it.
"""

__version__ = "0.1.0"

_PUBLIC = {
    "Task": "autocompress.studies.task",
    "compress": "autocompress.search.compress",
    "Candidate": "autocompress.spaces.candidate",
    "Measurement": "autocompress.evaluators.measurement",
    "Infeasible": "autocompress.evaluators.measurement",
    "ParetoFront": "autocompress.search.front",
    "Model": "autocompress.search.front",
    "open_run": "autocompress.search.opened",
    "AutocompressError": "autocompress.errors",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> object:
    """Import the module that defines a public name when the name is first asked for."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'autocompress' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
