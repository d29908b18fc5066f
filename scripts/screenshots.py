"""Takes the pictures of a run's report that README and docs show.

    python scripts/screenshots.py runs/digits [--out docs]

Needs chromium, or chrome, on the PATH. The desktop's is light, the phone's dark.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

DESKTOP, PHONE = {"width": 1280, "height": 1180}, {"width": 390, "height": 844}


def main() -> None:
    """Write ``report.png`` and ``report-phone.png``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a run directory with a report.html")
    parser.add_argument("--out", type=Path, default=Path("docs"))
    asked = parser.parse_args()
    page_file = asked.run / "report.html"
    if not page_file.is_file():
        sys.exit(f"RUN must have a report.html; {str(asked.run)!r} has none. `autocompress report RUN` writes it.")
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        sys.exit("chromium must be on the PATH to take pictures; on Debian, apt-get install chromium.")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=found, args=["--no-sandbox", "--disable-gpu", "--no-first-run"]
        )
        for name, size, scheme, at in (
            ("report", DESKTOP, "light", "#result"),
            ("report-phone", PHONE, "dark", "#explore"),
        ):
            page = browser.new_page(viewport=size, color_scheme=scheme)
            page.goto(page_file.resolve().as_uri())
            page.wait_for_selector("html[data-ready]")
            page.evaluate("(at) => document.querySelector(at).scrollIntoView({ behavior: 'instant' })", at)
            page.wait_for_timeout(500)  # the plot has come to rest
            picture = asked.out / f"{name}.png"
            page.screenshot(path=picture)
            print(f"{picture}: {picture.stat().st_size / 1e3:.0f} kB")
            page.close()
        browser.close()


if __name__ == "__main__":
    main()
