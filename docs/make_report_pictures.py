"""Photograph a report for docs/evaluate.md in Debian's Chromium; needs tests/browser/requirements.txt.

python -m docs.make_report_pictures runs/demo/report.html docs
"""

import io
import shutil
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright  # pyright: ignore[reportMissingImports]

PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1280, "height": 860}
PICTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "report_light": ("", {"viewport": DESKTOP}),
    "report_dark": ("#confusion", {"viewport": {**DESKTOP, "height": 760}, "color_scheme": "dark"}),
    "report_phone": ("#example-list", {"viewport": PHONE, "device_scale_factor": 1.5}),
}
"""Maps a picture to the section at its top and to the options of the browser's window."""

MOST_BYTES = 300_000
"""Size above which a picture is reduced to 256 colours."""

MIDDLE = """() => {
  for (const seek of document.querySelectorAll(".seek")) {
    seek.value = 3;
    seek.dispatchEvent(new Event("input"));
  }
}"""
"""Script that shows the fourth frame of every clip."""


def main(report: str, folder: str) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, (section, options) in PICTURES.items():
            page = browser.new_page(**options, reduced_motion="reduce")
            page.goto(Path(report).resolve().as_uri() + section)
            page.evaluate(MIDDLE)
            page.wait_for_timeout(500)
            picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
            picture.save(path := Path(folder) / f"{name}.png", optimize=True)
            if path.stat().st_size > MOST_BYTES:
                picture.quantize(256).save(path, optimize=True)
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
