"""The scripts of ``examples/``: each is short and does what its first lines say."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import cv2
import numpy as np
import pytest

from retina_edge.assets import FOREST, MODEL
from retina_edge.imaging.image_file import read_image

EXAMPLES = Path(__file__).parents[1] / "examples"
FRAMES = 4


@pytest.fixture
def flight(tmp_path: Path) -> Path:
    """A video of a short flight over the sample forest, moving left so that trees cross the middle to the right."""
    forest = read_image(FOREST)
    path = tmp_path / "flight.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (400, 400))
    for index in range(FRAMES):
        writer.write(forest[100:500, 100 - 20 * index : 500 - 20 * index])
    writer.release()
    return path


def run(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: object) -> None:
    """Run an example in this process, as ``python examples/name`` would."""
    script = str(EXAMPLES / name)
    monkeypatch.setattr("sys.argv", [script, *map(str, arguments)])
    runpy.run_path(script, run_name="__main__")


def test_every_example_is_tested_and_shorter_than_40_lines() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    scripts = list(EXAMPLES.glob("*.py"))
    assert len(scripts) >= 5
    for path in scripts:
        assert f'"{path.name}"' in source, path
        assert len(path.read_text(encoding="utf-8").splitlines()) < 40, path


def test_images(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, treecrowns: Path
) -> None:
    paths = sorted((treecrowns / "images").iterdir())[:2]
    run(monkeypatch, "images.py", MODEL, *paths, "--output", tmp_path / "out")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Detector(treecrowns.onnx: fp32, input 416x736, 1 class (tree), cpu)"
    assert sum(line.startswith("  tree 0.") for line in lines) == 6
    for path in paths:
        annotated, image = read_image(tmp_path / "out" / path.name), read_image(path)
        assert annotated.shape == image.shape
        assert np.abs(annotated.astype(int) - image).mean() > 1, "boxes are drawn"


def test_images_are_not_overwritten(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(FOREST.read_bytes())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        run(monkeypatch, "images.py", MODEL, "photo.jpg", "--output", ".")
    assert "--output: expected another folder than that of photo.jpg" in capsys.readouterr().err
    assert photo.read_bytes() == FOREST.read_bytes()


def test_video_callback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flight: Path) -> None:
    run(monkeypatch, "video_callback.py", MODEL, flight, "--at-least", 1)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0].strip() for line in lines] == ["0.00 s", "0.10 s", "0.20 s", "0.30 s"]
    run(monkeypatch, "video_callback.py", MODEL, flight, "--at-least", 1000)
    assert capsys.readouterr().out == ""


def test_counting_cameras(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], flight: Path) -> None:
    run(monkeypatch, "counting_cameras.py", MODEL, f"front={flight}", f"yard={flight}", "--line", "gate=0.5,0 0.5,1")
    *events, front, yard = capsys.readouterr().out.splitlines()
    counts = {}
    for line in (front, yard):
        stream, _, text = line.partition(": ")
        counts[stream] = json.loads(text.replace("'", '"'))
    assert set(counts) == {"front", "yard"}
    assert counts["front"] == counts["yard"]
    assert set(counts["front"]) == {"in", "out"}
    assert 2 * sum(counts["front"].values()) == sum("crossed gate" in event for event in events) > 0


@pytest.mark.parametrize("annotated", [True, False])
def test_folder_to_coco(
    annotated: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    tiny_coco: Path,
    treecrowns: Path,
) -> None:
    content = json.loads(tiny_coco.read_text(encoding="utf-8"))
    images = tmp_path / "images"
    images.mkdir()
    for image in content["images"]:
        (images / image["file_name"]).write_bytes((treecrowns / "images" / image["file_name"]).read_bytes())
    output = tmp_path / "results.json"
    run(monkeypatch, "folder_to_coco.py", MODEL, images, output, *(["--annotations", tiny_coco] if annotated else []))
    results = json.loads(output.read_text(encoding="utf-8"))
    ids = {image["id"] for image in content["images"]} if annotated else {1, 2, 3, 4}
    assert {row["image_id"] for row in results} == ids
    assert {row["category_id"] for row in results} == {content["categories"][0]["id"]}
    assert f"{len(results)} detections in 4 images" in capsys.readouterr().out


def test_folder_to_coco_takes_every_image_suffix_and_refuses_an_empty_folder(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    images, output = tmp_path / "images", tmp_path / "results.json"
    images.mkdir()
    with pytest.raises(SystemExit):
        run(monkeypatch, "folder_to_coco.py", MODEL, images, output)
    assert "expected images in" in capsys.readouterr().err
    for name in ("a.jpeg", "B.JPG", "notes.txt"):
        (images / name).write_bytes(FOREST.read_bytes())
    run(monkeypatch, "folder_to_coco.py", MODEL, images, output)
    assert "detections in 2 images" in capsys.readouterr().out


def test_custom_sink(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, flight: Path) -> None:
    run(monkeypatch, "custom_sink.py", MODEL, f"yard={flight}", "--output", tmp_path / "crops")
    crops = sorted((tmp_path / "crops").iterdir())
    assert {path.name.split("-")[1] for path in crops} == {f"{index:06}" for index in range(FRAMES)}
    assert crops[0].name == "yard-000000-000-tree.jpg"
    assert min(read_image(crops[0]).shape[:2]) > 10
