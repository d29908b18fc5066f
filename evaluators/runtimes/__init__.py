"""Runtimes: one file each. A runtime builds an engine from a model file and infers; the clock is outside it.

A name may have a variant after a colon, for what concerns a whole model: ``openvino:bf16``, ``pytorch:compile``.
What concerns single layers is in the model file. A runtime of the user's own is the path of a Python file with
`VARIANTS`: ``my_runtime.py``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from ...errors import MissingRuntimeError, UsageError
from ..runtime import Runtime

RUNTIMES = ("onnxruntime", "openvino", "pytorch", "litert", "mnn", "tensorrt", "fake")
"""Names of the runtimes; each is a module of this package with its `VARIANTS`."""


def load(name: str) -> Runtime:
    """Return a runtime by name.

    Raises:
        UsageError: no such runtime, or no such variant of it.
    """
    family, _, variant = name.partition(":")
    if family.endswith(".py"):
        runtime = _of_file(Path(family).resolve()).get(variant)
        if runtime is None:
            raise UsageError(f"--runtime {family} must have the variant {variant!r} in its VARIANTS; it has not.")
        runtime.name = f"{Path(family).resolve()}:{variant}".rstrip(":")  # so that other processes find it
        return runtime
    if family not in RUNTIMES:
        offered = ", ".join(runtime for runtime in RUNTIMES if runtime != "fake")
        raise UsageError(f"--runtime must be one of: {offered}; got {name!r}.")
    variants = variants_of(family)
    if variant not in variants or name.endswith(":"):
        offered = ", ".join(f"{family}:{known}" if known else family for known in variants)
        raise UsageError(f"--runtime {family} must be one of: {offered}; got {name!r}.")
    return variants[variant]


def variants_of(family: str) -> Mapping[str, Runtime]:
    """Return the variants of a runtime by name; the empty name is the default."""
    variants: Mapping[str, Runtime] = import_module(f".{family}", __package__).VARIANTS
    return variants


@cache
def _of_file(path: Path) -> Mapping[str, Runtime]:
    """Return the variants in a user's file."""
    spec = spec_from_file_location(f"autocompress_runtime_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise UsageError(
            f"--runtime must be a runtime's name or a Python file with VARIANTS; {str(path)!r} is no file."
        )
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    variants: Mapping[str, Runtime] | None = getattr(module, "VARIANTS", None)
    if not variants:
        raise UsageError(f"a runtime's file must define VARIANTS, runtimes by name; {str(path)!r} does not.")
    return variants


def needed(package: str, *, runtime: str, extra: str) -> Any:
    """Return a module that a runtime needs.

    Raises:
        MissingRuntimeError: it is not installed.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise MissingRuntimeError(
            f"--runtime {runtime} needs the package {package.partition('.')[0]}, which cannot be imported ({error}): "
            f"pip install 'autocompress[{extra}]'"
        ) from error


def plain(name: str) -> str:
    """Return a runtime's name as a part of a file's name.

    >>> plain("openvino:bf16"), plain("/home/me/My_Runtime.py")
    ('openvino-bf16', 'my-runtime-py')
    """
    return re.sub(r"[^a-z0-9]+", "-", Path(name).name.lower())


def cache_key(runtime: Runtime, artefact: bytes, **options: object) -> str:
    """Return what tells a built engine from all others: file, runtime, versions, device, options."""
    what = {"runtime": runtime.name, **runtime.describe(), **options}
    return hashlib.sha256(json.dumps(what, sort_keys=True, default=str).encode() + artefact).hexdigest()
