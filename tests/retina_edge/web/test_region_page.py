"""Zones, lines and masks drawn in a real browser: with the mouse, a finger and the keys, in two windows, saved."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select

from retina_edge.tracking.analysis import TrackingOptions
from retina_edge.tracking.zones import line
from tests.retina_edge.web.browser import DESKTOP, NEEDS_BROWSER, PHONE, assert_no_errors, card_of, opened, press
from tests.retina_edge.web.drawing import (
    SQUARE,
    UPRIGHT,
    choose_tool,
    draw,
    edited,
    focus,
    names,
    notice,
    press_keys,
    regions,
    wait_for_corners,
)
from tests.retina_edge.web.serving import Served, serving
from tests.waiting import wait_for

pytestmark = NEEDS_BROWSER
Open = Callable[[tuple[int, int]], Chrome]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "regions.json"


@pytest.fixture
def drawable(path: Path) -> Iterator[Served]:
    """A server with regions that can be drawn, and a line of the command line."""
    with serving(tracking=TrackingOptions(regions=[line("north:door=0.1,0.9 0.4,0.9")], regions_file=path)) as server:
        yield server


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_a_zone_is_drawn_changed_named_and_is_still_there_after_a_restart(
    drawable: Served, path: Path, open_browser: Open, size: tuple[int, int]
) -> None:
    browser = open_browser(size)
    card = edited(browser, drawable.url)
    assert names(card) == ["door (line, from the command line)"]
    touch = draw(browser, card, "zone", [*SQUARE, SQUARE[0]], "touch" if size == PHONE else "mouse")
    wait_for_corners(card, 4)
    (zone,) = regions(drawable)
    assert (zone["kind"], zone["name"], zone["classes"]) == ("zone", "zone 1", [])
    assert [value for point in zone["points"] for value in point] == pytest.approx(
        [value for point in SQUARE for value in point], abs=0.01
    )
    # Drag a corner, then the middle of a side, which adds a corner, then the whole zone.
    touch((0.8, 0.8), (0.85, 0.8), (0.9, 0.9))
    wait_for(lambda: regions(drawable)[0]["points"][2] == pytest.approx([0.9, 0.9], abs=0.01))
    touch((0.6, 0.3), (0.6, 0.25), (0.6, 0.2))
    wait_for_corners(card, 5)
    wait_for(lambda: len(regions(drawable)[0]["points"]) == 5)
    assert regions(drawable)[0]["points"][1] == pytest.approx([0.6, 0.2], abs=0.01)
    touch((0.6, 0.5), (0.57, 0.5), (0.55, 0.5))
    wait_for(lambda: regions(drawable)[0]["points"][1] == pytest.approx([0.55, 0.2], abs=0.015))
    # Name it, choose a class, and say how long an object must stay.
    field = card.find_element(By.NAME, "name")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", field)
    field.clear()
    field.send_keys("gate", Keys.ENTER)
    wait_for(lambda: regions(drawable)[0]["name"] == "gate")
    card.find_element(By.CSS_SELECTOR, ".classes input[value='patch']").click()
    wait_for(lambda: regions(drawable)[0]["classes"] == ["patch"])
    card.find_element(By.NAME, "dwell").send_keys("2.5", Keys.TAB)
    wait_for(lambda: regions(drawable)[0]["dwell"] == 2.5)
    assert names(card) == ["door (line, from the command line)", "gate (zone)"]
    saved = json.loads(path.read_text())["streams"]["north"]
    assert (saved["width"], saved["height"]) == (160, 120)
    assert saved["regions"][0]["name"] == "gate"
    width, inner = browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert width <= inner
    browser.refresh()
    wait_for(lambda: "gate" in browser.find_element(By.ID, "streams").text)  # its counts
    assert_no_errors(browser)
    with serving(tracking=TrackingOptions(regions_file=path)) as again:
        card = edited(browser, again.url)
        wait_for(lambda: names(card) == ["gate (zone)"])


def test_a_line_counts_toward_its_arrow_and_can_be_reversed(drawable: Served, open_browser: Open) -> None:
    """The patch moves from left to right through x = 0.25, and jumps back."""
    browser = open_browser(DESKTOP)
    card = edited(browser, drawable.url)
    draw(browser, card, "line", UPRIGHT)
    wait_for_corners(card, 2)

    def counts() -> dict[str, int]:
        status = httpx.get(f"{drawable.url}/api/streams/north").json()
        return next(region["counts"] for region in status["regions"] if region["name"] == "line 1")

    wait_for(lambda: counts()["in"] >= 1)
    assert counts()["out"] == 0
    wait_for(lambda: "line 1: 1 in" in card.text or "line 1: 2 in" in card.text)
    before = counts()
    press(card, "reverse")
    wait_for(lambda: regions(drawable)[0]["points"][0][1] < 0.1)
    wait_for(lambda: counts()["out"] >= 1)
    assert counts()["in"] - before["in"] <= 1  # one may have crossed before
    # The events are on the page, and can be filtered.
    wait_for(lambda: "crossed line 1, out" in browser.find_element(By.ID, "events").text)
    Select(browser.find_element(By.ID, "filter-stream")).select_by_value("south")
    wait_for(lambda: browser.find_element(By.ID, "no-events").text == "no such events")
    Select(browser.find_element(By.ID, "filter-stream")).select_by_value("north")
    Select(browser.find_element(By.ID, "filter-region")).select_by_value("line 1")
    Select(browser.find_element(By.ID, "filter-class")).select_by_value("patch")
    wait_for(lambda: "crossed line 1, in" in browser.find_element(By.ID, "events").text)
    assert_no_errors(browser)


def test_everything_can_be_done_with_the_keys(drawable: Served, open_browser: Open) -> None:
    browser = open_browser(DESKTOP)
    card = edited(browser, drawable.url)

    keys = partial(press_keys, browser)
    choose_tool(card, "zone")  # the focus goes to the picture, and the point of the keys to its middle
    keys(" ")
    assert notice(card) == "corner 1 at 50 %, 50 %"
    for arrow in (Keys.ARROW_RIGHT, Keys.ARROW_DOWN):
        keys(Keys.SHIFT, *[arrow] * 4)
        keys(Keys.NULL, " ")
    keys(Keys.ENTER)
    wait_for_corners(card, 3)
    assert regions(drawable)[0]["points"] == [[0.5, 0.5], [0.7, 0.5], [0.7, 0.7]]
    # The name has the focus. A label says which corner has it, and where the corner is.
    wait_for(lambda: browser.switch_to.active_element.get_attribute("name") == "name")
    script = "return arguments[0].querySelector('.overlay [data-corner=\"1\"]').ariaLabel"
    assert browser.execute_script(script, card) == "zone 1: corner 2 of 3, 70 % from the left, 50 % from the top"
    focus(card, ".overlay [data-corner='1']")
    keys(Keys.ARROW_UP, Keys.ARROW_UP)
    wait_for(lambda: regions(drawable)[0]["points"][1] == [0.7, 0.49])
    focus(card, "[data-middle='2']")
    keys(Keys.ENTER)
    wait_for_corners(card, 4)
    assert regions(drawable)[0]["points"][3] == [0.6, 0.6]
    focus(card, "[data-corner='3']")
    keys(Keys.DELETE)
    wait_for_corners(card, 3)
    focus(card, ".overlay .zone [data-id]")
    keys(Keys.SHIFT, *[Keys.ARROW_LEFT] * 20)  # as far as the border
    keys(Keys.NULL)
    wait_for(lambda: regions(drawable)[0]["points"] == [[0.0, 0.5], [0.2, 0.49], [0.2, 0.7]])
    focus(card, ".overlay .zone [data-key^='shape']")
    keys(Keys.DELETE)
    wait_for(lambda: regions(drawable) == [])
    keys(Keys.CONTROL, "z")
    keys(Keys.NULL)
    wait_for(lambda: [region["points"][0] for region in regions(drawable)] == [[0.0, 0.5]])
    keys(Keys.CONTROL, "y")
    keys(Keys.NULL)
    wait_for(lambda: regions(drawable) == [])
    choose_tool(card, "line")
    keys(" ", Keys.ARROW_RIGHT, Keys.BACKSPACE)
    keys(Keys.ESCAPE)
    assert card.find_element(By.CSS_SELECTOR, "[data-draw='line']").get_attribute("aria-pressed") == "false"
    assert regions(drawable) == []
    assert_no_errors(browser)


def test_changes_are_undone_and_the_counts_of_the_others_stay(drawable: Served, open_browser: Open) -> None:
    browser = open_browser(DESKTOP)
    card = edited(browser, drawable.url)
    draw(browser, card, "line", UPRIGHT)

    def crossings() -> int:
        status = httpx.get(f"{drawable.url}/api/streams/north").json()["regions"]
        return next((sum(region["counts"].values()) for region in status if region["name"] == "line 1"), 0)

    wait_for(lambda: crossings() >= 1)
    before = crossings()
    draw(browser, card, "mask", [(0.6, 0.6), (0.9, 0.6), (0.9, 0.9), (0.6, 0.6)])
    wait_for_corners(card, 3)
    press(card, "delete")
    wait_for(lambda: len(regions(drawable)) == 1)
    press(card, "undo")
    wait_for(lambda: [region["name"] for region in regions(drawable)] == ["line 1", "mask 1"])
    press(card, "undo")
    wait_for(lambda: len(regions(drawable)) == 1)
    press(card, "redo")
    wait_for(lambda: len(regions(drawable)) == 2)
    assert crossings() >= before
    assert notice(card) == "mask 1: done again"
    assert "hatch" in card.find_element(By.CSS_SELECTOR, ".overlay .mask .shape").value_of_css_property("fill")
    assert_no_errors(browser)


def test_objects_in_a_mask_are_ignored(drawable: Served, open_browser: Open) -> None:
    browser = open_browser(DESKTOP)
    card = edited(browser, drawable.url)
    wait_for(lambda: "1 patch" in card.text)
    draw(browser, card, "mask", [(0.01, 0.01), (0.99, 0.01), (0.99, 0.5), (0.01, 0.5), (0.01, 0.01)])
    wait_for(lambda: "1 patch" not in card.text)
    press(card, "delete")
    wait_for(lambda: "1 patch" in card.text)
    assert_no_errors(browser)


def test_two_windows_show_the_same_regions_and_the_later_change_wins(drawable: Served, open_browser: Open) -> None:
    browser = open_browser(DESKTOP)
    edited(browser, drawable.url)
    first = browser.current_window_handle
    browser.switch_to.new_window("window")
    try:
        second = browser.current_window_handle
        card = edited(browser, drawable.url)
        draw(browser, card, "zone", [*SQUARE, SQUARE[0]])
        wait_for(lambda: len(regions(drawable)) == 1)
        browser.switch_to.window(first)
        card = card_of(browser, "north")
        wait_for(lambda: "zone 1 (zone)" in names(card))
        assert notice(card) == "changed in another window"
        # The first window renames the zone, while the second one has it open.
        card.find_element(By.XPATH, ".//button[.='zone 1 (zone)']").click()
        field = card.find_element(By.NAME, "name")
        field.clear()
        field.send_keys("yard", Keys.ENTER)
        wait_for(lambda: regions(drawable)[0]["name"] == "yard")
        browser.switch_to.window(second)
        card = card_of(browser, "north")
        wait_for(lambda: "yard (zone)" in names(card))
        assert card.find_element(By.NAME, "name").get_attribute("value") == "yard"
        press(card, "delete")
        wait_for(lambda: regions(drawable) == [])
        browser.switch_to.window(first)
        card = card_of(browser, "north")
        wait_for(lambda: "yard (zone)" not in names(card))
        assert not card.find_element(By.CSS_SELECTOR, "form.region").is_displayed()
        assert_no_errors(browser)
    finally:
        for window in browser.window_handles:
            browser.switch_to.window(window)
            if window != first:
                browser.close()
        browser.switch_to.window(first)


def test_a_refused_drawing_stays_to_be_corrected(drawable: Served, open_browser: Open) -> None:
    browser = open_browser(DESKTOP)
    card = edited(browser, drawable.url)
    draw(browser, card, "zone", [(0.2, 0.3), (0.8, 0.8), (0.8, 0.3), (0.2, 0.8)])  # crosses itself
    press(card, "finish")
    wait_for(lambda: "does not cross itself" in notice(card))
    assert regions(drawable) == []
    assert len(card.find_elements(By.CSS_SELECTOR, ".overlay .corner")) == 4
    press(card, "remove-corner")
    press(card, "finish")
    wait_for_corners(card, 3)
    # A name that is used already is refused, and the field shows the name that is still true.
    field = card.find_element(By.NAME, "name")
    field.clear()
    field.send_keys("door", Keys.TAB)
    wait_for(lambda: "got door twice" in notice(card) or "door" in notice(card))
    wait_for(lambda: field.get_attribute("value") == "zone 1")
    # The line of the command line can be looked at, but not changed.
    card.find_element(By.XPATH, ".//button[starts-with(., 'door')]").click()
    assert "cannot be changed here" in card.find_element(By.CSS_SELECTOR, ".hint").text
    assert not card.find_element(By.CSS_SELECTOR, "form.region").is_displayed()
    assert card.find_elements(By.CSS_SELECTOR, ".overlay .fixed circle") == []


def test_without_a_file_the_page_says_how_to_draw(served: Served, open_browser: Open) -> None:
    browser = open_browser(DESKTOP)
    card = opened(browser, served.url)
    press(card, "edit")
    wait_for(lambda: "start serve with --regions FILE" in card.find_element(By.CSS_SELECTOR, ".hint").text)
    assert not card.find_element(By.CSS_SELECTOR, "[data-draw='zone']").is_enabled()
    assert card.find_element(By.CSS_SELECTOR, ".no-regions").text == "There are no zones, lines or masks yet."
