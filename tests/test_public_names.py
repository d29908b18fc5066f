"""The public names: what `import autocompress` offers, and that it suffices to use it."""

from __future__ import annotations

import inspect
import re
from types import FunctionType

import pytest

import autocompress

FUNCTIONS = [name for name in autocompress._PUBLIC if isinstance(getattr(autocompress, name), FunctionType)]
RAISED = re.compile(r"^ +(\w+): ", re.MULTILINE)


def test_public_names_are_listed_once() -> None:
    """`__all__`, `dir` and the table of modules agree, and each name is defined in the module that is listed."""
    assert autocompress.__all__ == sorted([*autocompress._PUBLIC, "__version__"])
    assert dir(autocompress) == autocompress.__all__
    assert {name: getattr(autocompress, name).__module__ for name in autocompress._PUBLIC} == autocompress._PUBLIC


def test_an_unknown_name_is_an_attribute_error() -> None:
    """A misspelled name raises what any module raises."""
    with pytest.raises(AttributeError, match="has no attribute 'pareto_front'"):
        autocompress.pareto_front  # noqa: B018


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_a_function_returns_and_raises_is_public(name: str) -> None:
    """A program can name the type of each result, and catch each error, by a public name."""
    function = getattr(autocompress, name)
    returned = re.findall(r"[A-Z]\w+", function.__annotations__["return"])
    assert {*returned} <= {"Any", "Callable", *autocompress.__all__}
    raised = RAISED.findall(inspect.getdoc(function).partition("Raises:")[2])  # type: ignore[union-attr]
    assert [error for error in raised if error not in autocompress.__all__] == []


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_parameter_of_a_function_is_typed_and_explained(name: str) -> None:
    """No function takes `**options`, and its docstring has a line for each parameter, in order."""
    function = getattr(autocompress, name)
    parameters = inspect.signature(function).parameters
    assert all(p.annotation is not p.empty and p.kind is not p.VAR_KEYWORD for p in parameters.values())
    explained = inspect.getdoc(function).partition("Args:\n")[2].partition("\n\n")[0]  # type: ignore[union-attr]
    assert re.findall(r"^    (\w+): ", explained, re.MULTILINE) == [*parameters]
