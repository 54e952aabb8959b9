"""Pages opened in headless Chromium."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.pages.synthetic_run import write_run

FAULTS = """
const width = arguments[0], faults = [];
const reach = document.scrollingElement.scrollWidth;
if (reach > width) faults.push(`scrolls to ${reach} px`);
if (parseFloat(getComputedStyle(document.body).fontSize) < 14) faults.push("small body text");
for (const image of document.images)
  if (!image.complete || image.naturalWidth === 0) faults.push("no image: " + image.alt);
for (const link of document.querySelectorAll("[src], link, script[src]"))
  if (link.src && !link.src.startsWith("data:")) faults.push("not in the page: " + link.src);
for (const path of document.querySelectorAll(".plot path")) {
  const box = path.getBoundingClientRect();
  const name = path.closest("figure").querySelector("b").textContent + ", " + path.getAttribute("class");
  if (!(path.getTotalLength() > 0)) faults.push("not drawn: " + name);
  if (path.classList.contains("line") && box.width < 100) faults.push(`only ${box.width} px wide: ${name}`);
  const plot = path.closest(".plot").getBoundingClientRect();
  if (box.top < plot.top - 4 || box.bottom > plot.bottom + 4 || box.left < plot.left - 4 || box.right > plot.right + 4)
    faults.push("outside its plot: " + name);
}
for (const matrix of document.querySelectorAll(".matrix")) {
  matrix.scrollLeft = matrix.scrollWidth;
  const {left, right} = matrix.getBoundingClientRect();
  if (left < 0 || right > width) faults.push("a matrix wider than the page");
  for (const row of matrix.querySelectorAll("tr")) {
    const [first, last] = [row.firstElementChild, row.lastElementChild].map((cell) => cell.getBoundingClientRect());
    if (Math.abs(first.left - left) > 1 || first.right > last.left + 1 || last.right > right + 1)
      faults.push("not to be compared: " + row.textContent);
  }
  matrix.scrollLeft = 0;
}
const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (texts.nextNode()) {
  const node = texts.currentNode, holder = node.parentElement;
  if (!node.data.trim() || holder.tagName === "SCRIPT") continue;
  const size = parseFloat(getComputedStyle(holder).fontSize);
  if (size < 13) faults.push(`${size} px: ${node.data}`);
  const matrix = holder.closest(".matrix"); // scrolls, beside its first column
  for (let up = matrix || holder; up; up = up.parentElement)
    if (up !== matrix && up.scrollWidth > up.clientWidth + 1 && getComputedStyle(up).overflowX !== "visible")
      faults.push("clipped: " + node.data);
  const range = document.createRange();
  range.selectNodeContents(node);
  for (const box of range.getClientRects())
    if (!matrix && (box.left < 0 || box.right > width)) faults.push(`from ${box.left} to ${box.right} px: ${node.data}`);
}
return faults;
"""
"""What is wrong with the page that is open at a width: nothing, if all is well."""


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """A browser; skips where Chromium or its driver is absent."""
    binary, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if not binary or not driver:
        pytest.skip("needs chromium and chromedriver (Debian: apt-get install chromium chromium-driver)")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield browser
    browser.quit()


@pytest.fixture
def open_page(chromium: Any) -> Callable[..., Any]:
    """Open a page at a width in CSS pixels, light or dark, and check what every page must keep."""

    def opened(path: Path, width: int, scheme: str = "light") -> Any:
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        chromium.get_log("browser")
        chromium.get(path.resolve().as_uri())
        assert chromium.get_log("browser") == []
        assert chromium.execute_script(FAULTS, width) == []
        return chromium

    return opened


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A finished run of 3,000 steps."""
    return write_run(tmp_path / "shapes tiny, seed 0")
