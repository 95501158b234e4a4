"""The page under a path of a real nginx, with the lines of the documentation: pages, login, WebSocket and API."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Origin

from tests.import_graph import ROOT
from tests.retina_edge.web.browser import DESKTOP, NEEDS_BROWSER, assert_no_errors, frames_shown
from tests.retina_edge.web.serving import TOKEN, Served
from tests.rtsp_server import free_port
from tests.waiting import wait_for

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/local/bin:/usr/bin")
pytestmark = pytest.mark.skipif(NGINX is None, reason="needs nginx: apt-get install nginx-light")
BEARER = {"authorization": f"Bearer {TOKEN}"}


def documented() -> str:
    """Return the configuration of nginx in the documentation."""
    (lines,) = re.findall(r"```nginx\n(.*?)```", (ROOT / "docs" / "cameras.md").read_text(), re.DOTALL)
    assert "location /retina/" in lines
    return str(lines)


@contextmanager
def proxied(server: Served, folder: Path) -> Iterator[str]:
    """Run nginx in front of a server, and yield the address of its page."""
    port = free_port()
    location = documented().replace("http://127.0.0.1:8080/", f"{server.url}/")
    assert server.url in location
    paths = " ".join(
        f"{kind}_temp_path {folder / kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = folder / "nginx.conf"
    config.write_text(
        f"daemon off; master_process off; pid {folder / 'pid'}; error_log {folder / 'error.log'}; events {{}}\n"
        f"http {{ access_log off; {paths}\n"
        f"server {{ listen 127.0.0.1:{port};\n{location}}} }}\n"
    )
    process = subprocess.Popen([NGINX or "", "-e", folder / "error.log", "-c", config])

    def listens() -> bool:
        assert process.poll() is None, (folder / "error.log").read_text()
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_for(listens)
        yield f"http://127.0.0.1:{port}/retina/"
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="module")
def proxy(guarded: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of the page of the server that requires the token, behind nginx."""
    with proxied(guarded, tmp_path_factory.mktemp("nginx")) as url:
        yield url


def test_requests_and_redirects_stay_under_the_path(proxy: str) -> None:
    with httpx.Client(base_url=proxy, follow_redirects=True) as client:
        assert httpx.get(proxy.rstrip("/")).headers["location"] == proxy
        assert client.get("api/streams").status_code == 401
        assert client.get("").url == f"{proxy}login"
        assert client.get("api/streams/", headers=BEARER).status_code == 404  # a redirect would lose the path
        assert client.get("healthz").status_code == 200
        wrong = client.post("login", data={"token": "a guess"})
        assert (str(wrong.url), wrong.status_code) == (f"{proxy}login?wrong", 200)
        page = client.post("login", data={"token": TOKEN})
        assert (str(page.url), page.status_code) == (proxy, 200)
        (cookie,) = client.cookies.jar
        assert cookie.path == "/retina"
        for path in ("api", "metrics", "api/streams/north/frame.jpg", "api/score"):
            assert client.get(path).status_code == 200, path
        score = client.get("api/score").json()
        assert client.put("api/score", json=score, headers={"origin": proxy.removesuffix("/retina/")}).json() == score
        with client.stream("GET", "api/streams/north/stream.mjpg") as video:
            assert next(video.iter_bytes()).startswith(b"--frame\r\n")


def test_addresses_of_pages_and_of_the_api_lead_under_the_path(proxy: str) -> None:
    with httpx.Client(base_url=proxy, headers=BEARER) as client:
        for path in ("", "login", "api"):
            page = client.get(path)
            links = re.findall(r'(?:href|src|action)="([^"]+)"', page.text)
            assert links
            for link in links:
                address = page.url.join(link)
                assert str(address).startswith(proxy)
                assert client.get(address).status_code == 200, link
        answer = client.get("openapi.json")
        (server,) = answer.json()["servers"]
        assert f"{answer.url.join(server['url'])}".rstrip("/") + "/api/score" == f"{proxy}api/score"


def test_other_pages_are_refused_behind_the_proxy_too(proxy: str) -> None:
    with httpx.Client(base_url=proxy, headers=BEARER) as client:
        for origin in ("http://evil.example", "http://127.0.0.1:1", "null"):
            refused = client.put("api/score", json={"score": 0.9}, headers={"origin": origin})
            assert refused.status_code == 403, origin
            assert "proxy_set_header Host $http_host" in refused.json()["detail"]
        assert client.get("api/streams", headers={"sec-fetch-site": "cross-site"}).status_code == 403
    url = proxy.replace("http", "ws") + "api/watch"
    with pytest.raises(InvalidStatus):
        connect(url)
    with pytest.raises(InvalidStatus):
        connect(url, additional_headers=BEARER, origin=Origin("http://evil.example"))
    with connect(url, additional_headers=BEARER, origin=Origin(proxy.removesuffix("/retina/"))) as viewer:
        assert viewer.recv(timeout=5)


def test_without_a_token_foreign_host_names_are_refused(served: Served, tmp_path: Path) -> None:
    with proxied(served, tmp_path) as url:
        assert httpx.get(f"{url}api/streams").status_code == 200
        assert httpx.get(f"{url}api/streams", headers={"host": "cameras.example"}).status_code == 400


@NEEDS_BROWSER
def test_a_browser_logs_in_and_sees_live_streams_under_the_path(
    proxy: str, guarded: Served, open_browser: Callable[[tuple[int, int]], Chrome]
) -> None:
    browser = open_browser(DESKTOP)
    browser.get(proxy)
    assert browser.current_url == f"{proxy}login"
    browser.find_element(By.NAME, "token").send_keys("a guess", Keys.ENTER)
    wait_for(lambda: browser.current_url == f"{proxy}login?wrong")
    assert browser.find_element(By.ID, "wrong").is_displayed()
    browser.find_element(By.NAME, "token").send_keys(TOKEN, Keys.ENTER)
    wait_for(lambda: browser.current_url == proxy)
    wait_for(lambda: frames_shown(browser, "north") >= 3 and frames_shown(browser, "south") >= 3)
    wait_for(lambda: "2 of 3 streams online" in browser.find_element(By.ID, "state").text)
    slider = browser.find_element(By.ID, "score")
    wait_for(lambda: slider.get_attribute("value") == "0.4")
    try:
        slider.send_keys(Keys.END)
        wait_for(lambda: guarded.pipeline.score == 0.95)
    finally:
        guarded.pipeline.set_score(0.4)
    assert_no_errors(browser)
    requested = "return performance.getEntriesByType('resource').map((entry) => entry.name)"
    assert all(address.startswith(proxy) for address in browser.execute_script(requested))
    browser.find_element(By.LINK_TEXT, "API").click()
    wait_for(lambda: browser.current_url == f"{proxy}api")
    browser.find_element(By.LINK_TEXT, "openapi.json").click()
    wait_for(lambda: browser.current_url == f"{proxy}openapi.json")
    assert "/api/score" in browser.page_source
