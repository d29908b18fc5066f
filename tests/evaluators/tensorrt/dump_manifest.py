"""Write down the interface of the real TensorRT bindings, for `strict_fake.py`.

    pip install --no-deps --target FOLDER tensorrt-cu13-bindings==11.4.0.106
    python tests/evaluators/tensorrt/dump_manifest.py FOLDER tests/evaluators/tensorrt/api-11.4.json

The bindings are on PyPI and need no GPU to be looked at, once libraries of the names that they load are there: hollow
ones are compiled. To be run again for each new version of TensorRT; what it changes shows what a version changed.
"""

from __future__ import annotations

import ctypes
import inspect
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")

FUNCTIONS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "getBuilderPluginRegistry",
    "getPluginRegistry",
    "initLibNvInferPlugins",
    "getNvOnnxParserVersion",
)
"""What the bindings link against."""


def load(folder: Path) -> ModuleType:
    """Import the bindings of a folder without TensorRT's own libraries."""
    (metadata,) = folder.glob("tensorrt_cu*_bindings-*.dist-info")
    major = metadata.name.partition("-")[2].partition(".")[0]
    hollow = Path(tempfile.mkdtemp())
    source = hollow / "hollow.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in FUNCTIONS))
    for name in LIBRARIES:
        soname = f"lib{name}.so.{major}"
        subprocess.run(
            ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{soname}", "-o", str(hollow / soname), str(source)], check=True
        )
        ctypes.CDLL(str(hollow / soname), mode=ctypes.RTLD_GLOBAL)
    sys.path.insert(0, str(folder))
    import tensorrt_bindings

    return tensorrt_bindings  # type: ignore[no-any-return]


def dump(module: ModuleType) -> dict[str, Any]:
    """Return the public interface of the bindings: classes with methods and properties, enums, functions, values."""
    found: dict[str, Any] = {
        "version": module.__version__,
        "classes": {},
        "enums": {},
        "functions": {},
        "values": [],
    }
    for name, value in sorted(vars(module).items()):
        if name.startswith("_") or isinstance(value, ModuleType):
            continue
        if inspect.isclass(value) and hasattr(value, "__members__"):
            found["enums"][name] = {member: int(number) for member, number in value.__members__.items()}
        elif inspect.isclass(value):
            found["classes"][name] = _describe(value)
        elif callable(value):
            found["functions"][name] = _signatures(name, value.__doc__)
        else:
            found["values"].append(name)
    return found


def _describe(kind: type) -> dict[str, Any]:
    """Return a class's bases, its methods with all their signatures, and whether its properties can be set."""
    bases = [base.__name__ for base in kind.__mro__[1:] if base.__module__.startswith("tensorrt")]
    methods, properties = {}, {}
    for name in dir(kind):
        if name.startswith("_") and name != "__init__":
            continue
        member = inspect.getattr_static(kind, name)
        value = getattr(kind, name)
        if isinstance(member, property):
            properties[name] = {"settable": member.fset is not None}
        elif callable(value) and not inspect.isclass(value):
            methods[name] = _signatures(name, value.__doc__)
    return {"bases": bases, "methods": methods, "props": properties}


def _signatures(name: str, documentation: str | None) -> list[str]:
    """Return the signatures that pybind11 has put in front of a function's documentation."""
    lines = re.findall(rf"^(?:\d+\. )?({re.escape(name)}\(.*\) -> .*)$", documentation or "", re.MULTILINE)
    plain = (re.sub(r"tensorrt_bindings\.tensorrt\.", "", line) for line in lines)
    return [line for line in plain if "(*args, **kwargs)" not in line]


if __name__ == "__main__":
    interface = dump(load(Path(sys.argv[1])))
    Path(sys.argv[2]).write_text(json.dumps(interface, indent=0, sort_keys=True))
