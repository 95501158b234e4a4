"""A real browser: where it is installed, and what the page shows in it."""

from __future__ import annotations

import shutil

import pytest
from selenium.webdriver import Chrome

CHROMIUM, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
NEEDS_BROWSER = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None,
    reason="needs a browser: apt-get install chromium chromium-driver",
)
DESKTOP, PHONE = (1280, 900), (390, 844)


def frames_shown(browser: Chrome, stream: str) -> int:
    """Return the number of frames of a stream that the page has shown."""
    script = "return Number(document.querySelector(`[data-stream='${arguments[0]}']`)?.dataset.frames ?? 0)"
    return int(browser.execute_script(script, stream))


def assert_no_errors(browser: Chrome) -> None:
    """Fail if the console of the browser contains errors."""
    entries = browser.get_log("browser")  # type: ignore[no-untyped-call]
    assert [entry for entry in entries if entry["level"] == "SEVERE"] == []
