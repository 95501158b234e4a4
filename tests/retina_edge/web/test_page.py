"""The page in a real browser: streams move, the slider acts, the token is asked for, a phone scrolls one way only."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.retina_edge.web.conftest import OUTPUTS, TOKEN, Served
from tests.waiting import wait_for

CHROMIUM, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None,
    reason="needs a browser: apt-get install chromium chromium-driver",
)
DESKTOP, PHONE = (1280, 900), (390, 844)


@pytest.fixture
def open_browser(tmp_path: Path) -> Iterator[Callable[[tuple[int, int]], Chrome]]:
    opened: list[Chrome] = []

    def open_one(size: tuple[int, int]) -> Chrome:
        options = Options()
        options.binary_location = CHROMIUM or ""
        for argument in ("--headless=new", "--no-sandbox", f"--window-size={size[0]},{size[1]}"):
            options.add_argument(argument)
        if size == PHONE:
            metrics = {"width": size[0], "height": size[1], "pixelRatio": 2, "mobile": True}
            options.add_experimental_option("mobileEmulation", {"deviceMetrics": metrics})
        options.add_argument(f"--user-data-dir={tmp_path / str(len(opened))}")
        opened.append(Chrome(options=options, service=Service(DRIVER)))
        return opened[-1]

    yield open_one
    for browser in opened:
        browser.quit()


def until(condition: Callable[[], object], seconds: float = 15.0) -> None:
    wait_for(condition, seconds)


def pictures(browser: Chrome, stream: str) -> int:
    """How many the page has shown of a stream."""
    script = "return Number(document.querySelector(`[data-stream='${arguments[0]}']`)?.dataset.pictures ?? 0)"
    return int(browser.execute_script(script, stream))


def keep(browser: Chrome, name: str) -> None:
    """A screenshot, where somebody wants to look at it."""
    if folder := os.environ.get("RETINA_EDGE_SCREENSHOTS"):
        browser.save_screenshot(str(Path(folder) / f"{name}.png"))


def no_errors(browser: Chrome) -> None:
    entries = browser.get_log("browser")  # type: ignore[no-untyped-call]
    assert [entry for entry in entries if entry["level"] == "SEVERE"] == []


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_streams_move_and_fit(
    served: Served, open_browser: Callable[[tuple[int, int]], Chrome], size: tuple[int, int]
) -> None:
    browser = open_browser(size)
    browser.get(served.url)
    until(lambda: pictures(browser, "north") >= 3 and pictures(browser, "south") >= 3)
    shown = browser.find_element(By.CSS_SELECTOR, "[data-stream='north'] img")
    size_of = "return [arguments[0].naturalWidth, arguments[0].naturalHeight]"
    until(lambda: browser.execute_script(size_of, shown) == [160, 120])  # between two pictures there is none
    assert pictures(browser, "gone") == 0
    gone = browser.find_element(By.CSS_SELECTOR, "[data-stream='gone']")
    assert "offline" in gone.text
    assert "no route to host" in gone.text
    north = browser.find_element(By.CSS_SELECTOR, "[data-stream='north']").text
    assert "online" in north
    assert "1 patch" in north
    assert " ms" in north
    assert "2 of 3 streams online" in browser.find_element(By.ID, "state").text
    until(lambda: "336 lost" in browser.find_element(By.ID, "outputs").text)
    # At once: the list is made anew at each refresh.
    items = "[...document.querySelectorAll('#outputs li')].map((item) => [item.dataset.output, item.innerText])"
    told = dict(browser.execute_script(f"return {items}"))
    outputs = {name: text.replace("\n\n", "\n") for name, text in told.items()}
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
    script = "showOutputs([]); return getComputedStyle(document.getElementById('outputs-section')).display"
    assert browser.execute_script(script) == "none"
    until(lambda: browser.find_element(By.ID, "outputs").is_displayed())  # at the next refresh
    browser.execute_script("scrollTo(0, 0)")
    keep(browser, f"page-{size[0]}")
    browser.execute_script("document.getElementById('outputs-section').scrollIntoView({block: 'center'})")
    keep(browser, f"outputs-{size[0]}")
    if browser.execute_script("return matchMedia('(prefers-color-scheme: light)').matches"):
        dark = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", dark)
        keep(browser, f"outputs-dark-{size[0]}")
    no_errors(browser)


def test_the_slider_acts_at_once(served: Served, open_browser: Callable[[tuple[int, int]], Chrome]) -> None:
    browser = open_browser(DESKTOP)
    browser.get(served.url)
    until(lambda: pictures(browser, "north") >= 1)  # before, the page has no streams to look for
    until(lambda: "1 patch" in browser.find_element(By.CSS_SELECTOR, "[data-stream='north']").text)
    slider = browser.find_element(By.ID, "score")
    until(lambda: slider.get_attribute("value") == "0.4")
    try:
        slider.send_keys(Keys.END)  # above the score of everything
        until(lambda: served.pipeline.score == 0.95, 3)
        until(lambda: "patch" not in browser.find_element(By.CSS_SELECTOR, "[data-stream='north']").text)
        assert browser.find_element(By.ID, "score-value").text == "0.95"
        slider.send_keys(Keys.HOME)
        until(lambda: served.pipeline.score == 0.05, 3)
        until(lambda: "1 patch" in browser.find_element(By.CSS_SELECTOR, "[data-stream='north']").text)
    finally:
        served.pipeline.set_score(0.4)
    no_errors(browser)


def test_the_token_is_asked_for(guarded: Served, open_browser: Callable[[tuple[int, int]], Chrome]) -> None:
    browser = open_browser(PHONE)
    browser.get(guarded.url)
    assert browser.current_url.endswith("/login")
    assert not browser.find_element(By.ID, "wrong").is_displayed()
    keep(browser, "login")
    browser.find_element(By.NAME, "token").send_keys("a guess", Keys.ENTER)
    until(lambda: browser.current_url.endswith("/login?wrong"))
    assert browser.find_element(By.ID, "wrong").is_displayed()
    browser.find_element(By.NAME, "token").send_keys(TOKEN, Keys.ENTER)
    until(lambda: browser.current_url.endswith("/"))
    until(lambda: pictures(browser, "north") >= 2)
    assert TOKEN not in browser.page_source
    no_errors(browser)
