"""The page in a real browser: live streams, the slider, the login, and the layout on a phone."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from retina_edge.web import live_video
from tests.events import entered
from tests.retina_edge.web.browser import (
    DESKTOP,
    NEEDS_BROWSER,
    PHONE,
    SLOW_SERVER,
    assert_no_errors,
    frames_shown,
    opened,
    press,
)
from tests.retina_edge.web.serving import OUTPUTS, TOKEN, Served, serving, serving_an_event
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


def test_the_events_stay_in_place_when_new_ones_arrive(open_browser: Callable[[tuple[int, int]], Chrome]) -> None:
    browser = open_browser(DESKTOP)
    items = "[...document.querySelectorAll('#events li')]"
    with serving_an_event() as server:
        browser.get(server.url)
        until(lambda: browser.find_elements(By.CSS_SELECTOR, "#events li"))
        browser.execute_script(f"{items}[0].first = true")
        server.events.add(entered(2), np.full((48, 64, 3), 90, np.uint8))
        until(lambda: len(browser.find_elements(By.CSS_SELECTOR, "#events li")) == 2)
        assert browser.execute_script(f"return {items}.map((item) => Boolean(item.first))") == [False, True]
        # After a restart of the server, the number of an event is that of an earlier one.
        script = """
        const done = arguments[0];
        import("./events.js").then(({ EventList }) => {
          const list = new EventList(() => {}), event = { number: 0, kind: "left", stream: "north", region: "yard" };
          done(["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"].map((time, track) => {
            list.show([{ ...event, class: "patch", track, time }], "limit=20");
            return document.getElementById("events").innerText;
          }));
        });
        """
        first, second = browser.execute_async_script(script)
        assert "patch 0 left yard" in first
        assert "patch 1 left yard" in second
        assert "2026" in second  # the date of an event that is not of today
        assert_no_errors(browser)


def test_the_page_begins_again_when_the_server_has_other_streams(
    served: Served, open_browser: Callable[[tuple[int, int]], Chrome]
) -> None:
    browser = open_browser(DESKTOP)
    opened(browser, served.url)
    script = """
    window.before = true;
    const send = window.fetch;
    window.fetch = async (...request) => {
      const answer = await send(...request);
      return request[0] === "api/streams" ? Response.json((await answer.json()).reverse()) : answer;
    };
    """
    browser.execute_script(script)
    until(lambda: not browser.execute_script("return window.before"))
    until(lambda: browser.find_elements(By.CSS_SELECTOR, "[data-stream='north'] img[src]"))
    assert_no_errors(browser)


def test_pause_pressed_twice_goes_on_and_frames_free_their_memory(
    served: Served, open_browser: Callable[[tuple[int, int]], Chrome]
) -> None:
    browser = open_browser(DESKTOP)
    card = opened(browser, served.url)
    browser.execute_script(SLOW_SERVER)
    press(card, "pause")
    press(card, "pause")
    shown = int(card.get_attribute("data-frames") or 0)
    until(lambda: int(card.get_attribute("data-frames") or 0) > shown + 15)
    assert card.find_element(By.CSS_SELECTOR, "[data-act='pause']").get_attribute("aria-pressed") == "false"
    # Frames that arrive faster than they are loaded.
    script = """
    const done = arguments[0], { createObjectURL, revokeObjectURL } = URL, kept = new Set();
    import("./stream_card.js").then(({ StreamCard }) => {
      const card = new StreamCard("south", () => {});
      URL.createObjectURL = (blob) => { const address = createObjectURL(blob); kept.add(address); return address; };
      URL.revokeObjectURL = (address) => { kept.delete(address); revokeObjectURL(address); };
      for (let number = 0; number < 20; number += 1) card.showPicture(new Blob(["x"], { type: "image/jpeg" }));
      Object.assign(URL, { createObjectURL, revokeObjectURL });
      done(kept.size);
    });
    """
    assert browser.execute_async_script(script) <= 1


def test_the_minute_that_was_chosen_stays_chosen_as_time_goes_on(
    served: Served, open_browser: Callable[[tuple[int, int]], Chrome]
) -> None:
    browser = open_browser(DESKTOP)
    browser.get(served.url)
    script = """
    const done = arguments[0], send = window.fetch;
    const minute = (number) => ({ time: new Date(60000 * number).toISOString(), events: number, offline: 0 });
    let minutes = [minute(100), minute(101), minute(102)];
    window.fetch = async (path, ...options) => (
      path.endsWith("/timeline") ? Response.json(minutes) : send(path, ...options)
    );
    import("./timeline.js").then(async ({ Timeline }) => {
      const element = document.getElementById("stream").content.querySelector(".last-hour").cloneNode(true);
      const timeline = new Timeline(element, "north", () => {}), slider = element.querySelector("input");
      await timeline.refresh();
      slider.value = 58;
      slider.dispatchEvent(new Event("input"));
      const before = element.querySelector("output").textContent;
      minutes = [...minutes, minute(103)];
      await timeline.refresh();
      const after = element.querySelector("output").textContent, place = slider.value;
      minutes = [minute(400)];
      await timeline.refresh();
      done([before, after, place, element.querySelector("output").textContent]);
    });
    """
    before, after, place, later = browser.execute_async_script(script)
    assert before.endswith("events: 101")
    assert after == before
    assert place == "57"
    assert later == ""  # it is no longer of the last hour


def test_a_viewer_too_many_is_told_why_there_is_no_picture(
    monkeypatch: pytest.MonkeyPatch, open_browser: Callable[[tuple[int, int]], Chrome]
) -> None:
    monkeypatch.setattr(live_video, "MAX_VIEWERS", 0)
    with serving() as server:
        browser = open_browser(DESKTOP)
        browser.get(server.url)
        until(lambda: browser.find_element(By.ID, "state").text.startswith("too many viewers"))
