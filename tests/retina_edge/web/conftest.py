"""Fixtures: servers that the tests of this folder share, and clients of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import httpx
import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

from tests.retina_edge.web.browser import CHROMIUM, DESKTOP, DRIVER, PHONE
from tests.retina_edge.web.serving import TOKEN, Served, serving, serving_an_event


@pytest.fixture(scope="package")
def served() -> Iterator[Served]:
    """A server without a token, shared by the tests of this folder."""
    with serving_an_event() as server:
        yield server


@pytest.fixture(scope="package")
def guarded() -> Iterator[Served]:
    """A server that requires the token, shared by the tests of this folder."""
    with serving(TOKEN) as server:
        yield server


@pytest.fixture
def client(served: Served) -> Iterator[httpx.Client]:
    """A client of the server without a token."""
    with httpx.Client(base_url=served.url, timeout=10) as http:
        yield http


@pytest.fixture
def anonymous(guarded: Served) -> Iterator[httpx.Client]:
    """A client without the token that its server requires."""
    with httpx.Client(base_url=guarded.url, timeout=10) as http:
        yield http


@pytest.fixture(scope="package")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    """The browser that the tests share, because it takes seconds to start and to end."""
    options = Options()
    options.binary_location = CHROMIUM or ""
    folder = tmp_path_factory.mktemp("browser")
    window = f"--window-size={DESKTOP[0]},{DESKTOP[1]}"
    for argument in ("--headless=new", "--no-sandbox", f"--user-data-dir={folder}", window):
        options.add_argument(argument)
    browser = Chrome(options=options, service=Service(DRIVER))
    yield browser
    browser.quit()


@pytest.fixture
def open_browser(chrome: Chrome) -> Iterator[Callable[[tuple[int, int]], Chrome]]:
    """A function that returns the browser with a screen of a size, without cookies and earlier messages."""

    def open_with(size: tuple[int, int]) -> Chrome:
        chrome.execute_cdp_cmd("Network.clearBrowserCookies", {})
        chrome.get_log("browser")  # type: ignore[no-untyped-call]  # returns messages only once
        if size == PHONE:
            metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 2, "mobile": True}
            chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        return chrome

    yield open_with
    chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    chrome.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    chrome.get("about:blank")  # ends the connections to the server
