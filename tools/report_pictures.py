"""Makes the pictures of docs/report.md from a run's folder: light, dark, on a phone, and of a comparison.

    python tools/report_pictures.py RUN OTHER_RUN

Chromium has to be installed. The pictures in docs/ are of two runs of the demo, which the page names.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from browser import Browser, open_browser

from tunix_grpo.config.compare import CompareConfig
from tunix_grpo.record.report.side_by_side import compare
from tunix_grpo.record.report.writing import write_report

PICTURES = Path(__file__).resolve().parent.parent / "docs" / "pictures"
_DRAWN = "drawn.length > 0 && drawn.every((one) => one.plot !== null)"


def take(browser: Browser, name: str, at: str = "#page") -> None:
    """Writes a picture with an element at its top edge."""
    browser.run(f"document.querySelector('{at}').scrollIntoView()")
    browser.wait_for(_DRAWN)
    browser.run("new Promise((done) => setTimeout(done, 400))")  # for what has come into view
    browser.screenshot(PICTURES / f"{name}.png")


def main(run: Path, other: Path) -> None:
    """Takes all pictures."""
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, open_browser() as browser:
        report, side_by_side = Path(folder, "report.html"), Path(folder, "compare.html")
        write_report(run, report, most=100_000)
        compare(CompareConfig(runs=[str(run), str(other)], most=10, output=str(side_by_side)))
        browser.look(width=1000, height=760)
        browser.open(report)
        take(browser, "report_light")
        browser.look(width=1000, height=760, dark=True)
        take(browser, "report_dark", "#completions")
        browser.look(width=390, height=760)
        take(browser, "report_phone", "#curves")
        browser.look(width=1000, height=760)
        browser.open(side_by_side)
        take(browser, "compare", "#settings")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
