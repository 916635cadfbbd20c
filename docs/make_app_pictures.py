"""Take the pictures of docs/app.md from a running app: its page in light and dark mode, and on a phone.

timesformer app --checkpoint=runs/demo --checkpoint=runs/space_only
python -m docs.make_app_pictures http://127.0.0.1:7860 docs

Needs Playwright and Chromium, as `make browser` has them.
"""

# Playwright is installed in .venv-app alone.
# pyright: reportMissingImports=false

import io
import shutil
import sys
from pathlib import Path
from typing import Any

from PIL import Image

EXAMPLE = "Twelve motions"
PICTURES: dict[str, dict[str, Any]] = {
    "app_light": {"viewport": {"width": 1280, "height": 1180}, "color_scheme": "light"},
    "app_dark": {"viewport": {"width": 1280, "height": 1180}, "color_scheme": "dark"},
    "app_phone": {"viewport": {"width": 390, "height": 1040}, "color_scheme": "light", "device_scale_factor": 2},
}
"""Maps the name of a picture to the browser's settings."""
LARGEST = 300_000
"""Maximum number of bytes of a picture."""
SECOND = 0.12
"""Second of the videos that is shown."""


def take(page: Any, url: str) -> bytes:
    """Let the models look at the example, and return a PNG of the page."""
    page.goto(url)
    page.get_by_role("button", name=EXAMPLE).click()
    page.wait_for_selector("#shown [aria-busy=false] .timeline", timeout=300_000)
    page.evaluate(
        """second => Promise.all([...document.querySelectorAll("#shown video")].map(video => new Promise(done => {
            video.pause();
            video.controls = false;
            video.addEventListener("seeked", () => setTimeout(done, 300), {once: true});
            video.currentTime = second;
        })))""",
        SECOND,
    )
    if page.viewport_size["width"] < 700:
        page.locator("#view").scroll_into_view_if_needed()
        page.evaluate("scrollTo(0, document.querySelector('#view').getBoundingClientRect().top + scrollY - 12)")
        page.wait_for_timeout(500)
    return page.screenshot()


def main(url: str, folder: str) -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = shutil.which("chromium") or shutil.which("chromium-browser")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for name, settings in PICTURES.items():
            picture = Image.open(io.BytesIO(take(browser.new_page(**settings), url))).convert("RGB")
            file = Path(folder) / f"{name}.png"
            picture.save(file, optimize=True)
            if file.stat().st_size > LARGEST:
                picture.quantize(256, dither=Image.Dither.NONE).save(file, optimize=True)
            assert file.stat().st_size <= LARGEST, f"{file} has {file.stat().st_size} bytes"
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
