"""The region editor of the page in a browser: open it, choose a tool, and look at what was drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import httpx
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from tests.retina_edge.web.browser import opened, pointer, press
from tests.retina_edge.web.serving import Served
from tests.waiting import wait_for

SQUARE = [(0.4, 0.3), (0.8, 0.3), (0.8, 0.8), (0.4, 0.8)]
# A line that the patch of the stream north crosses again and again.
UPRIGHT = [(0.25, 0.9), (0.25, 0.02)]


def edited(browser: Chrome, url: str, stream: str = "north") -> WebElement:
    """Open the page and the editor of a stream; return its card."""
    card = opened(browser, url, stream)
    press(card, "edit")
    wait_for(lambda: card.find_element(By.CSS_SELECTOR, "[data-draw='zone']").is_enabled())
    return card


def choose_tool(card: WebElement, kind: str) -> None:
    card.find_element(By.CSS_SELECTOR, f"[data-draw='{kind}']").click()


def draw(
    browser: Chrome,
    card: WebElement,
    kind: str,
    points: Sequence[tuple[float, float]],
    device: Literal["mouse", "touch"] = "mouse",
) -> Callable[..., None]:
    """Choose a tool and press the pointer at points of the picture; return the function that presses it."""
    choose_tool(card, kind)
    press_at = pointer(browser, card, device)
    for point in points:
        press_at(point)
    return press_at


def focus(card: WebElement, selector: str) -> None:
    """Give an element of a card the focus, in one step: each change draws the handles of a region anew."""
    card.parent.execute_script("arguments[0].querySelector(arguments[1]).focus()", card, selector)


def press_keys(browser: Chrome, *pressed: str) -> None:
    """Press keys in the element that has the focus; again, if it was drawn anew before they were pressed."""
    for _ in range(20):
        try:
            browser.switch_to.active_element.send_keys(*pressed)
        except StaleElementReferenceException:
            continue
        return
    raise AssertionError("the element that has the focus is drawn anew all the time")


def regions(server: Served, stream: str = "north") -> list[dict[str, Any]]:
    """Return the regions of a stream that were drawn."""
    answer = httpx.get(f"{server.url}/api/streams/{stream}/regions").json()
    return [region for region in answer["regions"] if not region["read_only"]]


def names(card: WebElement) -> list[str]:
    """Return what the list of regions says."""
    script = "return [...arguments[0].querySelectorAll('.region-list li')].map((item) => item.innerText)"
    return list(card.parent.execute_script(script, card))


def wait_for_corners(card: WebElement, count: int) -> None:
    """Wait until the page has selected a region of this number of corners: the server knows it before the page does."""
    wait_for(lambda: len(card.find_elements(By.CSS_SELECTOR, ".overlay .selected .corner")) == count)


def notice(card: WebElement) -> str:
    return card.find_element(By.CSS_SELECTOR, ".notice").text
