"""Runs the tests of `CHECKS` in a process that finds the fake driver, once with each package."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from .driver import compile_libraries

ROOT = Path(__file__).parents[3]

CHECKS = ("on_fake_driver.py", "on_fake_runtime.py")

PACKAGES = {"pycuda": "pycuda", "cuda-bindings": "cuda.bindings"}


@pytest.fixture(scope="session")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the compiled libraries."""
    folder = tmp_path_factory.mktemp("driver")
    compile_libraries(folder)
    return folder


@pytest.mark.parametrize("binding", PACKAGES)
def test_on_the_fake_driver(libraries: Path, binding: str, tmp_path: Path) -> None:
    """Every one of them passes, and none is skipped."""
    package = PACKAGES[binding]
    if find_spec(package.partition(".")[0]) is None or find_spec(package) is None:
        pytest.skip(f"{binding} is not installed: scripts/install-pycuda, or pip install {binding}")
    files = [str(Path(__file__).with_name(name)) for name in CHECKS]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files],
        cwd=ROOT,
        env={
            **os.environ,
            "LD_LIBRARY_PATH": str(libraries),
            "AUTOCOMPRESS_TEST_BINDING": binding,
            "XDG_CACHE_HOME": str(tmp_path),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    last = done.stdout.strip().splitlines()[-1]
    assert "passed" in last, last
    assert "skipped" not in last, last
