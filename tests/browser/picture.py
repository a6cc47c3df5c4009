"""The picture of a report for the README: its comparison in the light theme beside its completions in the dark one.

python -m tests.browser.picture outputs/<experiment>/report.html
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image
from selenium.webdriver import Chrome

from tests.browser.browsers import chromium, open_page, screenshot

PICTURE = Path(__file__).with_name("report.png")
WIDTH, HEIGHT, GAP = 900, 1180, 24
COLOURS = 128  # of the picture: flat areas and text need no more


def main(page: Path) -> None:
    with chromium() as driver, TemporaryDirectory() as directory:
        halves = [
            _half(driver, page, Path(directory) / f"{theme}.png", theme, section)
            for theme, section in (("light", "side-by-side"), ("dark", "completions"))
        ]
        picture = Image.new("RGB", (2 * WIDTH + GAP, HEIGHT), "white")
        for place, half in enumerate(halves):
            picture.paste(half, (place * (WIDTH + GAP), 0))
        picture.quantize(COLOURS).save(PICTURE, optimize=True)


def _half(driver: Chrome, page: Path, path: Path, theme: str, section: str) -> Image.Image:
    open_page(driver, page, WIDTH, theme, HEIGHT)
    # The conspicuous come first on the page; the last dataset's prompts are the most telling.
    driver.execute_script(
        "const choice = document.getElementById('dataset'); choice.selectedIndex = choice.options.length - 1;"
        "choice.dispatchEvent(new Event('change', { bubbles: true }));"
        "document.getElementById(arguments[0]).scrollIntoView()",
        section,
    )
    screenshot(driver, path, whole=False)
    with Image.open(path) as image:
        return image.convert("RGB")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
