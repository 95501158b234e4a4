"""Regions that are drawn while the server runs: the API over a real server, with a tracker and moving objects."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from websockets.sync.client import ClientConnection, connect

from retina_edge.tracking.analysis import TrackingOptions
from retina_edge.tracking.zones import Line, Zone, line, zone
from retina_edge.web import access
from tests.retina_edge.web.serving import TOKEN, Served, serving
from tests.waiting import wait_for

PATH = "/api/streams/north/regions"
WHOLE = {"kind": "zone", "name": "all", "points": [[0, 0], [1, 0], [1, 1], [0, 1]]}
DOOR = {"kind": "line", "name": "door", "points": [[0.5, 0], [0.5, 1]]}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of regions of the server."""
    return tmp_path_factory.mktemp("regions") / "regions.json"


@pytest.fixture(scope="module")
def server(file: Path) -> Iterator[Served]:
    """A server with a file of regions, and a line and a zone of the command line; without a limit on changes."""
    fixed: list[Zone | Line] = [line("north:exit=0.1,0.5 0.9,0.5"), zone("north:half=0,0px 80,0px 80,120px 0,120px")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(access, "CHANGE_RATE", (1e6, 1e6))
        with serving(tracking=TrackingOptions(regions=fixed, regions_file=file, dwell=0.2)) as made:
            yield made


@pytest.fixture
def http(server: Served) -> Iterator[httpx.Client]:
    """A client of the server, on which nothing is drawn yet."""
    with httpx.Client(base_url=server.url, timeout=10) as client:
        for region in client.get(PATH).json()["regions"]:
            if not region["read_only"]:
                client.delete(f"{PATH}/{region['id']}").raise_for_status()
        yield client


def revision(http: httpx.Client) -> int:
    return int(http.get(PATH).json()["revision"])


def drawn(answer: dict[str, Any]) -> list[str]:
    return [region["name"] for region in answer["regions"]]


def told(socket: ClientConnection) -> dict[str, Any]:
    """Return the next text of the socket, which also carries frames."""
    for _ in range(150):  # about three seconds of frames
        if isinstance(message := socket.recv(timeout=5), str):
            return dict(json.loads(message))
    raise AssertionError("no text arrived among 150 frames")


def test_regions_of_the_command_line_are_shown_read_only(http: httpx.Client) -> None:
    answer = http.get(PATH).json()
    assert (answer["version"], answer["editable"], answer["why_not"]) == (1, True, "")
    assert answer["classes"] == ["patch", "other"]
    exit_line, half = answer["regions"]
    assert exit_line == {
        "id": "fixed.0",
        "revision": 0,
        "read_only": True,
        "kind": "line",
        "name": "exit",
        "unit": "relative",
        "points": [[0.1, 0.5], [0.9, 0.5]],
        "classes": [],
        "dwell": None,
    }
    assert (half["points"], half["unit"]) == ([[0, 0], [0.5, 0], [0.5, 1], [0, 1]], "relative")  # of 160x120 pixels
    for answer in (http.delete(f"{PATH}/fixed.0"), http.put(f"{PATH}/fixed.0", json=DOOR)):
        assert (answer.status_code, answer.json()["detail"].startswith("exit: is read-only")) == (403, True)


def test_a_region_is_drawn_counts_is_changed_and_deleted(http: httpx.Client, file: Path) -> None:
    start = revision(http)
    made = http.post(PATH, json=WHOLE)
    assert (made.status_code, made.json()["revision"], made.json()["replaced_newer"]) == (201, start + 1, False)
    one = f"{PATH}/{made.json()['id']}"
    assert drawn(made.json()) == ["exit", "half", "all"]

    def latest() -> dict[str, Any]:
        return dict(http.get("/api/streams/north/detections").json())

    wait_for(lambda: latest()["regions"].get("all", {}).get("dwelled"))
    visits = [visit for visit in latest()["visits"] if visit["zone"] == "all"]
    assert [(visit["class"], visit["seconds"] >= 0.2) for visit in visits] == [("patch", True)]
    texts = [event["text"] for event in http.get("/api/events?limit=100").json() if event["region"] == "all"]
    assert any(" dwelled in all, 0 s" in text for text in texts), texts
    entered = latest()["regions"]["all"]["entered"]
    assert entered >= 1
    assert http.put(one, json={**WHOLE, "name": "yard", "dwell": 3600}).json()["revision"] == start + 2
    wait_for(lambda: "yard" in latest()["regions"])
    assert latest()["regions"]["yard"]["entered"] >= entered  # counts stay
    assert "all" not in latest()["regions"]
    assert http.get("/api/streams/south/regions").json()["regions"] == []
    saved = json.loads(file.read_text())["streams"]["north"]
    assert [(region["name"], region["dwell"]) for region in saved["regions"]] == [("yard", 3600)]
    assert (saved["width"], saved["height"]) == (160, 120)
    assert drawn(http.delete(one).json()) == ["exit", "half"]
    wait_for(lambda: "yard" not in latest()["regions"])
    assert http.delete(one).status_code == 404
    assert drawn(http.put(one, json=WHOLE).json()) == ["exit", "half", "all"]


def test_a_mask_hides_what_is_inside(http: httpx.Client) -> None:
    wait_for(lambda: http.get("/api/streams/north/detections").json()["detections"])
    answer = http.post(PATH, json={**WHOLE, "kind": "mask"}).json()
    wait_for(lambda: not http.get("/api/streams/north/detections").json()["detections"])
    assert http.get("/api/streams/south/detections").json()["detections"]
    http.delete(f"{PATH}/{answer['id']}")
    wait_for(lambda: http.get("/api/streams/north/detections").json()["detections"])


def test_two_clients_write_and_both_see_it(http: httpx.Client, server: Served) -> None:
    """The later write wins. Both clients are told of every revision."""
    start = revision(http)
    address = server.url.replace("http", "ws") + "/api/watch"
    with connect(address) as first, connect(address) as second, httpx.Client(base_url=server.url) as other:
        assert isinstance(first.recv(timeout=5), bytes)  # both are watching
        assert isinstance(second.recv(timeout=5), bytes)
        made = http.post(PATH, json=DOOR).json()
        for socket in (first, second):
            assert told(socket) == {"regions": {"stream": "north", "revision": start + 1}}
        one = f"{PATH}/{made['id']}"
        mine = http.put(one, json={**DOOR, "name": "mine"}, params={"revision": start + 1}).json()
        assert mine["replaced_newer"] is False
        theirs = other.put(one, json={**DOOR, "name": "theirs"}, params={"revision": start + 1}).json()
        assert theirs["replaced_newer"] is True
        for socket in (first, second):
            while (message := told(socket)["regions"])["revision"] < start + 3:
                pass
            assert message == {"stream": "north", "revision": start + 3}
        assert drawn(http.get(PATH).json())[-1] == "theirs"


def test_metrics_hold_counts_and_dwell_times(http: httpx.Client) -> None:
    http.post(PATH, json={**WHOLE, "dwell": 0.1})

    def samples() -> dict[str, dict[tuple[str, ...], float]]:
        order = ("stream", "region", "class", "count")
        found: dict[str, dict[tuple[str, ...], float]] = {}
        for family in text_string_to_metric_families(http.get("/metrics").text):
            for sample in family.samples:
                labels = tuple(sample.labels[label] for label in order if label in sample.labels)
                found.setdefault(sample.name, {})[labels] = sample.value
        return found

    key = ("north", "all", "patch")
    wait_for(lambda: samples()["retina_edge_region_objects_total"].get((*key, "dwelled")))
    found = samples()
    assert found["retina_edge_region_objects_total"][(*key, "entered")] >= 1
    # The patch jumps every two seconds, and its old track stays for two seconds.
    assert found["retina_edge_zone_objects"][key] in (1, 2)
    assert found["retina_edge_zone_longest_visit_seconds"][key[:2]] >= 0.1
    wait_for(lambda: samples().get("retina_edge_zone_visit_seconds_count", {}).get(key))
    found = samples()
    left = found["retina_edge_region_objects_total"][(*key, "left")]
    assert found["retina_edge_zone_visit_seconds_count"][key] == left
    assert 0 < found["retina_edge_zone_visit_seconds_sum"][key] < 10 * left


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({**WHOLE, "kind": "circle"}, "'zone', 'line' or 'mask'"),
        ({**WHOLE, "points": [[0, 0], [1, 0]]}, "all: expected a zone of 3 points or more, got 2"),
        ({**WHOLE, "points": [[0, 0], [1, 1], [1, 0], [0, 1]]}, "polygon that does not cross itself"),
        ({**WHOLE, "points": [[0, 0], [1, 0], [1.01, 1]]}, "less than or equal to 1"),
        ({**WHOLE, "points": [[0, 0], [1, 0], [1]]}, "at least 2 items"),
        ({**WHOLE, "points": [[i / 100, 0] for i in range(65)]}, "at most 64 items"),
        ({**WHOLE, "points": [[True, 0], [1, 0], [1, 1]]}, "valid number"),
        ({**DOOR, "points": [[0, 0], [0, 0]]}, "expected each point once"),
        ({**DOOR, "dwell": 3}, "door: dwell: expected seconds, for a zone only"),
        ({**WHOLE, "dwell": 0}, "greater than 0"),
        ({**WHOLE, "classes": ["dog"]}, "expected classes among patch, other; got dog"),
        ({**WHOLE, "classes": ["patch", "patch"]}, "each class once"),
        ({**WHOLE, "name": ""}, "at least 1 character"),
        ({**WHOLE, "name": "x" * 65}, "at most 64 characters"),
        ({**WHOLE, "name": "a\nb"}, "expected printable text"),
        ({**WHOLE, "name": "a:b"}, "expected printable text without : @ ="),
        ({**WHOLE, "name": "\u202egate"}, "expected printable text"),
        ({**WHOLE, "name": "half"}, "different names, got half twice"),
        ({**WHOLE, "stream": "south"}, "Extra inputs are not permitted"),
        ([], "valid dictionary"),
        (None, "body: Field required"),
    ],
)
def test_wrong_regions_are_refused_with_what_was_expected(http: httpx.Client, body: Any, message: str) -> None:
    start = revision(http)
    for answer in (http.post(PATH, json=body), http.put(f"{PATH}/abc", json=body)):
        assert answer.status_code == 422
        assert message in answer.json()["detail"]
        assert answer.json()["detail"].isprintable()
    assert revision(http) == start


