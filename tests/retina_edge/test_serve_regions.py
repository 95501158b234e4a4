"""``serve`` and ``detect`` with a file of regions, as users run them."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import httpx
import pytest

from retina_edge.detect import main as detect
from retina_edge.serve import main
from tests.media import write_video
from tests.retina_edge.test_serve import serve

pytestmark = pytest.mark.start_first

AWAY = "yard=rtsp://127.0.0.1:1/none"  # a camera that is offline: regions can be drawn nevertheless
GATE = {"kind": "zone", "name": "gate", "points": [[0, 0], [1, 0], [1, 1], [0, 1]], "dwell": 0.4}


def test_regions_survive_a_restart_of_the_server(tiny_onnx: Path, tmp_path: Path) -> None:
    path = tmp_path / "regions.json"
    with serve(tiny_onnx, AWAY, "--regions", path, "--line", "door=0,0.5 1,0.5") as serving:
        address = f"{serving.url}/api/streams/yard/regions"
        made = httpx.post(address, json=GATE).json()
        assert made["revision"] == 1
        code, errors = serving.end(signal.SIGTERM)
    assert (code, "Traceback" in errors) == (0, False), errors
    with serve(tiny_onnx, AWAY, "--regions", path) as serving:
        address = f"{serving.url}/api/streams/yard/regions"
        answer = httpx.get(address).json()
        assert answer["regions"] == [region for region in made["regions"] if not region["read_only"]]
        assert (answer["revision"], answer["editable"]) == (1, True)
        assert httpx.delete(f"{address}/{made['id']}").json()["regions"] == []
    assert json.loads(path.read_text())["streams"]["yard"]["regions"] == []


def test_detect_counts_by_the_times_of_the_file_and_does_not_change_the_regions(
    tiny_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two runs, of which one takes longer, have the same events; the dwell times are those of the frames."""
    video = write_video(tmp_path / "v.mp4", count=30)
    path = tmp_path / "regions.json"
    stream = {"revision": 1, "width": 96, "height": 64, "regions": [{"id": "a", "revision": 1, **GATE}]}
    content = json.dumps({"format": "retina-edge regions", "version": 1, "streams": {"v": stream}})
    path.write_text(content)
    told = []
    for number, batch in enumerate(("1", "7")):
        lines = tmp_path / f"{number}.jsonl"
        arguments = [tiny_onnx, video, "--regions", path, "--score", "0.06", "--json", lines, "--batch", batch]
        assert detect(list(map(str, arguments))) == 0
        records = [json.loads(line) for line in lines.read_text().splitlines()]
        told.append(
            [
                (record["frame"], event["kind"], event["track"], event["dwell"])
                for record in records
                for event in record["events"]
            ]
        )
        entered = {
            event["track"]: event["timestamp"]
            for record in records
            for event in record["events"]
            if event["kind"] == "entered"
        }
        for record in records:
            for visit in record["visits"]:
                assert visit["seconds"] <= record["timestamp"] - entered[visit["track"]] + 1e-3
            for event in record["events"]:
                if event["kind"] == "dwelled":
                    assert event["dwell"] == pytest.approx(event["timestamp"] - entered[event["track"]], abs=1e-3)
                    assert event["dwell"] >= 0.4
    assert told[0] == told[1]
    assert {kind for _, kind, _, _ in told[0]} >= {"entered", "dwelled"}
    assert "zone gate" in capsys.readouterr().out
    assert path.read_text() == content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "expected JSON in UTF-8, got a damaged file"),
        ('{"images": []}', 'expected JSON with "format": "retina-edge regions", got another file'),
    ],
)
def test_a_damaged_or_foreign_file_is_an_error_of_one_line(
    tiny_onnx: Path, tmp_path: Path, content: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "regions.json"
    path.write_text(content)
    assert main([str(tiny_onnx), AWAY, "--regions", str(path), "--port", "0"]) == 1
    printed = capsys.readouterr().err
    assert f"{path}: {message}" in printed
    assert printed.count("\n") == 1
    assert path.read_text() == content


def test_detect_does_not_make_a_file_of_regions(
    tiny_onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = write_video(tmp_path / "v.mp4", count=3)
    assert detect([str(tiny_onnx), str(video), "--regions", str(tmp_path / "none.json")]) == 1
    assert "none.json" in capsys.readouterr().err
    assert not (tmp_path / "none.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dwell", "0"], "dwell: expected seconds above 0 and at most 86400, got 0"),
        (["--dwell", "nan"], "nan"),
        (["--inertia", "5/3"], "expected M/N with 1 <= M <= N <= 1000, got 5/3"),
        (["--inertia", "3"], "expected M/N, for instance 3/5"),
    ],
)
def test_wrong_limits_are_refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["model.onnx", "0", *arguments])
    assert message in capsys.readouterr().err


def test_the_unit_may_write_the_file_of_regions(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["/m.engine", "0", "--regions", "/data/r/regions.json", "--install-service"]) == 0
    assert "ReadWritePaths=/data/r\n" in capsys.readouterr().out.replace('"', "")
