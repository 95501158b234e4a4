"""A real browser: where it is installed, and what the page shows in it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any, Literal

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.actions.action_builder import ActionBuilder
from selenium.webdriver.common.actions.pointer_input import PointerInput
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from tests.waiting import wait_for

CHROMIUM, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
NEEDS_BROWSER = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None,
    reason="needs a browser: apt-get install chromium chromium-driver",
)
DESKTOP, PHONE = (1280, 900), (390, 844)
# Script that delays each request of the page, as a server far away does.
SLOW_SERVER = """
const quick = window.fetch;
window.fetch = async (...request) => {
  await new Promise((proceed) => setTimeout(proceed, 500));
  return quick(...request);
};
"""


def frames_shown(browser: Chrome, stream: str) -> int:
    """Return the number of frames of a stream that the page has shown."""
    script = "return Number(document.querySelector(`[data-stream='${arguments[0]}']`)?.dataset.frames ?? 0)"
    return int(browser.execute_script(script, stream))


def assert_no_errors(browser: Chrome) -> None:
    """Fail if the console of the browser contains errors."""
    entries = browser.get_log("browser")  # type: ignore[no-untyped-call]
    assert [entry for entry in entries if entry["level"] == "SEVERE"] == []


def card_of(browser: Chrome, stream: str) -> WebElement:
    """Return the element of a stream."""
    return browser.find_element(By.CSS_SELECTOR, f"[data-stream='{stream}']")


def opened(browser: Chrome, url: str, stream: str = "north") -> WebElement:
    """Open the page; return the card of a stream once it shows a frame."""
    browser.get(url)
    wait_for(lambda: browser.find_elements(By.CSS_SELECTOR, f"[data-stream='{stream}'] img[src]"))
    return card_of(browser, stream)


def press(card: WebElement, action: str) -> None:
    """Click a button of a card by the name of its action."""
    card.find_element(By.CSS_SELECTOR, f"[data-act='{action}']").click()


def pointer(browser: Chrome, card: WebElement, kind: Literal["mouse", "touch"] = "mouse") -> Callable[..., None]:
    """Return a function that presses the pointer at a point of the picture, and drags it through further ones.

    Points are (x, y) from 0 to 1.
    """
    picture = card.find_element(By.CSS_SELECTOR, ".overlay")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", picture)
    # The picture may be narrower or lower than its element.
    script = (
        "const { a, e, f } = arguments[0].getScreenCTM(); const box = arguments[0].viewBox.baseVal;"
        "return [e, f, a * box.width, a * box.height]"
    )

    def press_at(*points: tuple[float, float]) -> None:
        left, top, width, height = browser.execute_script(script, picture)
        places = [(round(left + x * width), round(top + y * height)) for x, y in points]
        actions: Any = ActionBuilder(browser, mouse=PointerInput(kind, kind), duration=20)  # type: ignore[no-untyped-call]
        actions.pointer_action.move_to_location(*places[0]).pointer_down()
        for place in places[1:]:
            actions.pointer_action.move_to_location(*place)
        actions.pointer_action.pointer_up()
        actions.perform()

    return press_at
