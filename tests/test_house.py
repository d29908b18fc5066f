"""The rules of the house that no library checks: what is packaged, what is imported when, how large things grow.

Which room may import which is held by import-linter; see `[tool.importlinter]` in pyproject.toml.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = (
    *("commands", "search", "reports", "storage", "pareto", "profiles"),
    *("evaluators", "compressors", "studies", "spaces"),
)
SOURCES = sorted([*ROOT.glob("*.py"), *(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))])
HEAVY = ("torch", "ray", "optuna")
LIGHT = {
    **dict.fromkeys(("errors", "files", "units", "spaces", "pareto"), HEAVY),
    **dict.fromkeys(("storage", "reports"), ("torch", "ray")),
    "search.samplers": ("torch", "ray"),
    "search.options": ("torch", "ray"),
    "profiles.profile": (*HEAVY, "onnx"),
}
"""Rooms and modules, and the libraries that none of their modules loads."""


def python(code: str, folder: Path) -> str:
    """Return what a fresh interpreter prints, started in a folder."""
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def modules_of(room: str) -> list[str]:
    """Return the modules of a room, by their names in the package; a file at the top is one."""
    paths = sorted((ROOT / room.replace(".", "/")).rglob("*.py"))
    return [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths] or [room]


def test_list_of_packages_is_complete() -> None:
    """A wheel holds every package on disk and nothing else."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        listed = tomllib.load(file)["tool"]["setuptools"]["packages"]
    inits = {
        ROOT / "__init__.py",
        *(path for top in ROOT.glob("*/__init__.py") for path in top.parent.rglob("__init__.py")),
    }
    found = [".".join(("autocompress", *path.parent.relative_to(ROOT).parts)) for path in inits]
    assert sorted(listed) == sorted(found)


def test_importing_the_package_is_light(tmp_path: Path) -> None:
    """`import autocompress` loads none of the large libraries."""
    assert python(f"import sys, autocompress; print([m for m in {HEAVY} if m in sys.modules])", tmp_path) == "[]"


@pytest.mark.parametrize("room", LIGHT)
def test_rooms_of_data_and_decisions_are_light(room: str, tmp_path: Path) -> None:
    """What only reads, decides or reports loads no training library."""
    code = f"""
import importlib, sys
for name in {modules_of(room)}:
    importlib.import_module(f"autocompress.{{name}}")
print([name for name in {LIGHT[room]} if name in sys.modules])
"""
    assert python(code, tmp_path) == "[]"


@pytest.mark.parametrize("room", ROOMS)
def test_bare_names_of_rooms_are_not_importable(room: str, tmp_path: Path) -> None:
    """Nothing as generic as ``search`` lands among the installed modules."""
    code = f"import importlib.util; print(importlib.util.find_spec('{room}'))"
    assert python(code, tmp_path) == "None"


def test_imports_inside_the_package_are_relative() -> None:
    """A module never imports the package by its absolute name, except the studies, which users copy."""
    absolute = {
        str(path.relative_to(ROOT))
        for path in SOURCES
        if path.parent != ROOT / "studies"
        for node in ast.walk(ast.parse(path.read_text()))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom) and not node.level
            else []
        )
        if name.split(".")[0] == "autocompress"
    }
    assert absolute == set()


def test_files_stay_short() -> None:
    """No file has more than 400 lines."""
    assert [str(path) for path in SOURCES if len(path.read_text().splitlines()) > 400] == []


def test_functions_fit_on_a_screen() -> None:
    """No function has more than 60 lines, its signature and its docstring aside."""
    long = [
        f"{path.relative_to(ROOT)}: {node.name}"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for body in [node.body[1:] if ast.get_docstring(node, clean=False) is not None else node.body]
        if body and (body[-1].end_lineno or 0) - body[0].lineno >= 60
    ]
    assert long == []


def test_folders_stay_small() -> None:
    """No folder of the package has more than 20 modules."""
    assert {str(folder): count for folder, count in Counter(p.parent for p in SOURCES).items() if count > 20} == {}


def test_no_room_holds_a_third_of_the_house() -> None:
    """A room that grows past a third of the code is two."""
    lines: Counter[str] = Counter()
    for path in SOURCES:
        lines[path.relative_to(ROOT).parts[0]] += len(path.read_text().splitlines())
    assert {room: count for room, count in lines.items() if count > lines.total() / 3} == {}


def test_no_class_has_two_meanings() -> None:
    """A public class's name is one thing in the whole package."""
    names = Counter(
        node.name
        for path in SOURCES
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert [name for name, count in names.items() if count > 1] == []


def test_each_lazy_import_says_why() -> None:
    """An import inside a function is for start-up time or an optional dependency, never to hide a circle."""
    reasons = re.compile(r"# noqa: PLC0415  # (start-up time: |optional dependency)")
    silent = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in SOURCES
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if "PLC0415" in line and not reasons.search(line)
    ]
    assert silent == []