@pytest.mark.parametrize("region_id", ["a.b", "x" * 33, "%00", "a%0ab", "..%2f..%2fetc", "é"])
def test_hostile_ids_are_refused(http: httpx.Client, region_id: str) -> None:
    start = revision(http)
    assert http.put(f"{PATH}/{region_id}", json=DOOR).status_code in (404, 422)
    assert http.delete(f"{PATH}/{region_id}").status_code in (404, 422)
    assert revision(http) == start


def test_names_that_look_like_markup_are_only_text(http: httpx.Client) -> None:
    name = "<img src=x onerror=alert(1)>".replace("=", " ")
    assert drawn(http.post(PATH, json={**DOOR, "name": name}).json())[-1] == name


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=70),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=6), children, max_size=4),
    max_leaves=12,
)


def test_hostile_json_changes_nothing_or_is_a_region(http: httpx.Client) -> None:
    @given(body=VALUES | st.tuples(st.sampled_from(sorted(WHOLE)), VALUES).map(lambda c: {**WHOLE, c[0]: c[1]}))
    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    def draw(body: Any) -> None:
        before = http.get(PATH).json()
        answer = http.put(f"{PATH}/one", content=json.dumps(body).encode())
        after = http.get(PATH).json()
        if answer.status_code == 200:
            assert after["revision"] == before["revision"] + 1
            region = after["regions"][-1]
            assert (region["id"], region["name"]) == ("one", body["name"])
        else:
            assert (answer.status_code, after) == (422, before)
            assert answer.json()["detail"].isprintable()

    draw()


