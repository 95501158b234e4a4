"""Annotated frames: boxes and labels appear and stay inside the frame, and the original is not modified."""

from __future__ import annotations

from datetime import datetime, timezone

import numpy as np
import pytest

from retina_edge import Detections
from retina_edge.imaging.drawing import PALETTE, color_of, label_size
from retina_edge.pipeline.annotation import annotate
from retina_edge.tracking.counting import LineCounter
from retina_edge.tracking.region_counter import Tally, Visit
from retina_edge.tracking.zones import line, zone

GATE = Tally(zone("gate=100,100px 300,100px 300,300px 100,300px"), {"inside": {"a": 2}, "entered": {"a": 3, "b": 1}})
DOOR = Tally(line("door=0.25,0.5 0.75,0.5"), {"in": {}, "out": {"b": 7}})


def make(boxes: list[list[float]], labels: list[int] | None = None, names: tuple[str, ...] = ("a", "b")) -> Detections:
    count = len(boxes)
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.linspace(0.9, 0.5, count).astype(np.float32),
        np.array(labels or [0] * count, np.int32),
        names,
        tuple(range(len(names))),
    )


def test_without_detections_the_annotated_frame_is_an_equal_copy() -> None:
    image = np.full((60, 80, 3), 128, np.uint8)
    annotated = annotate(image, make([]))
    assert (annotated == image).all()
    assert annotated is not image


@pytest.mark.parametrize("ground", [0, 128, 255])
def test_the_box_is_drawn_in_its_color_with_a_dark_rim(ground: int) -> None:
    image = np.full((400, 600, 3), ground, np.uint8)
    annotated = annotate(image, make([[100, 100, 300, 300]], [1]))
    assert tuple(annotated[200, 100]) == color_of(1)
    assert (annotated[200, 90:110].max(axis=1) == 0).any()  # the rim
    assert (annotated[200, 200] == ground).all()  # the inside stays visible
    assert (image == ground).all()


def test_labels_stay_inside_the_frame() -> None:
    image = np.zeros((120, 160, 3), np.uint8)
    corners = [[0, 0, 20, 20], [150, 0, 160, 9], [0, 110, 10, 120], [150, 110, 160, 120], [-5, -5, 400, 400]]
    annotated = annotate(image, make([[float(side) for side in box] for box in corners]))
    assert annotated.shape == image.shape
    # The label of the first box has no room above the box, so it is drawn over the corner.
    assert (annotated[2:8, 2:20] == color_of(0)).all(axis=2).any()


def test_a_label_has_class_and_score_or_on_a_narrow_box_only_the_score(monkeypatch: pytest.MonkeyPatch) -> None:
    texts: list[str] = []
    for module in ("imaging.drawing", "pipeline.annotation"):
        monkeypatch.setattr(f"retina_edge.{module}.draw_label", lambda _image, text, *_: texts.append(text))
    image = np.zeros((400, 600, 3), np.uint8)
    annotate(image, make([[100, 100, 400, 300], [10, 10, 20, 20]], [1, 0], names=("tree", "person")))
    assert texts == ["0.50", "person 0.90"]  # the best detection is drawn last, on top


def test_a_label_has_the_track_before_the_class_or_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    texts: list[str] = []
    for module in ("imaging.drawing", "pipeline.annotation"):
        monkeypatch.setattr(f"retina_edge.{module}.draw_label", lambda _image, text, *_: texts.append(text))
    boxes: list[list[float]] = [[100, 100, 400, 300], [10, 10, 20, 20], [50, 50, 60, 60]]
    annotate(np.zeros((400, 600, 3), np.uint8), make(boxes), tracks=np.array([12, 3, -1], np.int64))
    assert texts == ["0.50", "#3", "#12 a 0.90"]


def test_a_track_shows_its_dwell_time_in_a_zone_with_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    texts: list[str] = []
    for module in ("imaging.drawing", "pipeline.annotation"):
        monkeypatch.setattr(f"retina_edge.{module}.draw_label", lambda _image, text, *_: texts.append(text))
    visits = (Visit(12, "a", 7.6),)
    limited = Tally(GATE.region, {"inside": {"a": 1}, "dwelled": {"a": 1}}, visits)
    free = Tally(GATE.region, {"inside": {"a": 1}}, (Visit(3, "a", 9.0),))
    boxes = make([[100, 100, 400, 300], [450, 10, 590, 220]], names=("a", "b"))
    annotate(np.zeros((400, 600, 3), np.uint8), boxes, tracks=np.array([12, 3], np.int64), tallies=[limited, free])
    assert {text for text in texts if text.startswith("#")} == {"#12 a 0.90 8 s", "#3 a 0.50"}


def test_negative_tracks_and_empty_tallies_change_nothing() -> None:
    image = np.full((400, 600, 3), 90, np.uint8)
    boxes = make([[100, 100, 300, 300], [10, 10, 20, 20]], [1, 0])
    plain = annotate(image, boxes)
    assert (annotate(image, boxes, tracks=np.full(2, -1, np.int64), tallies=()) == plain).all()


