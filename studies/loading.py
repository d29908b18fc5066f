"""Loads a study: a built-in name, a Python file, or a pretrained model's name."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import cloudpickle

from ..errors import StudyError, in_a_line
from . import zoo
from .names import BUILT_IN, LIBRARIES
from .task import Task


def load(study: str, *, data: str | None = None, data_dir: Path | None = None, weights: Path | None = None) -> Task:
    """Return the task of a study.

    Args:
        study: a built-in name, the path of a Python file with a ``task()``, ``torchvision:NAME``, ``timm:NAME`` or
            ``transformers:NAME``, of which the name may be a directory.
        data: ``imagefolder:DIR``, for pretrained models only.
        data_dir: handed to ``task(data_dir=…)``.
        weights: a state dict to use instead of a download, for pretrained models only.

    Raises:
        StudyError: the study cannot be found, imported or called, or an option does not belong to it.
    """
    if study.partition(":")[0] in LIBRARIES:
        if data_dir is not None:
            raise StudyError(
                f"--data-dir belongs to studies with a task(data_dir=…); {study} takes --data imagefolder:DIR"
            )
        return zoo.task(study, data=data, weights=weights)
    for option, value in (("--data", data), ("--weights", weights)):
        if value is not None:
            raise StudyError(
                f"{option} belongs to torchvision:NAME and timm:NAME; {study} came with {option} {value}. Leave it out"
            )
    if study.endswith(".py"):
        return _from_file(Path(study), data_dir)
    if study in BUILT_IN:
        return _call(importlib.import_module(f"{__package__}.{study}"), study, data_dir)
    close = difflib.get_close_matches(study, BUILT_IN, n=1)
    raise StudyError(
        f"A study is {', '.join(BUILT_IN)}, a Python file (its name ends with .py), torchvision:NAME, timm:NAME or "
        f"transformers:NAME; {study!r} is none of them" + (f". Did you mean {close[0]!r}?" if close else "")
    )


def _from_file(path: Path, data_dir: Path | None) -> Task:
    """Import a study file under a unique name and return its task, which any process can unpickle."""
    path = path.expanduser().resolve()
    if not path.is_file():
        known = f". The study that is built in is called {path.stem!r}" if path.stem in BUILT_IN else ""
        raise StudyError(f"A study that ends with .py is the path of a Python file; there is no file {path}{known}")
    stem = re.sub(r"\W", "_", path.stem)
    name = f"autocompress_study_{stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise StudyError(f"A study is a Python file; {path} cannot be imported as one")
    module = importlib.util.module_from_spec(spec)
    with _siblings_importable(path.parent):
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:
            del sys.modules[name]
            raise StudyError(f"{path} cannot be imported: {in_a_line(error)}. Fix the file") from error
        cloudpickle.register_pickle_by_value(module)
        return _call(module, str(path), data_dir)


def _call(module: ModuleType, study: str, data_dir: Path | None) -> Task:
    """Return what the module's ``task()`` returns."""
    function: Callable[..., object] | None = getattr(module, "task", None)
    if not callable(function):
        raise StudyError(f"A study defines a function `task() -> Task`; {study} has none. Add it: see `digits` for one")
    options: dict[str, Path] = {}
    if data_dir is not None:
        if "data_dir" not in inspect.signature(function).parameters:
            raise StudyError(
                f"--data-dir is for a study whose task() takes data_dir; that of {study} does not. Leave it out, or "
                "write task(data_dir)"
            )
        options["data_dir"] = data_dir
    try:
        task = function(**options)
    except StudyError:
        raise
    except (Exception, SystemExit) as error:
        raise StudyError(f"task() of {study} must return a Task; it raised {in_a_line(error)}. Fix the file") from error
    if not isinstance(task, Task):
        raise StudyError(f"task() of {study} must return a Task; it returned {type(task).__name__}. Return Task(…)")
    return task


@contextmanager
def _siblings_importable(folder: Path) -> Iterator[None]:
    """Let a study import the modules next to it; they are then pickled by value, like the study itself."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name, module in list(sys.modules.items()):
            if _lies_beside(name, module, folder):
                cloudpickle.register_pickle_by_value(module)


def _lies_beside(name: str, module: ModuleType, folder: Path) -> bool:
    """Return whether a module or its package was imported from `folder` itself, not from an environment in it."""
    file = getattr(module, "__file__", None)
    top = name.partition(".")[0]
    if not file or top == "autocompress" or not Path(file).is_relative_to(folder):
        return False
    return Path(file).relative_to(folder).parts[0] in (top, f"{top}.py")
