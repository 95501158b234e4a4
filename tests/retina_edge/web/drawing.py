"""The region editor of the page in a browser: open it, choose a tool, and look at what was drawn."""

from __future__ import annotations

from typing import Any

import httpx
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from tests.retina_edge.web.browser import card_of, press
from tests.retina_edge.web.serving import Served
from tests.waiting import wait_for

SQUARE = [(0.4, 0.3), (0.8, 0.3), (0.8, 0.8), (0.4, 0.8)]


def edited(browser: Chrome, url: str, stream: str = "north") -> WebElement:
    """Open the page and the editor of a stream; return its card."""
    browser.get(url)
    wait_for(lambda: browser.find_elements(By.CSS_SELECTOR, f"[data-stream='{stream}'] img[src]"))
    card = card_of(browser, stream)
    press(card, "edit")
    wait_for(lambda: card.find_element(By.CSS_SELECTOR, "[data-draw='zone']").is_enabled())
    return card


def choose_tool(card: WebElement, kind: str) -> None:
    card.find_element(By.CSS_SELECTOR, f"[data-draw='{kind}']").click()


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
