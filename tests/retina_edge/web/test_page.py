"""The page in a real browser: live streams, the slider, the login, and the layout on a phone."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.retina_edge.web.browser import DESKTOP, NEEDS_BROWSER, PHONE, assert_no_errors, frames_shown
from tests.retina_edge.web.serving import OUTPUTS, TOKEN, Served
from tests.waiting import wait_for

pytestmark = NEEDS_BROWSER


def until(condition: Callable[[], object], seconds: float = 15.0) -> None:
    """Wait until a condition is true; fail after some seconds."""
    wait_for(condition, seconds)


def save_screenshot(browser: Chrome, name: str) -> None:
    """Save a screenshot in the folder of the environment variable RETINA_EDGE_SCREENSHOTS, if it is set."""
    if folder := os.environ.get("RETINA_EDGE_SCREENSHOTS"):
        browser.save_screenshot(str(Path(folder) / f"{name}.png"))


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_streams_are_live_and_fit_the_window(
    served: Served, open_browser: Callable[[tuple[int, int]], Chrome], size: tuple[int, int]
) -> None:
    browser = open_browser(size)
    browser.get(served.url)
    until(lambda: frames_shown(browser, "north") >= 3 and frames_shown(browser, "south") >= 3)
    shown = browser.find_element(By.CSS_SELECTOR, "[data-stream='north'] img")
    size_of = "return [arguments[0].naturalWidth, arguments[0].naturalHeight]"
    until(lambda: browser.execute_script(size_of, shown) == [160, 120])  # while a frame is replaced, the size is 0
    assert frames_shown(browser, "gone") == 0
    gone = browser.find_element(By.CSS_SELECTOR, "[data-stream='gone']")
    assert "offline" in gone.text
    assert "no route to host" in gone.text
    north = browser.find_element(By.CSS_SELECTOR, "[data-stream='north']").text
    assert "online" in north
    assert "1 patch" in north
    assert " ms" in north
    assert "2 of 3 streams online" in browser.find_element(By.ID, "state").text
    until(lambda: "336 lost" in browser.find_element(By.ID, "outputs").text)
    # Read all texts with one script, because the page rebuilds the list at each refresh.
    items = "[...document.querySelectorAll('#outputs li')].map((item) => [item.dataset.output, item.innerText])"
    texts = dict(browser.execute_script(f"return {items}"))
    outputs = {name: text.replace("\n\n", "\n") for name, text in texts.items()}
    assert list(outputs) == [status.name for status in OUTPUTS]
    assert outputs["out.jsonl"].split("\n") == ["out.jsonl", "ok", "1204 written · 3 waiting"]
    assert "failed\n871 written · 336 lost\n[Errno 28] No space left" in outputs["/data/night/out.csv"]
    assert "waiting\n4 delivered · 27 waiting\nthe broker cannot be reached" in outputs[OUTPUTS[2].name]
    until(lambda: "patch 7 entered gate" in browser.find_element(By.ID, "events").text)
    thumbnail = browser.find_element(By.CSS_SELECTOR, "#events img")
    browser.execute_script("arguments[0].scrollIntoView()", thumbnail)
    until(lambda: bool(browser.execute_script("return arguments[0].naturalWidth > 0", thumbnail)))
    width, inner = browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert width <= inner
    script = (
        "const done = arguments[0]; import('./outputs.js').then(({ showOutputs }) => { showOutputs([]);"
        "done(getComputedStyle(document.getElementById('outputs-section')).display); })"
    )
    assert browser.execute_async_script(script) == "none"
    until(lambda: browser.find_element(By.ID, "outputs").is_displayed())  # at the next refresh
    browser.execute_script("scrollTo(0, 0)")
    save_screenshot(browser, f"page-{size[0]}")
    browser.execute_script("document.getElementById('outputs-section').scrollIntoView({block: 'center'})")
    save_screenshot(browser, f"outputs-{size[0]}")
    if browser.execute_script("return matchMedia('(prefers-color-scheme: light)').matches"):
        dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
        save_screenshot(browser, f"outputs-dark-{size[0]}")
    assert_no_errors(browser)


def test_the_slider_changes_the_score_at_once(
    served: Served, open_browser: Callable[[tuple[int, int]], Chrome]
) -> None:
    browser = open_browser(DESKTOP)
    browser.get(served.url)
    until(lambda: frames_shown(browser, "north") >= 1)  # before that, the page has no element for the stream
    until(lambda: "1 patch" in browser.find_element(By.CSS_SELECTOR, "[data-stream='north']").text)
    slider = browser.find_element(By.ID, "score")
    until(lambda: slider.get_attribute("value") == "0.4")
    try:
        slider.send_keys(Keys.END)  # above all scores
        until(lambda: served.pipeline.score == 0.95, 3)
        until(lambda: "patch" not in browser.find_element(By.CSS_SELECTOR, "[data-stream='north']").text)
        assert browser.find_element(By.ID, "score-value").text == "0.95"
        slider.send_keys(Keys.HOME)
        until(lambda: served.pipeline.score == 0.05, 3)
        until(lambda: "1 patch" in browser.find_element(By.CSS_SELECTOR, "[data-stream='north']").text)
    finally:
        served.pipeline.set_score(0.4)
    assert_no_errors(browser)


def test_the_page_asks_for_the_token(guarded: Served, open_browser: Callable[[tuple[int, int]], Chrome]) -> None:
    browser = open_browser(PHONE)
    browser.get(guarded.url)
    assert browser.current_url.endswith("/login")
    assert not browser.find_element(By.ID, "wrong").is_displayed()
    save_screenshot(browser, "login")
    browser.find_element(By.NAME, "token").send_keys("a guess", Keys.ENTER)
    until(lambda: browser.current_url.endswith("/login?wrong"))
    assert browser.find_element(By.ID, "wrong").is_displayed()
    browser.find_element(By.NAME, "token").send_keys(TOKEN, Keys.ENTER)
    until(lambda: browser.current_url.endswith("/"))
    until(lambda: frames_shown(browser, "north") >= 2)
    assert TOKEN not in browser.page_source
    assert_no_errors(browser)
