"""The pictures of README: the report and a batch of `make demo`, light and dark, as Chromium shows them.

    make demo
    .venv/bin/python docs/pictures.py    # needs chromium, chromedriver, and selenium (pip install '.[test]')

Run it where `make demo` was: it reads runs/demo and data, and writes docs/pictures/*.webp, each below 100 kB.
"""

import base64
import io
import shutil
import tempfile
from pathlib import Path

from PIL import Image
from selenium import webdriver

from bridgetower_train.cli import main

OUT = Path(__file__).parent / "pictures"
WIDTH, SCALE, MARGIN = 1080, 1.5, 12
PAGES = {
    "report": (["report", "run_dir=runs/demo"], ".chart:nth-child(3)", ".chart:nth-child(6)"),
    "batch": (["view", "experiment=demo", "n=2"], ".sample", ".sample:last-child"),
}
"""Name -> command, and the first and last element of the picture."""
LIMIT = 100_000
PLACE = """return [...arguments].flatMap((name) => {
  const box = document.querySelector(name).getBoundingClientRect();
  return [box.top, box.bottom];
})"""


def pictures() -> None:
    """Write all pictures."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(argument)
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": WIDTH, "height": 900, "deviceScaleFactor": SCALE, "mobile": False},
    )
    try:
        with tempfile.TemporaryDirectory() as folder:
            for name, (command, *ends) in PAGES.items():
                page = Path(folder, f"{name}.html")
                if main([*command, f"out={page}"]):
                    raise SystemExit(f"{' '.join(command)}: failed; run `make demo` first")
                for scheme in ("light", "dark"):
                    (OUT / f"{name}-{scheme}.webp").write_bytes(picture(browser, page, ends, scheme))
    finally:
        browser.quit()


def picture(browser: webdriver.Chrome, page: Path, ends: list[str], scheme: str) -> bytes:
    """A WebP of a page from one element to another."""
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.get(page.as_uri())
    heights = browser.execute_script(PLACE, *ends)
    top, bottom = min(heights) - MARGIN, max(heights) + MARGIN
    clip = {"x": 0, "y": top, "width": WIDTH, "height": bottom - top, "scale": 1}
    taken = browser.execute_cdp_cmd("Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": True})
    image = Image.open(io.BytesIO(base64.b64decode(taken["data"]))).convert("RGB")
    file = io.BytesIO()
    image.save(file, "WEBP", quality=80, method=6)
    if file.tell() > LIMIT:
        raise SystemExit(f"{page.name}: {file.tell():,} bytes; at most {LIMIT:,}: lower SCALE")
    return file.getvalue()


if __name__ == "__main__":
    pictures()
