"""The documentation as a site: it builds without warnings, is complete, and fetches nothing from anybody."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
import typer

import autocompress
from autocompress.cli import app

ROOT = Path(__file__).parents[1]
FETCHED = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src"}
"""Attributes whose address a browser fetches by itself."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the built site."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [ROOT / "scripts" / "docs", "--site-dir", folder],
        env={**os.environ, "VIRTUAL_ENV": sys.prefix},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return folder


class Fetched(HTMLParser):
    """Collects what a page makes a browser fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep the address that a tag has."""
        address = dict(attrs).get(FETCHED.get(tag, ""))
        if address:
            self.addresses.append(address)


def test_every_page_is_there(site: Path) -> None:
    """Each Markdown file of the documentation has a page, and so have the generated references."""
    pages = {path.relative_to(site).with_suffix("").as_posix() for path in site.rglob("*.html")}
    sources = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert pages == {*sources, "reference/cli", "reference/python", "404"}


def test_nothing_is_fetched(site: Path) -> None:
    """No page and no style sheet names an address elsewhere that a browser would fetch."""
    found = Fetched()
    for page in site.rglob("*.html"):
        found.feed(page.read_text())
    assert len(found.addresses) > 50
    assert [address for address in found.addresses if re.match(r"(https?:)?//", address)] == []
    styles = "".join(path.read_text() for path in site.rglob("*.css"))
    assert re.findall(r"(?:url\(|@import )\s*[\"']?(?:https?:)?//", styles) == []


def test_reference_of_the_command_line_is_complete(site: Path) -> None:
    """Every command and every option stands there with its help."""
    page = (site / "reference" / "cli.html").read_text()
    group = typer.main.get_command(app)
    for name, command in group.commands.items():
        assert name in page
        for param in command.params:
            if param.opts[0].startswith("--"):
                assert param.opts[0] in page, f"{name} {param.opts[0]}"


def test_reference_of_python_is_complete(site: Path) -> None:
    """Every public name has its docstring there."""
    page = (site / "reference" / "python.html").read_text()
    for name, module in autocompress._PUBLIC.items():
        assert f'id="{module}.{name}"' in page
        first = (getattr(autocompress, name).__doc__ or "").strip().splitlines()[0]
        assert re.sub(r"[`'].*", "", first) in page