@pytest.mark.parametrize("ground", [0, 128, 255])
def test_zones_and_lines_have_a_white_line_with_a_dark_rim(ground: int) -> None:
    image = np.full((400, 600, 3), ground, np.uint8)
    zone_only, line_only = (annotate(image, make([]), tallies=[tally]) for tally in (GATE, DOOR))
    for column in (zone_only[190:210, 95:105].mean(axis=(0, 2)), line_only[195:205, 200:220].mean(axis=(1, 2))):
        assert column.max() == 255
        assert column.min() < 60
    inside, outside = int(zone_only[250, 200, 0]), int(zone_only[250, 400, 0])
    assert outside == ground
    assert inside > ground or ground == 255
    # The arrow points to the side of "in", which is below the line.
    assert (line_only[210:230, 290:310] != ground).any()
    assert (line_only[170:190, 290:310] == ground).all()
    assert (image == ground).all()


def test_regions_have_a_label_with_their_name_and_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    texts: list[str] = []
    for module in ("imaging.drawing", "pipeline.annotation"):
        monkeypatch.setattr(f"retina_edge.{module}.draw_label", lambda _image, text, *_: texts.append(text))
    annotate(np.zeros((400, 600, 3), np.uint8), make([[100, 100, 400, 300]]), tallies=[GATE, DOOR])
    assert texts == ["a 0.90", "gate: 2 inside, 4 entered", "in", "door: 0 in, 7 out"]


@pytest.mark.parametrize(
    ("points", "across", "down"),
    [
        ("0.25,0.5 0.75,0.5", 0, 1),
        ("0.75,0.5 0.25,0.5", 0, -1),
        ("0.5,0.25 0.5,0.75", -1, 0),
        ("0.5,0.75 0.5,0.25", 1, 0),
    ],
)
def test_the_word_in_stands_beyond_the_tip_of_the_arrow(
    monkeypatch: pytest.MonkeyPatch, points: str, across: int, down: int
) -> None:
    """Its side is the one that the counter counts as in, also where a box covers the line."""
    image, corners = np.zeros((400, 600, 3), np.uint8), list[tuple[int, int]]()

    def record(_image: object, text: str, corner: tuple[int, int], _color: object) -> None:
        if text == "in":
            corners.append(corner)

    monkeypatch.setattr("retina_edge.pipeline.annotation.draw_label", record)
    door = line(f"door={points}")
    annotated = annotate(image, make([[250, 150, 350, 250]]), tallies=[Tally(door, {"in": {}, "out": {}})])
    width, height = label_size(image, "in")
    ((left, bottom),) = corners
    x, y = left + width / 2 - 300, bottom - height / 2 - 200
    distance = across * x + down * y
    assert abs(across * y + down * x) <= 1
    assert 32 < distance < 60
    assert annotated[200 + 20 * down, 300 + 20 * across].tolist() == [255] * 3
    counter = LineCounter(door, stream="yard", anchor="center", hysteresis=0.0)
    for step, place in enumerate((-20, 20)):
        x, y = 300 + place * across, 200 + place * down
        box = make([[x - 5.0, y - 5.0, x + 5.0, y + 5.0]])
        moment = datetime(2026, 11, 26, 12, tzinfo=timezone.utc)
        counter.update(box, np.array([1], np.int64), size=(400, 600), timestamp=float(step), captured=moment)
    assert counter.tally().counts == {"in": 1, "out": 0}


@pytest.mark.parametrize("size", [(1, 1), (3, 2000), (50, 40), (99, 99), (200, 200)])
def test_regions_beyond_the_frame_are_cut_off(size: tuple[int, int]) -> None:
    assert annotate(np.zeros((*size, 3), np.uint8), make([]), tallies=[GATE, DOOR]).shape == (*size, 3)


@pytest.mark.parametrize("size", [(1, 1), (3, 2000), (2000, 3), (16, 16)])
def test_tiny_and_thin_frames_can_be_annotated(size: tuple[int, int]) -> None:
    annotated = annotate(np.zeros((*size, 3), np.uint8), make([[0, 0, size[1], size[0]]]))
    assert annotated.shape == (*size, 3)


def test_lines_are_thicker_in_a_larger_frame() -> None:
    thickness = []
    for side in (400, 2800):
        annotated = annotate(np.zeros((side, side, 3), np.uint8), make([[side / 4, side / 4, side / 2, side / 2]]))
        row = (annotated[3 * side // 8, : 3 * side // 8] == color_of(0)).all(axis=1)
        thickness.append(int(row.sum()))
    assert thickness[1] > thickness[0]


def test_colors_are_stable_and_differ_between_neighboring_classes() -> None:
    assert color_of(0) == PALETTE[0]
    assert len(set(PALETTE)) == len(PALETTE)
    assert color_of(len(PALETTE) + 2) == color_of(2)


def test_read_only_arrays_and_slices_can_be_annotated() -> None:
    image = np.zeros((200, 200, 3), np.uint8)[::2, ::2]
    image.flags.writeable = False
    assert annotate(image, make([[10, 30, 60, 80]])).any()
