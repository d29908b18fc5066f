"""A `tensorrt` that knows the whole interface of the real one, and does nothing that a test has not scripted.

It is made from a manifest that `dump_manifest.py` has read off the real bindings. A name that they lack is an
AttributeError, a wrong number, keyword or type of arguments a TypeError, as is theirs; a method without a script is a
NotImplementedError. (`unittest.mock.create_autospec` accepts any arguments: the real methods carry no signature.)
"""

from __future__ import annotations

import enum
import inspect
import json
import keyword
import re
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Behaviour = dict[str, Callable[..., Any]]
"""What methods and properties do, by name: ``"Builder.create_network"``; the object comes first."""

PRIMITIVES: Mapping[str, tuple[type, ...]] = {
    "str": (str,),
    "bool": (bool,),
    "int": (int,),
    "typing.SupportsInt": (int,),
    "typing.SupportsFloat": (int, float),
    "typing_extensions.Buffer": (bytes, bytearray, memoryview),
    "tuple": (tuple,),
    "list": (list,),
    "Dims": (tuple, list),
}


class Severity(enum.IntEnum):
    """`ILogger.Severity`; nested types are not in the manifest."""

    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


def make(manifest: Path, behaviour: Behaviour) -> Any:
    """Return the module of a manifest; scripts may be added to the behaviour later."""
    interface = json.loads(manifest.read_text())
    module: Any = types.ModuleType("tensorrt")
    module.__version__ = interface["version"]
    for name, members in interface["enums"].items():
        setattr(module, name, enum.IntEnum(name, members))
    for name, description in interface["classes"].items():
        setattr(module, name, _class(module, name, description, behaviour))
    module.ILogger.Severity = Severity
    return module


def new(kind: Any, **values: Any) -> Any:
    """Return an object of a fake class, with values for its properties."""
    made = kind.__new__(kind)
    made.__dict__["values"].update(values)
    return made


def _class(module: Any, name: str, description: Mapping[str, Any], behaviour: Behaviour) -> type:
    def create(cls: type, *_: Any, **__: Any) -> Any:
        made = object.__new__(cls)
        made.__dict__["values"] = {}
        return made

    def assign(self: Any, attribute: str, value: Any) -> None:
        is_ours = type(self).__module__ != "tensorrt"  # a logger or a profiler may have attributes of its own
        if not is_ours and not isinstance(getattr(type(self), attribute, None), property):
            raise AttributeError(f"{name!r} object has no attribute {attribute!r}")
        object.__setattr__(self, attribute, value)

    members: dict[str, Any] = {"__module__": "tensorrt", "__new__": create, "__setattr__": assign}
    for method, signatures in description["methods"].items():
        members[method] = _method(module, f"{name}.{method}", signatures, behaviour)
    for attribute, about in description["props"].items():
        members[attribute] = _property(f"{name}.{attribute}", about["settable"], behaviour)
    return type(name, (), members)


def _method(module: Any, name: str, signatures: list[str], behaviour: Behaviour) -> Callable[..., Any]:
    known = [_signature(text) for text in signatures]

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if known and not any(_accepts(module, *signature, (self, *args), kwargs) for signature in known):
            raise TypeError(f"{name}(): incompatible function arguments {args} {kwargs}; there is {signatures}")
        script = behaviour.get(name)
        if script is None and not name.endswith(".__init__"):
            raise NotImplementedError(f"no test says what {name} does")
        return script(self, *args, **kwargs) if script else None

    return method


def _property(name: str, settable: bool, behaviour: Behaviour) -> property:
    attribute = name.partition(".")[2]

    def get(self: Any) -> Any:
        if name in behaviour:
            return behaviour[name](self)
        if attribute not in self.__dict__["values"]:
            raise NotImplementedError(f"no test says what {name} is")
        return self.__dict__["values"][attribute]

    def set_(self: Any, value: Any) -> None:
        self.__dict__["values"][attribute] = value

    return property(get, set_ if settable else None)


def _accepts(
    module: Any, signature: inspect.Signature, kinds: Mapping[str, str], args: tuple[Any, ...], kwargs: Any
) -> bool:
    """Tell whether a call fits one of a method's signatures."""
    try:
        bound = signature.bind(*args, **kwargs).arguments
    except TypeError:
        return False
    return all(_is_a(module, value, kinds[name]) for name, value in bound.items() if name in kinds)


def _is_a(module: Any, value: Any, kind: str) -> bool:
    expected = PRIMITIVES.get(kind) or getattr(module, kind, None)
    return expected is None or isinstance(value, expected)


def _signature(text: str) -> tuple[inspect.Signature, dict[str, str]]:
    """Return a signature as pybind11 prints it, and the type of each parameter.

    ``set_shape(self: IOptimizationProfile, input: str, min: Dims) -> None``
    """
    matched = re.match(r"^\w+\((.*)\) -> ", text)
    assert matched, text
    parameters: list[inspect.Parameter] = []
    kinds: dict[str, str] = {}
    for part in _split(matched[1]):
        parameter = re.match(r"^(\w+): ([^=]*?)(?: = (.*))?$", part)
        assert parameter, text
        name, kind, default = parameter.groups()
        name += "_" * keyword.iskeyword(name)
        if name != "self":
            kinds[name] = kind.strip()
        is_unnamed = re.match(r"arg\d+$", name) or name == "self"
        has_default = default is not None or any(p.default is not inspect.Parameter.empty for p in parameters)
        parameters.append(
            inspect.Parameter(
                name,
                inspect.Parameter.POSITIONAL_ONLY if is_unnamed else inspect.Parameter.POSITIONAL_OR_KEYWORD,
                default=default if has_default else inspect.Parameter.empty,
            )
        )
    return inspect.Signature(parameters), kinds


def _split(text: str) -> list[str]:
    """Split parameters at the commas that are in no bracket."""
    parts, depth, start = [], 0, 0
    for i, character in enumerate(text):
        depth += (character in "[(<") - (character in "])>")
        if character == "," and not depth:
            parts.append(text[start:i].strip())
            start = i + 1
    return [*parts, text[start:].strip()] if text.strip() else []
