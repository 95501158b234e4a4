"""The tools of the page: pause, snapshots, full screen and the last hour of a stream. The page is accessible."""

from __future__ import annotations

import importlib.resources
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By

from retina_edge.tracking.analysis import TrackingOptions
from retina_edge.tracking.events import Event
from tests.retina_edge.web.browser import DESKTOP, NEEDS_BROWSER, PHONE, assert_no_errors, card_of, opened, press
from tests.retina_edge.web.drawing import SQUARE, draw
from tests.retina_edge.web.serving import TOKEN, Served, serving_an_event
from tests.waiting import wait_for

pytestmark = NEEDS_BROWSER
Open = Callable[[tuple[int, int]], Chrome]


@pytest.fixture(scope="module")
def drawable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server with regions that can be drawn, and with an event."""
    path = tmp_path_factory.mktemp("regions") / "regions.json"
    with serving_an_event(TrackingOptions(regions_file=path)) as server:
        yield server


def frames(card: Any) -> int:
    return int(card.get_attribute("data-frames"))


def set_hidden(browser: Chrome, *, hidden: bool) -> None:
    """Let the page see what it sees if its tab goes to the background, which a headless browser does not do."""
    browser.execute_script(
        "Object.defineProperty(document, 'hidden', { configurable: true, value: arguments[0] });"
        "document.dispatchEvent(new Event('visibilitychange'));",
        hidden,
    )


def test_a_hidden_page_gets_no_frames_and_goes_on_when_it_is_shown(drawable: Served, open_browser: Open) -> None:
    browser = open_browser(DESKTOP)
    card = opened(browser, drawable.url)
    wait_for(lambda: frames(card) > 5)
    set_hidden(browser, hidden=True)
    time.sleep(2.5)  # longer than the page waits before it connects again
    shown = frames(card)
    time.sleep(1)
    assert frames(card) == shown
    browser.execute_script(
        "const Real = window.WebSocket; window.opened = 0;"
        "window.WebSocket = class extends Real { constructor(address) { super(address); window.opened += 1; } };"
    )
    for hidden in (False, False, True, False):  # quickly
        set_hidden(browser, hidden=hidden)
    wait_for(lambda: frames(card) > shown + 5)
    time.sleep(1.5)  # longer than the page waits before it connects again
    assert browser.execute_script("return window.opened") == 2  # one was closed when the page was hidden
    assert_no_errors(browser)


def test_a_paused_picture_stays_and_others_go_on(drawable: Served, open_browser: Open) -> None:
    browser = open_browser(DESKTOP)
    card, other = opened(browser, drawable.url), card_of(browser, "south")
    press(card, "pause")
    wait_for(lambda: card.find_element(By.CSS_SELECTOR, ".paused").is_displayed())
    assert card.find_element(By.CSS_SELECTOR, "[data-act='pause']").get_attribute("aria-pressed") == "true"
    shown, others = frames(card), frames(other)
    source = card.find_element(By.TAG_NAME, "img").get_attribute("src")
    wait_for(lambda: frames(other) > others + 5)
    assert frames(card) == shown
    assert card.find_element(By.TAG_NAME, "img").get_attribute("src") == source
    press(card, "pause")
    wait_for(lambda: frames(card) > shown)
    assert not card.find_element(By.CSS_SELECTOR, ".paused").is_displayed()
    # A stream without a frame says why there is nothing to pause.
    gone = card_of(browser, "gone")
    press(gone, "pause")
    wait_for(lambda: gone.find_element(By.CSS_SELECTOR, ".notice").text == "No snapshot: no frame yet")
    messages = [entry["message"] for entry in browser.get_log("browser")]  # type: ignore[no-untyped-call]
    assert all("/snapshot" in message for message in messages)


def test_snapshots_are_saved_in_full_size_with_and_without_boxes(
    drawable: Served, open_browser: Open, tmp_path: Path
) -> None:
    browser = open_browser(DESKTOP)
    card = opened(browser, drawable.url)
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    press(card, "pause")  # both are then of the same frame
    wait_for(lambda: card.find_element(By.CSS_SELECTOR, ".paused").is_displayed())
    for kind in ("with-boxes", "without-boxes"):
        card.find_element(By.CSS_SELECTOR, ".menu summary").click()
        press(card, kind)
        count = 1 + (kind == "without-boxes")
        wait_for(lambda count=count: len(list(tmp_path.glob("north-*.jpg"))) == count)  # type: ignore[misc]
    with_boxes, without = (next(tmp_path.glob(f"north-*Z-{kind}.jpg")) for kind in ("annotated", "plain"))
    assert with_boxes.name.removesuffix("-annotated.jpg") == without.name.removesuffix("-plain.jpg")
    images = [cv2.imread(str(path)) for path in (with_boxes, without)]
    assert [image.shape for image in images] == [(120, 160, 3)] * 2  # type: ignore[union-attr]
    colored = [int((np.ptp(image, axis=2) > 60).sum()) for image in images if image is not None]
    assert colored[0] > 20  # the box; the frame itself is gray
    assert colored[1] == 0
    assert_no_errors(browser)


def test_one_stream_fills_the_screen(drawable: Served, open_browser: Open) -> None:
    browser = open_browser(DESKTOP)
    card = opened(browser, drawable.url)
    press(card, "full")
    wait_for(lambda: browser.execute_script("return document.fullscreenElement?.dataset.stream") == "north")
    box = browser.execute_script("const b = arguments[0].getBoundingClientRect(); return [b.width, b.height]", card)
    assert box == browser.execute_script("return [innerWidth, innerHeight]")
    before = frames(card)
    wait_for(lambda: frames(card) > before)
    press(card, "full")
    wait_for(lambda: browser.execute_script("return document.fullscreenElement") is None)
    # A phone without full screen for elements shows the card over the whole page.
    browser.execute_script("arguments[0].requestFullscreen = null", card)
    press(card, "full")
    wait_for(lambda: card.get_attribute("class") == "stream full")
    box = browser.execute_script("const b = arguments[0].getBoundingClientRect(); return [b.x, b.y, b.width]", card)
    assert box == [0, 0, browser.execute_script("return document.documentElement.clientWidth")]
    press(card, "full")
    assert_no_errors(browser)


def test_the_last_hour_leads_to_the_events_of_a_minute(drawable: Served, open_browser: Open) -> None:
    """Events of three minutes ago, and of now."""
    now = datetime.now(timezone.utc)
    then = now.replace(second=30, microsecond=0) - timedelta(minutes=3)
    north = next(stream for stream in drawable.pipeline.streams if stream.name == "north")
    first = north.changes[0]
    north.changes[0] = (first[0] - 600, first[1])  # as if it had tried to connect for ten minutes
    for moment, track in ((then, 31), (then, 32), (now, 33)):
        event = Event("left", "north", "yard", None, track, "other", 0.9, (10, 10, 60, 60), (120, 160), moment, {})
        drawable.events.add(event, np.full((120, 160, 3), 90, np.uint8))
    try:
        minutes = httpx.get(f"{drawable.url}/api/streams/north/timeline").json()
        assert {10, 11} & {len(minutes) - 1}
        assert minutes[-4]["events"] == 2
        assert minutes[-4]["offline"] == 60
        browser = open_browser(DESKTOP)
        card = opened(browser, drawable.url)
        slider = card.find_element(By.CSS_SELECTOR, ".last-hour input")
        # One more if another minute has begun since.
        wait_for(lambda: len(card.find_elements(By.CSS_SELECTOR, ".last-hour rect.running")) >= len(minutes))
        assert len(card.find_elements(By.CSS_SELECTOR, ".last-hour rect.offline")) >= 9
        assert len(card.find_elements(By.CSS_SELECTOR, ".last-hour rect.events")) >= 2
        slider.send_keys(Keys.ARROW_LEFT, Keys.ARROW_LEFT, Keys.ARROW_LEFT)
        if "events: 2" not in (slider.get_attribute("aria-valuetext") or ""):
            slider.send_keys(Keys.ARROW_LEFT)
        spoken = slider.get_attribute("aria-valuetext") or ""
        assert spoken.endswith("events: 2; without frames: 60 s"), spoken
        events = browser.find_element(By.ID, "events")
        wait_for(
            lambda: [text for text in events.text.splitlines() if "left yard" in text] != [] and "33" not in events.text
        )
        assert "other 31 left yard" in events.text
        assert "other 32 left yard" in events.text
        assert browser.find_element(By.ID, "filter-stream").get_attribute("value") == "north"
        browser.find_element(By.ID, "all-times").click()
        wait_for(lambda: "other 33 left yard" in events.text)
        assert not browser.find_element(By.ID, "all-times").is_displayed()
        assert_no_errors(browser)
    finally:
        north.changes[0] = first


AXE = importlib.resources.files("axe_core_python") / "axe.min.js"
# The rules of WCAG 2.2 AA and the best practices that axe knows.
RUN_AXE = """
const done = arguments[0];
axe.run(document, {resultTypes: ["violations"]}).then(({ violations }) => done(violations.map(({ id, nodes }) =>
  `${id}: ${nodes.map(({ html, failureSummary }) => html.slice(0, 120) + " " + failureSummary).join("; ")}`)));
