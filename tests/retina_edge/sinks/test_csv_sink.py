"""The CSV sink: rows that any RFC 4180 reader can read, times, tracks, and names that look like formulas."""

from __future__ import annotations

import csv
import dataclasses
import errno
import os
import re
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest

from engines.core.errors import SinkError
from retina_edge.detections import Detections
from retina_edge.pipeline.result import Result
from retina_edge.sinks.csv_sink import CsvSink
from retina_edge.sinks.text_sink import JsonlSink, TextFileSink
from retina_edge.tracking.tracker import UNTRACKED
from tests.results import result
from tests.retina_edge.sinks.recorder import write_all

HEADER = "stream,source,frame,timestamp,captured,track,name,score,x1,y1,x2,y2".split(",")
CAPTURED, NAME = HEADER.index("captured"), HEADER.index("name")


def read(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file, strict=True))


def result_with_class_name(name: str) -> Result:
    detections = Detections(
        np.array([[1, 2, 3, 4]], np.float32), np.array([0.5], np.float32), np.zeros(1, np.int32), (name,), (1,)
    )
    return dataclasses.replace(result(), detections=detections)


def test_a_row_per_detection_and_no_row_for_an_empty_frame(tmp_path: Path) -> None:
    sink = CsvSink(tmp_path / "new" / "out.csv")
    assert sink.written == ()
    write_all(sink, [result(0, name="v.mp4"), result(1, count=0), result(2, name="v.mp4", count=3)])
    rows = [[*row[:CAPTURED], *row[CAPTURED + 1 :]] for row in read(sink.path)]
    head = [name for name in HEADER if name != "captured"]
    box = ["naïve", "0.75", "1.0", "2.0", "30.12", "40.0"]
    assert rows == [head, ["a", "v.mp4", "0", "0.0", "", *box], *[["a", "v.mp4", "2", "0.08", "", *box]] * 3]
    data = sink.path.read_bytes()
    assert data.endswith(b"\r\n")
    assert data.count(b"\n") == data.count(b"\r\n") == 5
    assert list(sink.written) == [tmp_path / "new" / "out.csv"]


def test_without_detections_only_the_header_is_written(tmp_path: Path) -> None:
    write_all(CsvSink(tmp_path / "out.csv"), [])
    assert read(tmp_path / "out.csv") == [HEADER]
    write_all(CsvSink(tmp_path / "out.csv"), [result(count=0)])
    assert read(tmp_path / "out.csv") == [HEADER]


def test_times_and_tracks_are_written_and_empty_if_unknown(tmp_path: Path) -> None:
    sink = CsvSink(tmp_path / "out.csv")
    before = datetime.now(timezone.utc)
    tracked = dataclasses.replace(result(count=2), tracks=np.array([7, UNTRACKED]))
    image = dataclasses.replace(result(), frame=dataclasses.replace(result().frame, timestamp=None))
    write_all(sink, [tracked, image])
    rows = read(sink.path)[1:]
    assert [row[HEADER.index("track")] for row in rows] == ["7", "", ""]
    assert [row[HEADER.index("timestamp")] for row in rows] == ["0.0", "0.0", ""]
    for row in rows:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", row[CAPTURED])
        moment = datetime.fromisoformat(row[CAPTURED].replace("Z", "+00:00"))
        assert abs(moment - before) < timedelta(seconds=5)


@pytest.mark.parametrize(
    "name", ["=1+1", '=HYPERLINK("http://x","y")', "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", " =1", "＝1"]
)
def test_a_name_that_looks_like_a_formula_gets_an_apostrophe(tmp_path: Path, name: str) -> None:
    write_all(CsvSink(tmp_path / "out.csv"), [result_with_class_name(name)])
    assert read(tmp_path / "out.csv")[1][NAME] == f"'{name}"


@pytest.mark.parametrize("name", ['a "b", c', "two\nlines", "two\r\nlines", "naïve 木", "", "a=b", "'quoted'"])
def test_other_names_are_read_back_unchanged(tmp_path: Path, name: str) -> None:
    write_all(CsvSink(tmp_path / "out.csv"), [result_with_class_name(name), result_with_class_name("next")])
    rows = read(tmp_path / "out.csv")
    assert [row[NAME] for row in rows[1:]] == [name, "next"]
    assert {len(row) for row in rows} == {len(HEADER)}


def test_a_source_name_may_look_like_a_formula_or_not_be_utf_8(tmp_path: Path) -> None:
    write_all(CsvSink(tmp_path / "out.csv"), [result(name="=cmd|x"), result(name=os.fsdecode(b"v\xff.png"))])
    assert [row[1] for row in read(tmp_path / "out.csv")[1:]] == ["'=cmd|x", "v\\udcff.png"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, which Linux has")
@pytest.mark.parametrize("count", [1, 500])  # the error appears at the end, and while writing
def test_the_error_of_a_full_disk_names_the_file(count: int) -> None:
    sink = CsvSink(Path("/dev/full"))
    with pytest.raises(OSError, match="'/dev/full'") as caught:
        write_all(sink, [result()] * count)
    assert caught.value.errno == errno.ENOSPC
    assert sink.written == ()


def test_writing_outside_the_block_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="with block"):
        CsvSink(tmp_path / "out.csv").write(result())


@pytest.mark.parametrize("append", [True, False])
@pytest.mark.parametrize("kind", [CsvSink, JsonlSink])
def test_a_file_that_another_program_writes_is_refused_and_unchanged(
    tmp_path: Path, kind: type[TextFileSink], append: bool
) -> None:
    path = tmp_path / "out"
    with kind(path, append=append) as first:
        first.write(result(count=1))
        before = path.read_bytes()
        assert before
        with pytest.raises(SinkError, match="another process writes this file; end it, or use another name"):
            kind(path, append=append).__enter__()
        assert path.read_bytes() == before
        first.write(result(count=1))
        assert len(path.read_bytes()) > len(before)
    with kind(path, append=append):
        assert (len(path.read_bytes()) > len(before)) is append
