"""Regions that change during a run: the store, its file, what the analyzer makes of changes, and masks."""

from __future__ import annotations

import json
import logging
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retina_edge.detections import Detections
from retina_edge.sources.frames import Frame
from retina_edge.tracking.analysis import FrameAnalysis, StreamAnalyzer, TrackingOptions
from retina_edge.tracking.masking import outside_masks
from retina_edge.tracking.region_counter import Anchor
from retina_edge.tracking.region_file import (
    FORMAT,
    MAX_REGIONS,
    AnyRegion,
    StoredRegion,
    StreamRegions,
    read_regions,
    region_from,
    region_values,
    write_regions,
)
from retina_edge.tracking.region_store import NotEditableError, NotSavedError, RegionStore
from retina_edge.tracking.zones import Line, Mask, Zone, ZoneError, zone
from tests.small_disk import small_disk

NAMES = ("person", "car")
SIZE = (100, 200)
LEFT = Zone("gate", ((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (0.0, 1.0)))
RIGHT = Zone("gate", ((0.5, 0.0), (1.0, 0.0), (1.0, 1.0), (0.5, 1.0)))
DOOR = Line("door", ((0.5, 0.0), (0.5, 1.0)))


def store_of(path: Path | None, **options: Any) -> RegionStore:
    return RegionStore(["yard", "road"], NAMES, path=path, **options)


def names(store: RegionStore, stream: str = "yard") -> list[str]:
    return [stored.region.name for stored in store.regions(stream).regions]


# Store


def test_a_change_acts_at_once_and_survives_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "new" / "regions.json"
    store = store_of(path)
    assert json.loads(path.read_text())["streams"] == {}
    store.note_size("yard", SIZE)
    gate, _ = store.put("yard", Zone("gate", LEFT.points, classes=("car",), dwell=2.5))
    store.put("yard", DOOR)
    store.put("yard", Mask("street", RIGHT.points))
    before = store.regions("yard")
    assert (before.revision, before.size, names(store)) == (3, SIZE, ["gate", "door", "street"])
    assert store.regions("road") == StreamRegions()
    again = store_of(path)
    assert again.regions("yard") == before
    again.put("yard", RIGHT, region_id=gate)
    assert names(again) == ["gate", "door", "street"]  # in place
    assert again.regions("yard").regions[0] == StoredRegion(gate, RIGHT, revision=4)
    again.remove("yard", gate)
    assert (again.regions("yard").revision, names(store_of(path))) == (5, ["door", "street"])
    again.put("yard", LEFT, region_id=gate)  # undo
    assert names(store_of(path)) == ["door", "street", "gate"]


def test_the_later_of_two_authors_wins_and_knows_that_it_did(tmp_path: Path) -> None:
    store = store_of(tmp_path / "regions.json")
    gate, _ = store.put("yard", LEFT)
    door, _ = store.put("yard", DOOR, seen=1)
    seen = store.regions("yard").revision
    assert store.put("yard", RIGHT, region_id=gate, seen=seen) == (gate, False)
    renamed = Zone("entry", LEFT.points)
    assert store.put("yard", renamed, region_id=gate, seen=seen) == (gate, True)
    assert store.regions("yard").regions[0].region == renamed
    # The door was not changed meanwhile.
    assert store.put("yard", Line("exit", DOOR.points), region_id=door, seen=seen) == (door, False)
    assert store.remove("yard", gate, seen=seen) is True
    with pytest.raises(KeyError):
        store.remove("yard", gate)
    assert store.put("yard", renamed, region_id=gate, seen=seen) == (gate, True)


def test_many_authors_at_once_lose_nothing(tmp_path: Path) -> None:
    """Four threads draw and delete; a reader sees only whole states, with a revision that never falls."""
    path = tmp_path / "regions.json"
    store = store_of(path)
    failures: list[BaseException] = []

    def author(number: int) -> None:
        try:
            for i in range(5):
                region_id, _ = store.put("yard", Zone(f"zone {number} {i}", LEFT.points))
                if i % 2:
                    store.remove("yard", region_id)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=author, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    revisions = []
    while any(thread.is_alive() for thread in threads):
        current = store.regions("yard")
        revisions.append(current.revision)
        assert len({stored.region.name for stored in current.regions}) == len(current.regions)
    for thread in threads:
        thread.join()
    assert not failures
    assert revisions == sorted(revisions)
    assert store.regions("yard").revision == 4 * (5 + 2)
    assert sorted(names(store)) == sorted(f"zone {number} {i}" for number in range(4) for i in (0, 2, 4))
    assert store_of(path).regions("yard") == store.regions("yard")


def test_regions_of_the_command_line_are_read_only(tmp_path: Path) -> None:
    store = store_of(
        tmp_path / "regions.json", fixed=[zone("gate=64,1px 99,1px 99,90px"), zone("road:way=0,0 1,0 1,1")]
    )
    assert [(stored.id, stored.read_only) for stored in store.regions("road").regions] == [
        ("fixed.0", True),
        ("fixed.1", True),
    ]
    with pytest.raises(NotEditableError, match="gate: is read-only; change --zone or --line"):
        store.put("yard", LEFT, region_id="fixed.0")
    with pytest.raises(NotEditableError, match="read-only"):
        store.remove("road", "fixed.1")
    with pytest.raises(ZoneError, match="id: expected at most 32 letters"):
        store.put("yard", LEFT, region_id="fixed.7")
    with pytest.raises(ZoneError, match="different names, got gate twice"):
        store.put("yard", LEFT)
    store.put("yard", DOOR)
    assert [stream["regions"][0]["name"] for stream in _saved(tmp_path) if stream["regions"]] == ["door"]


def _saved(folder: Path) -> list[dict[str, Any]]:
    return list(json.loads((folder / "regions.json").read_text())["streams"].values())


def test_without_a_file_nothing_can_be_drawn() -> None:
    store = store_of(None)
    with pytest.raises(NotEditableError, match="start serve with --regions FILE"):
        store.put("yard", LEFT)
    assert store.regions("yard") == StreamRegions()


def test_streams_of_other_runs_stay_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "regions.json"
    away = StreamRegions(7, (StoredRegion("a", Zone("old", LEFT.points, classes=("dog",)), 7),), (480, 640))
    write_regions(path, {"away": away})
    store_of(path).put("yard", LEFT)
    assert read_regions(path)["away"] == away


def test_a_change_that_cannot_be_saved_is_not_made(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 64 << 10) as folder:
        path = folder / "regions.json"
        store = store_of(path)
        store.put("yard", LEFT)
        before = path.read_bytes()
        with pytest.raises(OSError, match="No space"):
            (folder / "full").write_bytes(bytes(64 << 10))
        with pytest.raises(NotSavedError, match=r"not made, because it cannot be saved \(No space left on device\)"):
            store.put("yard", DOOR)
        assert (names(store), path.read_bytes()) == (["gate"], before)
        (folder / "full").unlink()
        store.put("yard", DOOR)
        assert names(store_of(path)) == ["gate", "door"]


def test_a_file_system_that_is_read_only_refuses_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may write everywhere, so the system call is replaced."""
    path = tmp_path / "regions.json"
    store_of(path).put("yard", LEFT)

    def refuse(_path: Path) -> None:
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr("retina_edge.tracking.region_file.atomic_file", refuse)
    store = store_of(path)  # the regions still count
    assert names(store) == ["gate"]
    with pytest.raises(NotSavedError, match="Read-only file system"):
        store.remove("yard", store.regions("yard").regions[0].id)
    assert names(store) == ["gate"]
    with pytest.raises(OSError, match="Read-only"):
        store_of(tmp_path / "other.json")


def test_what_another_program_wrote_is_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "regions.json"
    first, second = store_of(path), store_of(path)
    first.put("yard", LEFT)
    with pytest.raises(NotSavedError, match=r"another program has changed regions\.json; start serve again"):
        second.put("yard", DOOR)
    assert names(store_of(path)) == ["gate"]
    assert names(second) == []
    path.unlink()
    first.put("yard", DOOR)
    assert names(store_of(path)) == ["gate", "door"]


def test_there_is_a_limit_on_regions(tmp_path: Path) -> None:
    store = store_of(tmp_path / "regions.json")
    for number in range(MAX_REGIONS):
        store.put("yard", Line(str(number), DOOR.points))
    with pytest.raises(ZoneError, match="yard: expected at most 50 regions"):
        store.put("yard", DOOR)
    store.put("road", DOOR)


def test_frames_of_another_shape_are_reported_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "regions.json"
    store = store_of(path)
    store.note_size("yard", (480, 640))
    store.put("yard", LEFT)
    again = store_of(path)
    with caplog.at_level(logging.WARNING):
        again.note_size("yard", (960, 1280))
        assert not caplog.records
    third = store_of(path)
    with caplog.at_level(logging.WARNING):
        third.note_size("yard", (720, 1280))
        third.note_size("yard", (720, 1280))
    (record,) = caplog.records
    assert "drawn on frames of 640x480 pixels, but frames have 1280x720" in record.getMessage()


# File

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from([FORMAT, "zone"]),
    lambda children: (
        st.lists(children, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["format", "version", "streams", "yard", "regions", "revision", "width", "height", "points"]
            )
            | st.text(max_size=3),
            children,
            max_size=5,
        )
    ),
    max_leaves=15,
)
GOOD = {"id": "a", "revision": 1, "kind": "zone", "name": "gate", "points": [[0, 0], [1, 0], [1, 1]], "classes": []}


def file_of(region: Any) -> dict[str, Any]:
    stream = {"revision": 1, "width": None, "height": None, "regions": [region]}
    return {"format": FORMAT, "version": 1, "streams": {"yard": stream}}


@given(
    values=JSON
    | JSON.map(file_of)
    | st.tuples(st.sampled_from(sorted(GOOD)), JSON).map(lambda c: file_of({**GOOD, c[0]: c[1]}))
)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_hostile_file_is_refused_in_one_line_or_read(tmp_path: Path, values: Any) -> None:
    path = tmp_path / "regions.json"
    path.write_text(json.dumps(values))
    refusal, read = "", StreamRegions()
    try:
        read = store_of(path).regions("yard")
    except ZoneError as error:
        refusal = str(error)
    assert refusal.isprintable()
    assert not refusal or refusal.startswith(f"{path}: ")
    write_regions(path, {"yard": read})
    assert read_regions(path) == {"yard": read}


@given(content=st.binary(max_size=200))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_of_noise_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "regions.json"
    path.write_bytes(content)
    with pytest.raises(ZoneError) as raised:
        store_of(path)
    assert str(raised.value).isprintable()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "got a damaged file"),
        (b"[" * 100_000, "got a damaged file"),
        (b'{"format": "retina-edge regions", "version": 1, "stre', "got a damaged file"),
        (b'{"images": [], "annotations": []}', "got another file"),
        (json.dumps({**file_of(GOOD), "version": 2}).encode(), "expected version 1, got 2"),
        (json.dumps(file_of({**GOOD, "points": [[0, 0], [1, 0], [2, 1]]})).encode(), "numbers from 0 to 1, got"),
        (json.dumps(file_of({**GOOD, "points": [[0, 0], [1, 1], [1, 0], [0, 1]]})).encode(), "does not cross itself"),
        (json.dumps(file_of({**GOOD, "points": [[0, 0], [1, 0], [1, float("nan")]]})).encode(), "got \\[1, nan\\]"),
        (json.dumps(file_of({**GOOD, "points": [[0, 0]] * 65})).encode(), "at most 64 points"),
        (json.dumps(file_of({**GOOD, "classes": ["dog"]})).encode(), "expected classes among person, car; got dog"),
        (json.dumps(file_of({**GOOD, "classes": ["car", "car"]})).encode(), "each class once"),
        (json.dumps(file_of({**GOOD, "kind": "line", "dwell": 1, "points": [[0, 0], [1, 0]]})).encode(), "zone only"),
        (json.dumps(file_of({**GOOD, "dwell": True})).encode(), "dwell: expected seconds"),
        (json.dumps(file_of({**GOOD, "dwell": 0})).encode(), "dwell: expected seconds above 0"),
        (json.dumps(file_of({**GOOD, "name": "a\nb"})).encode(), "expected printable text"),
        (json.dumps(file_of({**GOOD, "name": "a" * 65})).encode(), "at most 64 characters"),
        (json.dumps(file_of({**GOOD, "id": "../a"})).encode(), "an id of letters"),
        (json.dumps(file_of({**GOOD, "revision": -1})).encode(), "revision: expected a whole number"),
        (json.dumps(file_of({**GOOD, "more": 1})).encode(), "expected an object of kind"),
    ],
)
def test_damaged_and_foreign_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "regions.json"
    path.write_bytes(content)
    with pytest.raises(ZoneError, match=message):
        store_of(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("field", ["id", "name"])
def test_a_file_with_the_same_id_or_name_twice_is_refused(tmp_path: Path, field: str) -> None:
    values = file_of(GOOD)
    values["streams"]["yard"]["regions"].append({**GOOD, "id": "b", "name": "b", field: GOOD[field]})
    (tmp_path / "regions.json").write_text(json.dumps(values))
    with pytest.raises(ZoneError, match=f"different {field}s, got"):
        store_of(tmp_path / "regions.json")


def test_a_folder_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ZoneError, match="expected a file of regions"):
        store_of(tmp_path)
    with pytest.raises(FileNotFoundError):
        store_of(tmp_path / "none.json", editable=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "region", [LEFT, Zone("gate", LEFT.points, classes=("car",), dwell=2), DOOR, Mask("m", LEFT.points)]
)
def test_values_of_a_region_give_the_region(region: AnyRegion) -> None:
    assert region_from(json.loads(json.dumps(region_values(region)))) == region


# Analyzer


def frame(index: int) -> Frame:
    return Frame(np.zeros((*SIZE, 3), np.uint8), index, index / 10, "yard")


def boxes_at(*xs: float, labels: list[int] | None = None) -> Detections:
    """Return boxes of 20x20 pixels whose anchor points are (x, 50)."""
    boxes = np.array([(x - 10, 30, x + 10, 50) for x in xs], np.float32).reshape(-1, 4)
    return Detections(
        boxes, np.full(len(xs), 0.9, np.float32), np.array(labels or [0] * len(xs), np.int32), NAMES, (1, 2)
    )


def analyze(analyzer: StreamAnalyzer, index: int, *xs: float) -> FrameAnalysis:
    return analyzer(frame(index), boxes_at(*xs), 0.4, seconds=index / 10)


def test_changes_act_on_the_next_frame_and_keep_other_counts(tmp_path: Path) -> None:
    store = store_of(tmp_path / "regions.json")
    make = TrackingOptions(regions_file=tmp_path / "regions.json", dwell=0.5).analyzers(store)
    assert make is not None
    analyzer = make("yard")
    assert analyze(analyzer, 0, 50).tallies == ()
    analyze(analyzer, 1, 50)
    gate, _ = store.put("yard", LEFT)
    result = analyze(analyzer, 2, 50)
    assert [event.kind for event in result.events] == ["entered"]
    door, _ = store.put("yard", DOOR)
    store.put("yard", Zone("entry", LEFT.points), region_id=gate)
    result = analyze(analyzer, 3, 50)
    assert result.events == ()
    assert [(tally.region.name, tally.counts) for tally in result.tallies] == [
        ("entry", {"inside": 1, "entered": 1, "left": 0, "dwelled": 0}),
        ("door", {"in": 0, "out": 0}),
    ]
    store.put("yard", Zone("entry", RIGHT.points), region_id=gate)
    result = analyze(analyzer, 4, 50)
    assert (result.events, result.tallies[0].counts["inside"], result.tallies[0].counts["entered"]) == ((), 0, 1)
    store.remove("yard", door)
    assert [tally.region.name for tally in analyze(analyzer, 5, 50).tallies] == ["entry"]
    # A line with the id of a zone is another region.
    store.put("yard", DOOR, region_id=gate)
    assert [tally.counts for tally in analyze(analyzer, 6, 50).tallies] == [{"in": 0, "out": 0}]
    assert store.regions("yard").size == SIZE


def test_changes_of_one_stream_do_not_touch_another(tmp_path: Path) -> None:
    store = store_of(tmp_path / "regions.json")
    store.put("road", LEFT)
    assert analyze(StreamAnalyzer("yard", store=store), 0, 50).tallies == ()
    assert len(analyze(StreamAnalyzer("road", store=store), 0, 50).tallies) == 1


# Masks


def test_masked_objects_are_neither_shown_nor_tracked(tmp_path: Path) -> None:
    store = store_of(tmp_path / "regions.json")
    analyzer = StreamAnalyzer("yard", store=store)
    assert [len(analyze(analyzer, i, 50, 150).detections) for i in range(3)] == [2, 2, 2]
    mask, _ = store.put("yard", Mask("street", RIGHT.points))
    results = [analyze(analyzer, i, 50, 150) for i in range(3, 20)]
    assert all(result.detections.boxes.tolist() == [[40, 30, 60, 50]] for result in results)
    assert all(result.tracks.tolist() == [1] for result in results)
    store.remove("yard", mask)
    assert len(analyze(analyzer, 20, 50, 150).detections) == 2


@given(
    xs=st.lists(st.integers(0, 20), max_size=8),
    masks=st.lists(st.tuples(st.integers(0, 9), st.integers(1, 10), st.sampled_from([(), ("car",)])), max_size=3),
    anchor=st.sampled_from(["bottom", "center"]),
)
@settings(deadline=None)
def test_masks_drop_the_objects_whose_anchor_point_is_inside(
    xs: list[int], masks: list[tuple[int, int, tuple[str, ...]]], anchor: Anchor
) -> None:
    """Masks are rectangles from x = 20 * left, over the rows 45 to 90; anchor points are at rows 50 or 40."""
    labels = [i % 2 for i in range(len(xs))]
    regions = [
        Mask(str(i), tuple((x / 10, y) for x, y in ((a, 0.45), (a + w, 0.45), (a + w, 0.9), (a, 0.9))), classes=classes)
        for i, (a, w, classes) in enumerate(masks)
        if a + w <= 10
    ]
    found = outside_masks(boxes_at(*(10.0 * x for x in xs), labels=labels), regions, size=SIZE, anchor=anchor)
    kept = [
        10 * x
        for x, label in zip(xs, labels, strict=True)
        if anchor == "center"  # above all masks
        or not any(
            20 * a <= 10 * x <= 20 * (a + w) and (not classes or NAMES[label] in classes)
            for a, w, classes in masks
            if a + w <= 10
        )
    ]
    assert [float(x1) + 10 for x1 in found.boxes[:, 0]] == kept


def test_without_masks_the_detections_are_the_same_object() -> None:
    detections = boxes_at(50)
    assert outside_masks(detections, (), size=SIZE) is detections
