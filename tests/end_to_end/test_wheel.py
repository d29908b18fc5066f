"""The package as others get it: a wheel that was built, installed in an empty environment, and used there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy
import pytest

ROOT = Path(__file__).parents[2]
LIBRARIES = Path(numpy.__file__).parents[1]
"""Where this environment has the libraries that the wheel needs."""


def run(*words: object, folder: Path, **changed: str) -> subprocess.CompletedProcess[str]:
    """Return what a program did in a folder, without this environment's variables for Python."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(
        [*map(str, words)], cwd=folder, env={**kept, **changed}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.args}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="module")
def rooms() -> list[Path]:
    """Return the folders of the package."""
    return sorted(path.parent for path in ROOT.glob("*/__init__.py"))


@pytest.fixture(scope="module")
def wheel(rooms: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a wheel of the checkout as it is; what builds it writes nothing there."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for room in rooms:
        shutil.copytree(room, source / room.name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in [*ROOT.glob("*.py"), *(ROOT / name for name in ("pyproject.toml", "py.typed", "README.md", "LICENSE"))]:
        shutil.copy(path, source)
    pip = (sys.executable, "-m", "pip", "--quiet")
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source, folder=folder)
    return next(folder.glob("*.whl"))


def test_a_wheel_holds_every_file_of_the_package(wheel: Path, rooms: list[Path]) -> None:
    """No module, page, schema or network is left out."""
    files = [path for room in rooms for path in room.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    expected = {str(path.relative_to(ROOT)) for path in [*files, *ROOT.glob("*.py"), ROOT / "py.typed"]}
    packed = {name.removeprefix("autocompress/") for name in zipfile.ZipFile(wheel).namelist()}
    assert len(expected) > 200
    assert expected - packed == set()


@pytest.mark.slow
@pytest.mark.timeout(840)
def test_an_installed_wheel_runs_the_main_job(wheel: Path, tmp_path: Path) -> None:
    """In an environment with nothing but the wheel and its libraries, the command runs its own study to the end.

    It trains no network beforehand and loads nothing from the checkout.
    """
    environment = tmp_path / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", environment, folder=tmp_path)
    python = environment / "bin" / "python"
    run(sys.executable, "-m", "pip", "--quiet", "--python", python, "install", "--no-deps", wheel, folder=tmp_path)
    (site,) = environment.glob("lib/*/site-packages")
    (site / "libraries.pth").write_text(f"{LIBRARIES}\n")
    where = "import autocompress.search, torch; print(autocompress.search.__file__)"
    assert Path(run(python, "-c", where, folder=tmp_path).stdout.strip()).is_relative_to(site)

    words = ["--target-latency", "1s", "--trials", "1", "--final-epochs", "0.1", "--workers", "1"]
    cache = tmp_path / "cache"
    run(environment / "bin" / "autocompress", *words, folder=tmp_path, AUTOCOMPRESS_CACHE=str(cache))
    assert not list(cache.glob("digits*"))
    out = tmp_path / "runs" / "digits"
    assert (out / "report.html").stat().st_size > 1e6
    assert (out / "baseline" / "model.onnx").exists()
