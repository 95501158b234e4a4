"""HOTA, IDF1 and MOTA of made-up tracks, against values computed by hand, and files that are invalid."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engines.core.errors import DataError, MissingDependencyError
from retina_edge import api
from retina_edge.assets import FOREST, MODEL
from retina_edge.detect import main as detect
from retina_edge.evaluate import main
from retina_edge.evaluation.mot_files import MAX_FRAME, read_ground_truth, read_tracks
from retina_edge.evaluation.track_metrics import TrackMetrics, evaluate_tracks

pytest.importorskip("trackers", reason="needs the trackers package: pip install 'retina-edge[track]'")

FRAMES = 10
EXACT = 1e-12

Row = tuple[int, int, float, float, float, float]


def track(number: int, frames: Iterable[int], *, place: int | None = None) -> list[Row]:
    """Return the boxes of a track. Objects of different places never overlap."""
    left = 100.0 * (number if place is None else place)
    return [(frame, number, left + frame, 50.0, 40.0, 80.0) for frame in frames]


def with_ids(rows: list[Row], new_id: Callable[[int, int], int]) -> list[Row]:
    """Return the rows with other ids, from frame and id."""
    return [(frame, new_id(frame, number), *box) for frame, number, *box in rows]  # type: ignore[misc]


def write(path: Path, rows: Iterable[tuple[float, ...]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(",".join(map(str, row)) + "\n" for row in rows))
    return path


@pytest.fixture
def measure(tmp_path: Path) -> Callable[[list[Row], list[Row]], TrackMetrics]:
    def measured(truth: list[Row], tracks: list[Row]) -> TrackMetrics:
        return evaluate_tracks(write(tmp_path / "t.txt", tracks), write(tmp_path / "gt.txt", truth)).combined

    return measured


Measure = Callable[[list[Row], list[Row]], TrackMetrics]
TWO = track(1, range(1, FRAMES + 1)) + track(2, range(1, FRAMES + 1))


def test_perfect_tracks_have_full_marks_whatever_their_ids(measure: Measure) -> None:
    tracks = with_ids(TWO, lambda _, number: {1: 71, 2: 0}[number])
    assert measure(TWO, tracks) == TrackMetrics(1, 1, 1, 1, 1, 0, 0, 0, 2 * FRAMES)


def test_ids_that_are_exchanged_in_the_middle(measure: Measure) -> None:
    """Both objects are always found, so DetA is 1. Each id is on its object for 5 of 10 frames.

    AssA: each of the 20 boxes has TPA 5, FNA 5 and FPA 5, so 5 / 15. HOTA is the root of 1 * 1/3.
    IDF1: an assignment of ids to objects is right for 10 of 20 boxes. MOTA: 2 switches among 20 objects.
    """
    tracks = with_ids(TWO, lambda frame, number: number if frame <= 5 else 3 - number)
    got = measure(TWO, tracks)
    assert (got.deta, got.switches, got.missed, got.false_boxes) == (1, 2, 0, 0)
    assert got.assa == pytest.approx(1 / 3, abs=EXACT)
    assert got.hota == pytest.approx(math.sqrt(1 / 3), abs=EXACT)
    assert got.idf1 == pytest.approx(0.5, abs=EXACT)
    assert got.mota == pytest.approx(1 - 2 / 20, abs=EXACT)


def test_an_id_that_changes_after_seven_frames(measure: Measure) -> None:
    """One object of 10 frames has id 1 for 7 frames and id 2 for 3.

    AssA: 7 boxes have TPA 7, FNA 3 and FPA 0, 3 boxes have TPA 3 and FNA 7: (7 * 0.7 + 3 * 0.3) / 10 = 0.58.
    IDF1: id 1 is the object, IDTP 7, IDFN 3, IDFP 3: 2 * 7 / (2 * 7 + 3 + 3) = 0.7.
    """
    tracks = with_ids(track(1, range(1, 11)), lambda frame, _: 1 if frame <= 7 else 2)
    got = measure(track(1, range(1, 11)), tracks)
    assert got.assa == pytest.approx(0.58, abs=EXACT)
    assert got.hota == pytest.approx(math.sqrt(0.58), abs=EXACT)
    assert got.idf1 == pytest.approx(0.7, abs=EXACT)
    assert got.mota == pytest.approx(0.9, abs=EXACT)
    assert got.switches == 1


def test_missed_objects_and_false_boxes(measure: Measure) -> None:
    """Of 20 objects, 4 are missed, and 3 boxes are false: MOTA is 1 - 7/20.

    DetA is TP / (TP + FN + FP) = 16 / 23. IDF1 is 2 * 16 / (20 + 19), as no id changes.
    AssA: the 10 boxes of the first object are whole, the 6 of the second have 6 / 10: (10 + 6 * 0.6) / 16 = 0.85.
    """
    got = measure(TWO, track(1, range(1, 11)) + track(2, range(3, 9)) + track(9, range(4, 7)))
    assert (got.missed, got.false_boxes, got.switches, got.objects) == (4, 3, 0, 20)
    assert got.mota == pytest.approx(1 - 7 / 20, abs=EXACT)
    assert got.deta == pytest.approx(16 / 23, abs=EXACT)
    assert got.idf1 == pytest.approx(32 / 39, abs=EXACT)
    assert got.assa == pytest.approx(0.85, abs=EXACT)
    assert got.hota == pytest.approx(math.sqrt(16 / 23 * 0.85), abs=EXACT)


def test_boxes_that_are_off_count_up_to_their_overlap(measure: Measure) -> None:
    """Boxes moved by a third of their width have an IoU of (2/3) / (4/3) = 0.5, a match in MOTA and in IDF1.

    HOTA has 19 thresholds from 0.05 to 0.95: at 10 of them, up to 0.5, all boxes match, at the others none: 10 / 19.
    """
    moved = [(frame, number, left + 30.0, 50.0, 90.0, 80.0) for frame, number, left, *_ in TWO[:FRAMES]]
    truth = [(frame, number, left, 50.0, 90.0, 80.0) for frame, number, left, *_ in TWO[:FRAMES]]
    got = measure(truth, moved)
    assert (got.mota, got.idf1) == (1, 1)
    assert got.hota == pytest.approx(10 / 19, abs=EXACT)


def test_more_false_boxes_than_objects_make_mota_negative(measure: Measure) -> None:
    got = measure(track(1, [1]), track(2, [1, 2, 3]))
    assert (got.mota, got.hota, got.idf1) == (-3, 0, 0)


def test_no_tracks_at_all(tmp_path: Path) -> None:
    for rows in ([], [(1, -1, 100.0, 50.0, 40.0, 80.0)]):
        got = evaluate_tracks(write(tmp_path / "t.txt", rows), write(tmp_path / "gt.txt", TWO)).combined
        assert got == TrackMetrics(0, 0, 0, 0, 0, 0, 20, 0, 20)


def test_ground_truth_that_is_ignored_and_distractors_do_not_count(tmp_path: Path) -> None:
    """Object 2 has confidence 0 and object 3 is a reflection (class 12). A box on the reflection is not false."""
    truth = [(*row, 1, 1, 1.0) for row in track(1, range(1, 6))]
    truth += [(*row, 0, 1, 1.0) for row in track(2, range(1, 6))]
    truth += [(*row, 1, 12, 1.0) for row in track(3, range(1, 6))]
    tracks = track(1, range(1, 6)) + track(3, range(1, 6))
    got = evaluate_tracks(write(tmp_path / "t.txt", tracks), write(tmp_path / "gt.txt", truth)).combined
    assert got == TrackMetrics(1, 1, 1, 1, 1, 0, 0, 0, 5)
    assert evaluate_tracks(tmp_path / "gt.txt", tmp_path / "gt.txt").combined.false_boxes == 5  # object 2


def test_lines_of_mot15_have_a_position_instead_of_a_class(tmp_path: Path) -> None:
    rows = [(*row, 1, -1, -1, -1) for row in TWO]
    assert evaluate_tracks(write(tmp_path / "t.txt", rows), tmp_path / "t.txt").combined.hota == 1


def test_sequences_are_found_in_folders_and_combined(tmp_path: Path) -> None:
    """The combined MOTA is that of all objects: sequence A misses 10 of 10, sequence B none of 20."""
    write(tmp_path / "truth" / "A" / "gt" / "gt.txt", track(1, range(1, 11)))
    write(tmp_path / "truth" / "B" / "gt" / "gt.txt", TWO)
    write(tmp_path / "flat" / "A.txt", track(1, range(1, 11)))
    write(tmp_path / "flat" / "B.txt", TWO)
    write(tmp_path / "tracks" / "A.txt", [])
    write(tmp_path / "tracks" / "B.txt", TWO)
    got = evaluate_tracks(tmp_path / "tracks", tmp_path / "truth")
    assert got == evaluate_tracks(tmp_path / "tracks", tmp_path / "flat")
    assert {name: metrics.mota for name, metrics in got.sequences.items()} == {"A": 0, "B": 1}
    assert got.combined.mota == pytest.approx(1 - 10 / 30, abs=EXACT)
    alone = evaluate_tracks(tmp_path / "tracks", tmp_path / "truth" / "B")
    assert alone.sequences == {"B": got.sequences["B"]}


def json_lines(path: Path, rows: list[Row]) -> Path:
    frames = sorted({row[0] for row in rows})
    with path.open("w") as file:
        for frame in frames:
            found = [
                {"box": [left, top, left + width, top + height], "track": number}
                for at, number, left, top, width, height in rows
                if at == frame
            ]
            found.append({"box": [0, 0, 0, 5], "track": -1})
            file.write(json.dumps({"stream": "yard", "frame": frame - 1, "detections": found}) + "\n")
    return path


def test_json_lines_of_detect_are_tracks(tmp_path: Path) -> None:
    tracks = json_lines(tmp_path / "t.jsonl", TWO)
    assert evaluate_tracks(tracks, write(tmp_path / "gt.txt", TWO)).combined.hota == 1


def test_tracks_of_detect_against_themselves(tmp_path: Path) -> None:
    """Three frames of a still scene: the tracks begin in the second frame, so a third of the objects is missed."""
    frames = tmp_path / "frames"
    frames.mkdir()
    for index in range(3):
        (frames / f"{index}.jpg").write_bytes(FOREST.read_bytes())
    lines = tmp_path / "out.jsonl"
    assert detect([str(MODEL), str(frames), "--tracker", "botsort", "--fps", "10", "--json", str(lines)]) == 0
    results = [json.loads(line) for line in lines.read_text().splitlines()]
    last = results[-1]["detections"]
    truth = [
        (frame, number, left, top, right - left, bottom - top)
        for frame in (1, 2, 3)
        for number, (left, top, right, bottom) in enumerate(found["box"] for found in last)
    ]
    got = evaluate_tracks(lines, write(tmp_path / "gt.txt", truth)).combined
    assert got.objects == 3 * len(last) > 0
    assert (got.missed, got.false_boxes, got.switches) == (len(last), 0, 0)
    assert got.idf1 == pytest.approx(2 * 2 / (2 + 3), abs=EXACT)


GOOD = "1,1,10,10,40,40,1,1,1\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,1,10,10,40\n", r"line 2: expected frame,id,left,top,width,height, got '1,1,10,10,40'"),
        ("1 2 10 10 40 40\n", "line 2: expected frame,id"),
        ("0,2,10,10,40,40\n", f"line 2: frame: expected a number from 1 to {MAX_FRAME}, got 0"),
        ("99999999999,2,10,10,40,40\n", "line 2: frame: expected a number from 1"),
        ("1.5,2,10,10,40,40\n", "line 2: frame: expected an integer, got '1.5'"),
        ("1,two,10,10,40,40\n", "line 2: id: expected a number, got 'two'"),
        ("1,1e300,10,10,40,40\n", "line 2: id: expected an integer"),
        ("1,2,nan,10,40,40\n", "line 2: left: expected a number, got 'nan'"),
        ("1,2,10,10,inf,40\n", "line 2: width: expected a number, got 'inf'"),
        ("1,2,10,1e200,40,40\n", r"line 2: top: expected at most 1e\+06 pixels, got 1e\+200"),
        ("\n1,2,10,10,0,40\n", "line 3: box: expected a width and a height greater than 0, got 0 x 40"),
        ("1,2,10,10,40,-4\n", "line 2: box: expected a width and a height greater than 0, got 40 x -4"),
        ("1,2,10,10,40,40,sure\n", "line 2: confidence: expected a number, got 'sure'"),
        ("1,2,10,10,40,40,1,car\n", "line 2: class: expected a number, got 'car'"),
        ("1,1,20,10,40,40\n", "line 2: expected one box of id 1 in frame 1, got another in line 1"),
        ("1,2,10,10,40,\x00\n", "line 2: height: expected a number"),
        ("1,\xff,10,10,40,40\n", "line 2: id: expected a number"),
    ],
)
def test_errors_name_file_and_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.txt"
    path.write_bytes((GOOD + text).encode("latin-1"))
    for read in (read_tracks, read_ground_truth):
        with pytest.raises(DataError, match=f"bad.txt, {message}"):
            read(path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[1]", r"line 2: expected a JSON object, got '\[1\]'"),
        ("{", "line 2: expected a JSON object"),
        ("[" * 100_000, "line 2: expected a JSON object"),
        ('{"stream": "b", "frame": 1, "detections": []}', "line 2: expected the results of one stream, got a and b"),
        ('{"stream": "a", "detections": []}', "line 2: frame: expected a number, got None"),
        ('{"stream": "a", "frame": true, "detections": []}', "line 2: frame: expected a number, got True"),
        ('{"stream": "a", "frame": 1, "detections": {}}', "line 2: expected a list of detections, got {}"),
        ('{"stream": "a", "frame": 1, "detections": [{"box": [1, 2, 3]}]}', "line 2: expected a detection with a box"),
        ('{"stream": "a", "frame": 1, "detections": [{"box": [1, 2, 3, 4]}]}', "line 2: .* run detect with --track"),
        (
            '{"stream": "a", "frame": 1, "detections": [{"box": [1, 2, 3, 4], "track": 1}, '
            '{"box": [1, 2, 3, 4], "track": 1}]}',
            "line 2: expected one box of each track",
        ),
        ('{"stream": "a", "frame": 0, "detections": [{"box": [1, 2, 3, 4], "track": 1}]}', "another in line 1"),
        ('{"stream": "a", "frame": 1, "detections": [{"box": [3, 2, 1, 4], "track": 1}]}', "line 2: box: expected a"),
    ],
)
def test_errors_in_json_lines_name_file_and_line(line: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    first = '{"stream": "a", "frame": 0, "detections": [{"box": [1, 2, 3, 4], "track": 1}]}'
    path.write_text(f"{first}\n{line}\n")
    with pytest.raises(DataError, match=message):
        read_tracks(path)


def test_ground_truth_without_an_object_is_refused(tmp_path: Path) -> None:
    for text in ("", "1,1,10,10,40,40,0,1,1\n", "1,1,10,10,40,40,1,3,1\n"):
        (tmp_path / "gt.txt").write_text(text)
        with pytest.raises(DataError, match=r"gt.txt: expected objects to measure on, found none .* columns 7 and 8"):
            read_ground_truth(tmp_path / "gt.txt")
    (tmp_path / "gt.txt").write_text("1,-1,10,10,40,40\n")
    with pytest.raises(DataError, match="expected the id of an object in each line, got a negative id"):
        read_ground_truth(tmp_path / "gt.txt")


def test_files_that_are_missing_are_named(tmp_path: Path) -> None:
    truth = write(tmp_path / "truth" / "A.txt", TWO)
    (tmp_path / "empty").mkdir()
    tracks = write(tmp_path / "t.txt", TWO)
    for paths, message in [
        ((tmp_path / "no.txt", truth), "no.txt: expected a file or a folder, found nothing there"),
        ((tmp_path / "empty", truth), "empty: expected one of A.txt and A.jsonl, the tracks of sequence A, got none"),
        ((tmp_path / "empty", truth.parent), "expected one of A.txt and A.jsonl"),
        ((tracks, tmp_path / "empty"), "empty: expected SEQUENCE/gt/gt.txt or SEQUENCE.txt in the folder, found none"),
        ((tracks, truth.parent), "expected a folder of tracks, because .* is a folder of 1 sequences, got a file"),
    ]:
        with pytest.raises(DataError, match=message):
            evaluate_tracks(*paths)


CELLS = st.one_of(
    st.integers(-3, 12).map(str),
    st.floats(-60, 60).map(str),
    st.sampled_from(["", " 3 ", "nan", "inf", "1e999", "-0", "1_0", "0x1", "٣", '"1"', "9" * 400, "1;2", "\t2"]),
)
LINES = st.lists(CELLS, min_size=0, max_size=11).map(",".join)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(truth=st.lists(LINES, max_size=4), tracks=st.one_of(st.lists(LINES, max_size=4), st.binary(max_size=60)))
def test_any_text_is_measured_or_refused_by_name(truth: list[str], tracks: list[str] | bytes, tmp_path: Path) -> None:
    (tmp_path / "gt.txt").write_text("\n".join([GOOD, *truth]), encoding="utf-8")
    content = tracks if isinstance(tracks, bytes) else "\n".join(tracks).encode()
    (tmp_path / "t.txt").write_bytes(content)
    try:
        got = evaluate_tracks(tmp_path / "t.txt", tmp_path / "gt.txt").combined
    except DataError as error:
        message = str(error)
    else:
        message = ""
        assert 0 <= got.hota <= 1
        assert 0 <= got.idf1 <= 1
        assert got.mota <= 1
    assert not message or message.startswith((f"{tmp_path / 'gt.txt'}", f"{tmp_path / 't.txt'}"))


SIDES = st.tuples(st.integers(0, 4), st.integers(0, 4)).map(lambda at: (30.0 * at[0], 40.0 * at[1], 40.0, 60.0))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.dictionaries(st.tuples(st.integers(1, 5), st.integers(1, 4)), SIDES, min_size=1, max_size=12),
    found=st.dictionaries(st.tuples(st.integers(1, 5), st.integers(1, 4)), SIDES, max_size=12),
)
def test_the_order_of_lines_and_the_names_of_ids_do_not_matter(
    rows: dict[tuple[int, int], tuple[float, ...]], found: dict[tuple[int, int], tuple[float, ...]], tmp_path: Path
) -> None:
    truth = write(tmp_path / "gt.txt", [(*key, *box) for key, box in rows.items()])
    tracks = [(*key, *box) for key, box in found.items()]
    renamed = [(frame, 1000 + 7 * number, *box) for frame, number, *box in sorted(tracks, key=lambda row: row[0])]
    first = evaluate_tracks(write(tmp_path / "a.txt", sorted(tracks)), truth).combined
    second = evaluate_tracks(write(tmp_path / "b.txt", sorted(renamed)), truth).combined
    assert first == second
    perfect = evaluate_tracks(truth, truth).combined
    assert [perfect.hota, perfect.idf1, perfect.mota] == pytest.approx([1, 1, 1], abs=EXACT)


def test_the_verb_prints_and_writes_the_metrics(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = write(tmp_path / "truth" / "A.txt", TWO)
    write(tmp_path / "truth" / "B.txt", TWO)
    tracks = write(tmp_path / "tracks" / "A.txt", TWO[:FRAMES])
    write(tmp_path / "tracks" / "B.txt", TWO)
    result = tmp_path / "result.json"
    assert main(["--tracks", str(tracks), str(truth), "--json", str(result)]) == 0
    printed = capsys.readouterr().out
    assert "MOTA" in printed
    assert "0.5000" in printed
    assert "sequence" not in printed
    values = json.loads(result.read_text())
    assert values["combined"] == values["sequences"]["A"] == evaluate_tracks(tracks, truth).combined.to_dict()
    assert main(["--tracks", str(tracks.parent), str(truth.parent)]) == 0
    printed = capsys.readouterr().out
    assert "0.7500" in printed
    assert "sequence" in printed


def test_the_verb_refuses_what_does_not_belong_to_tracks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(write(tmp_path / "gt.txt", TWO))
    for options in (["--batch", "2"], ["--against", "b.onnx"], ["--tile", "input"], ["--skip-invalid"]):
        with pytest.raises(SystemExit):
            main(["--tracks", path, path, *options])
        assert f"error: {options[0]} does not belong to --tracks" in capsys.readouterr().err
    assert main(["--tracks", path, str(tmp_path / "no.txt")]) == 1
    assert "no.txt: expected a file or a folder" in capsys.readouterr().err
    assert main(["--tracks", path, path, "--json", path]) == 1
    assert "--json" in capsys.readouterr().err


def test_without_the_package_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "gt.txt", TWO)
    monkeypatch.setitem(sys.modules, "trackers.eval", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'retina-edge\[track\]'"):
        api.evaluate_tracks(path, path)