def test_a_body_that_is_too_large_is_refused(http: httpx.Client) -> None:
    assert http.post(PATH, json={**WHOLE, "classes": ["x" * 20_000]}).status_code == 413


def test_the_largest_region_fits(http: httpx.Client) -> None:
    points = [[0.123456789012345 + i / 1000, 0.2] for i in range(32)]
    points += [[x, 0.912345678901234] for x, _ in reversed(points)]
    assert http.post(PATH, json={**WHOLE, "name": "😀" * 64, "points": points}).status_code == 201


def test_a_change_that_cannot_be_saved_is_refused(http: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise OSError(30, "Read-only file system", str(path))

    start = revision(http)
    monkeypatch.setattr("retina_edge.tracking.region_file.atomic_file", refuse)
    answer = http.post(PATH, json=WHOLE)
    assert answer.status_code == 503
    assert answer.json()["detail"].startswith("the change was not made, because it cannot be saved (Read-only file sy")
    assert revision(http) == start


def test_without_a_file_regions_are_read_only(client: httpx.Client) -> None:
    answer = client.get(PATH).json()
    assert (answer["editable"], answer["regions"]) == (False, [])
    assert "--regions FILE" in answer["why_not"]
    for refused in (client.post(PATH, json=WHOLE), client.put(f"{PATH}/a", json=WHOLE), client.delete(f"{PATH}/a")):
        assert (refused.status_code, refused.json()["detail"]) == (403, answer["why_not"])
    for unknown in (client.get("/api/streams/west/regions"), client.post("/api/streams/west/regions", json=WHOLE)):
        assert unknown.status_code == 404


def test_regions_need_the_token(anonymous: httpx.Client) -> None:
    assert anonymous.get(PATH).status_code == 401
    assert anonymous.post(PATH, json=WHOLE).status_code == 401
    assert anonymous.put(f"{PATH}/a", json=WHOLE).status_code == 401
    assert anonymous.delete(f"{PATH}/a").status_code == 401
    assert anonymous.get(PATH, headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_the_api_page_describes_the_routes(client: httpx.Client) -> None:
    page = client.get("/api").text
    for text in ("/api/streams/{name}/regions/{region}", "Draw a region.", "Change a region", "Delete a region"):
        assert text in page
