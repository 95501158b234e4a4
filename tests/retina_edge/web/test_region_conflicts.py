"""Zones drawn in a real browser while other things happen: a slow server, another window, a second finger."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By

from retina_edge.tracking.analysis import TrackingOptions
from tests.retina_edge.web.browser import DESKTOP, NEEDS_BROWSER, SLOW_SERVER, assert_no_errors, pointer, press
from tests.retina_edge.web.drawing import (
    SQUARE,
    choose_tool,
    draw,
    edited,
    focus,
    notice,
    press_keys,
    regions,
    wait_for_corners,
)
from tests.retina_edge.web.serving import Served, serving
from tests.waiting import wait_for

pytestmark = NEEDS_BROWSER
Open = Callable[[tuple[int, int]], Chrome]
ZONE = {"kind": "zone", "name": "yard", "points": SQUARE}


@pytest.fixture
def drawable(tmp_path: Path) -> Iterator[Served]:
    """A server with a zone that can be changed."""
    with serving(tracking=TrackingOptions(regions_file=tmp_path / "regions.json")) as server:
        httpx.post(f"{server.url}/api/streams/north/regions", json=ZONE).raise_for_status()
        yield server


def test_a_click_beside_a_region_and_escape_select_nothing(drawable: Served, open_browser: Open) -> None:
    browser = open_browser(DESKTOP)
    card = edited(browser, drawable.url)
    click = pointer(browser, card)
    form = card.find_element(By.CSS_SELECTOR, "form.region")
    click((0.6, 0.5))
    wait_for(form.is_displayed)
    click((0.1, 0.1))
    assert not form.is_displayed()
    click((0.6, 0.5))
    press_keys(browser, Keys.ESCAPE)
    assert not form.is_displayed()
    # Alt+Left goes back to the page before; it moves nothing.
    click((0.6, 0.5))
    script = """
    const key = { key: "ArrowLeft", altKey: true, bubbles: true, cancelable: true };
    return arguments[0].dispatchEvent(new KeyboardEvent("keydown", key));
    """
    assert browser.execute_script(script, browser.switch_to.active_element)
    assert_no_errors(browser)


def test_changes_that_follow_quickly_are_all_saved(drawable: Served, open_browser: Open) -> None:
    browser = open_browser(DESKTOP)
    card = edited(browser, drawable.url)
    click = pointer(browser, card)
    click((0.6, 0.5))
    browser.execute_script(SLOW_SERVER)
    field = card.find_element(By.NAME, "name")
    field.clear()
    field.send_keys("gate", Keys.TAB)
    card.find_element(By.CSS_SELECTOR, ".classes input[value='patch']").click()
    click = pointer(browser, card)  # the picture is in view again
    # The second drag begins where the first one has put the corner, although the server has not answered yet.
    click((0.8, 0.8), (0.85, 0.8), (0.9, 0.9))
    click((0.9, 0.9), (0.9, 0.95), (0.95, 0.95))
    wait_for(lambda: regions(drawable)[0]["points"][2] == pytest.approx([0.95, 0.95], abs=0.01))
    (zone,) = regions(drawable)
    assert (zone["name"], zone["classes"]) == ("gate", ["patch"])
    # Each change is one step of undo, and takes back nothing else.
    for _ in range(2):
        press(card, "undo")
    wait_for(lambda: regions(drawable)[0]["points"][2] == pytest.approx([0.8, 0.8], abs=0.01))
    assert regions(drawable)[0]["classes"] == ["patch"]
    # A corner that is deleted right after a move stays deleted.
    focus(card, ".overlay [data-corner='3']")
    press_keys(browser, Keys.ARROW_LEFT)
    press_keys(browser, Keys.DELETE)
    wait_for(lambda: len(regions(drawable)[0]["points"]) == 3)
    wait_for(lambda: notice(card) == "gate: saved")
    assert len(card.find_elements(By.CSS_SELECTOR, ".overlay .selected .corner")) == 3
    assert_no_errors(browser)


def test_a_name_that_is_being_typed_is_saved_by_a_click_on_the_picture(drawable: Served, open_browser: Open) -> None:
    browser = open_browser(DESKTOP)
    card = edited(browser, drawable.url)
    click = pointer(browser, card)
    click((0.6, 0.5))
    field = card.find_element(By.NAME, "name")
    field.clear()
    field.send_keys("gate")
    pointer(browser, card)((0.1, 0.1))
    wait_for(lambda: regions(drawable)[0]["name"] == "gate")
    # A click on another region in the list saves the name too, and chooses the other region.
    other = {"kind": "zone", "name": "door", "points": [(0.1, 0.1), (0.2, 0.1), (0.2, 0.2)]}
    httpx.post(f"{drawable.url}/api/streams/north/regions", json=other).raise_for_status()
    wait_for(lambda: card.find_elements(By.XPATH, ".//button[.='door (zone)']"))
    card.find_element(By.XPATH, ".//button[.='gate (zone)']").click()
    field.send_keys(" 2")
    card.find_element(By.XPATH, ".//button[.='door (zone)']").click()
    wait_for(lambda: [region["name"] for region in regions(drawable)] == ["gate 2", "door"])
    assert field.get_attribute("value") == "door"
    assert_no_errors(browser)


def test_undo_leaves_what_another_window_has_changed(drawable: Served, open_browser: Open) -> None:
    browser = open_browser(DESKTOP)
    card = edited(browser, drawable.url)
    click = pointer(browser, card)
    click((0.6, 0.5))
    click((0.8, 0.8), (0.85, 0.8), (0.9, 0.9))
    wait_for(lambda: regions(drawable)[0]["points"][2] == pytest.approx([0.9, 0.9], abs=0.01))
    (zone,) = regions(drawable)
    address = f"{drawable.url}/api/streams/north/regions/{zone['id']}"
    httpx.put(address, json={**ZONE, "points": zone["points"], "name": "gate"}).raise_for_status()
    wait_for(lambda: notice(card) == "changed in another window")
    # The undo that the network loses can be tried again.
    script = """
    const send = window.fetch;
    window.fetch = (path, options) => {
      if (options.method === undefined) return send(path, options);
      window.fetch = send;
      return Promise.reject(new TypeError());
    };
    """
    browser.execute_script(script)
    press(card, "undo")
    wait_for(lambda: notice(card) == "the server does not answer")
    press(card, "undo")
    wait_for(lambda: regions(drawable)[0]["points"][2] == pytest.approx([0.8, 0.8], abs=0.01))
    assert regions(drawable)[0]["name"] == "gate"
    # An undo that is no longer possible does not stand in the way of earlier ones.
    press(card, "redo")
    wait_for(lambda: notice(card) == "yard: done again")
    httpx.delete(address).raise_for_status()
    wait_for(lambda: notice(card) == "changed in another window")
    press(card, "undo")  # draws the zone again
    wait_for(lambda: len(regions(drawable)) == 1)
    assert_no_errors(browser)


def test_a_second_finger_moves_nothing(drawable: Served, open_browser: Open) -> None:
    browser = open_browser(DESKTOP)
    card = edited(browser, drawable.url)
    pointer(browser, card)((0.6, 0.5))
    drawing = card.find_element(By.CSS_SELECTOR, ".overlay")
    script = """
    const [svg] = arguments, { a, e, f } = svg.getScreenCTM(), { width, height } = svg.viewBox.baseVal;
    svg.setPointerCapture = () => {};
    for (const [kind, isPrimary, x, y] of [["down", true, .8, .8], ["move", true, .85, .85], ["down", false, .1, .1],
      ["move", false, .1, .1], ["up", false, .1, .1], ["move", true, .9, .9], ["up", true, .9, .9]]) {
      const place = { clientX: e + a * width * x, clientY: f + a * height * y };
      const values = { ...place, isPrimary, pointerType: "touch", bubbles: true };
      svg.dispatchEvent(new PointerEvent(`pointer${kind}`, values));
    }
    """
    browser.execute_script(script, drawing)
    wait_for(lambda: regions(drawable)[0]["points"][2] == pytest.approx([0.9, 0.9], abs=0.01))
    # A finger has no Delete key, but a button.
    press(card, "remove-corner")
    wait_for_corners(card, 3)
    wait_for(lambda: len(regions(drawable)[0]["points"]) == 3)
    assert not card.find_element(By.CSS_SELECTOR, "[data-act='remove-corner']").is_displayed()
    assert_no_errors(browser)


def test_a_paused_picture_does_not_show_a_zone_where_it_was(drawable: Served, open_browser: Open) -> None:
    browser = open_browser(DESKTOP)
    card = edited(browser, drawable.url)
    script = """
    const [image] = arguments, canvas = document.createElement("canvas");
    if (!image.complete || !image.naturalWidth) return false;
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    const context = canvas.getContext("2d");
    context.drawImage(image, 0, 0);
    const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
    return data.some((red, index) => index % 4 === 0 && Math.abs(red - data[index + 2]) > 60);
    """
    picture = card.find_element(By.TAG_NAME, "img")
    press(card, "pause")
    wait_for(lambda: card.find_element(By.CSS_SELECTOR, ".paused").is_displayed())
    wait_for(lambda: not browser.execute_script(script, picture))
    press(card, "done")
    wait_for(lambda: browser.execute_script(script, picture))  # the frame with its boxes and the zone
    press(card, "edit")
    wait_for(lambda: not browser.execute_script(script, picture))
    assert_no_errors(browser)


def test_done_saves_a_drawing_with_enough_corners(drawable: Served, open_browser: Open) -> None:
    browser = open_browser(DESKTOP)
    card = edited(browser, drawable.url)
    draw(browser, card, "mask", [(0.05, 0.05), (0.3, 0.05), (0.3, 0.3)])
    press(card, "done")
    wait_for(lambda: [region["name"] for region in regions(drawable)] == ["yard", "mask 1"])
    wait_for(lambda: browser.switch_to.active_element.get_attribute("data-act") == "edit")
    press(card, "edit")
    choose_tool(card, "line")
    press(card, "cancel")  # the button vanishes, and passes the focus on
    assert browser.switch_to.active_element.get_attribute("data-draw") == "zone"
    assert_no_errors(browser)