"""


def check_accessibility(browser: Chrome) -> None:
    """Fail if axe-core finds a violation in what the page shows."""
    browser.execute_script(AXE.read_text())
    assert browser.execute_async_script(RUN_AXE) == []


def test_the_check_finds_violations(drawable: Served, open_browser: Open) -> None:
    browser = open_browser(DESKTOP)
    browser.get(f"{drawable.url}/api")
    browser.execute_script(
        "document.body.innerHTML = '<main><h1>a</h1><img src=icon.svg><p id=gray>some text</p></main>'"
    )
    browser.execute_script("gray.style.color = '#999'; gray.style.background = '#fff'")
    browser.execute_script(AXE.read_text())
    found = {text.partition(":")[0] for text in browser.execute_async_script(RUN_AXE)}
    assert {"image-alt", "color-contrast"} <= found


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_the_page_is_accessible(drawable: Served, open_browser: Open, size: tuple[int, int], scheme: str) -> None:
    browser = open_browser(size)
    scheme_feature = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme_feature)
    card = opened(browser, drawable.url)
    wait_for(lambda: browser.find_elements(By.CSS_SELECTOR, "#events li"))
    check_accessibility(browser)
    press(card, "edit")
    draw(browser, card, "zone", SQUARE[:3])
    check_accessibility(browser)
    press(card, "finish")
    wait_for(lambda: card.find_element(By.CSS_SELECTOR, "form.region").is_displayed())
    card.find_element(By.CSS_SELECTOR, ".menu summary").click()
    check_accessibility(browser)
    press(card, "delete")
    wait_for(lambda: not card.find_element(By.CSS_SELECTOR, "form.region").is_displayed())
    browser.execute_script(
        "document.getElementById('clip-title').textContent = 'a'; document.getElementById('clip').showModal()"
    )
    check_accessibility(browser)


def test_the_login_is_accessible(guarded: Served, open_browser: Open) -> None:
    browser = open_browser(PHONE)
    browser.get(f"{guarded.url}/login?wrong")
    wait_for(lambda: browser.title == "retina_edge: log in")
    check_accessibility(browser)
    assert TOKEN not in browser.page_source
