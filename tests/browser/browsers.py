"""A real headless Chromium, and what a test asks of a page in it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

# Nothing of the browser's own may use the network, or the log of requests would not be the page's alone.
FLAGS = """--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync --hide-scrollbars --force-device-scale-factor=1""".split()
BINARIES = ("chromium", "chromium-browser", "google-chrome")
# A page that has loaded may still be behind the one before it: no picture can be taken until it has been painted.
PAINTED = "requestAnimationFrame(() => requestAnimationFrame(arguments[arguments.length - 1]))"
LEGIBLE = 64  # shades of grey of 256, between text and what is behind it
LEAST_INK = 0.005  # of a page, as a share of its pixels
NO_CHROMIUM = "needs chromium and chromedriver (Debian: chromium, chromium-driver)"


def is_installed() -> bool:
    return _binary() is not None and shutil.which("chromedriver") is not None


@contextmanager
def chromium() -> Iterator[Chrome]:
    """A browser with a profile of its own, which notes its console and every request."""
    with TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = ChromeOptions()
        options.binary_location = str(_binary())
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        driver = Chrome(options=options, service=Service(shutil.which("chromedriver")))
        try:
            driver.get("about:blank")  # away from the browser's own first page, which asks for much
            yield driver
        finally:
            driver.quit()


def open_page(driver: Chrome, path: Path, width: int = 1280, theme: str = "light", height: int = 900) -> None:
    """The file at `path`, in a window of this width and under a system of this theme."""
    _drained(driver)
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    media = {"prefers-color-scheme": theme, "prefers-reduced-motion": "reduce"}  # what is clicked must not glide away
    features = [{"name": name, "value": value} for name, value in media.items()]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    driver.get(path.as_uri())
    driver.execute_async_script(PAINTED)


def console(driver: Chrome) -> list[str]:
    """What the console was told since the page was opened; violations of the security policy are among it."""
    return [entry["message"] for entry in driver.get_log("browser")]


def requests(driver: Chrome) -> list[str]:
    """The address of everything that was asked for since the page was opened."""
    messages = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    return [it["params"]["request"]["url"] for it in messages if it["method"] == "Network.requestWillBeSent"]


def screenshot(driver: Chrome, path: Path, whole: bool = True) -> None:
    import base64

    arguments: dict[str, Any] = {"format": "png", "captureBeyondViewport": whole}
    if whole:
        size = driver.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
        arguments["clip"] = {**size, "x": 0, "y": 0, "scale": 1}
    path.write_bytes(base64.b64decode(driver.execute_cdp_cmd("Page.captureScreenshot", arguments)["data"]))


def is_blank(picture: Path) -> bool:
    """Whether there is nothing to read in a screenshot: no text is as pale as that, and no page has as little of it."""
    with Image.open(picture) as image:
        grey = image.convert("L")
        ground = max(grey.getcolors(), key=lambda found: found[0])[1]
        legible = sum(count for count, shade in grey.getcolors() if abs(shade - ground) > LEGIBLE)
        return legible < LEAST_INK * grey.width * grey.height


def _binary() -> str | None:
    return next((found for name in BINARIES if (found := shutil.which(name))), None)


def _drained(driver: Chrome) -> None:
    for kind in ("browser", "performance"):
        driver.get_log(kind)
