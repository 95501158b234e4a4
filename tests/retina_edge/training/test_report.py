"""The report of a run: one page that loads nothing, says what the metrics say, and survives hostile names."""

from __future__ import annotations

import csv
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from retina_edge import api
from retina_edge.assets import CHECKPOINT, MODEL
from retina_edge.data.dataset import DetectionDataset
from retina_edge.data.load import load_dataset
from retina_edge.detections import Detections
from retina_edge.detector import Detector
from retina_edge.evaluation.coco_metrics import detect_all, evaluate_detections, precision_curves
from retina_edge.model.checkpoint import Checkpoint, load_checkpoint
from retina_edge.train import main
from retina_edge.training.report import PICTURE_BYTES, PICTURES, read_log, worst_images, write_report
from retina_edge.training.training_log import COLUMNS, MAX_PICTURED, TrainingLog
from tests.retina_edge.evaluation.test_error_picture import dataset_of, found, labeled
from tests.training_command import SMALL, training_data

pytestmark = pytest.mark.start_first

VOID = ("meta", "img", "br", "link")
SECTIONS = [
    "Curves",
    "Precision and recall",
    "Outcome of the objects",
    "Images with the most errors",
    "Objects and anchors",
    "Options",
]


class Page(HTMLParser):
    """Collects what a page consists of, and checks that its elements are nested properly."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert not [name for name, _ in attrs if name.startswith("on")]
        self.addresses += [
            value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "data", "action")
        ]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and data.strip():
            self.texts.setdefault(self.open[-1], []).append(data.strip())


def checked(path: Path) -> Page:
    """Return the page in a file, after checking what every report must be."""
    text = path.read_text(encoding="utf-8")
    assert len(text) < 3_000_000
    page = Page(text)
    assert page.texts["h2"] == SECTIONS
    assert all(address.startswith(("data:image/jpeg;base64,", "#")) for address in page.addresses)
    assert {address[1:] for address in page.addresses if address.startswith("#")} <= set(page.ids)
    assert set(re.findall(r"url\(#([^)]*)\)", text)) <= set(page.ids)
    assert len(set(page.ids)) == len(page.ids)
    assert not {"script", "link", "iframe", "object", "form"} & set(page.tags)
    assert "url(http" not in text
    assert "@import" not in text
    return page


@pytest.fixture(scope="module")
def trees(treecrowns: Path) -> DetectionDataset:
    return load_dataset(treecrowns / "val.json", None)


@pytest.fixture(scope="module")
def detected(trees: DetectionDataset) -> list[Detections]:
    with Detector.load(MODEL) as detector:
        return detect_all(detector, trees)


@pytest.fixture(scope="module")
def sample() -> Checkpoint:
    return load_checkpoint(CHECKPOINT)


def write_log(path: Path, *rows: dict[str, Any]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def test_a_report_says_what_the_metrics_say(
    trees: DetectionDataset, detected: list[Detections], sample: Checkpoint, tmp_path: Path
) -> None:
    output = tmp_path / "model.pt"
    write_log(
        tmp_path / "model.csv",
        {"epoch": 1, "step": 7, "learning_rate": 0.01, "classification": 0.9, "bbox_regression": 0.5},
        {"epoch": 2, "step": 14, "learning_rate": 0.0, "classification": 0.4, "bbox_regression": 0.2, "AP": 0.2},
    )
    path = write_report(output, sample, trees, trees, detected)
    assert path == tmp_path / "model.report.html"
    page = checked(path)
    metrics = evaluate_detections(detected, trees).metrics
    assert page.texts["title"] == page.texts["h1"] == ["Training of model.pt"]
    assert page.texts["b"][:2] == [f"{metrics['AP']:.3f}", f"{metrics['AP50']:.3f}"]
    assert page.texts["b"][-1] == "14"
    cells = page.texts["td"]
    for name, value in metrics.items():
        assert cells[cells.index(name) + 1] == f"{value:.3f}"
    assert "296" in cells
    assert page.tags.count("svg") == 5
    assert page.tags.count("img") == PICTURES
    for address in page.addresses:
        assert len(address) < PICTURE_BYTES
    first = path.read_bytes()
    write_report(output, sample, trees, trees, detected)
    assert path.read_bytes() == first  # the same run gives the same bytes


def test_the_precision_of_a_class_has_its_ap50_as_mean(
    trees: DetectionDataset, detected: list[Detections], tmp_path: Path
) -> None:
    curves = precision_curves(detected, trees)
    assert np.mean(curves["tree"]) == pytest.approx(evaluate_detections(detected, trees).metrics["AP50"], abs=1e-12)
    # By hand: of two objects, one is found by the best box, and the other one by the third. Precision is 1 up to a
    # recall of 0.5, which are the recalls 0, 0.01 ... 0.5, and 2/3 above.
    image = labeled(tmp_path / "a.png", [[0, 0, 40, 40], [100, 100, 140, 140]], [0, 0])
    data = dataset_of(image)
    boxes = found(data.class_names, ([0, 0, 40, 40], 0, 0.9), ([50, 0, 90, 40], 0, 0.8), ([100, 100, 140, 140], 0, 0.7))
    assert precision_curves([boxes], data) == {"tree": pytest.approx([1.0] * 51 + [2 / 3] * 50)}


HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "&lt;b&gt;",
    "$\\frac{",
    "\x1b[2J\x00",
    "名前",
    "a" * 3000,
    "_hidden",
    "</td></table>",
)


def test_hostile_names_of_classes_and_images_stay_text(sample: Checkpoint, tmp_path: Path) -> None:
    boxes = [[20.0 * n, 20.0, 20.0 * n + 15, 60.0] for n in range(len(HOSTILE))]
    names = ('<img src=x onerror="alert(1)">.png', "it's & so.png")
    images = [labeled(tmp_path / name.replace("/", "_"), boxes, list(range(len(HOSTILE)))) for name in names]
    data = dataset_of(*images, names=HOSTILE)
    rows = [(box, label, 0.9) for label, box in enumerate(boxes)]
    wrong = [(box, (label + 1) % len(HOSTILE), 0.8) for label, box in enumerate(boxes)]
    output = tmp_path / "<b>m.pt"
    recipe = {
        "model": {"x": HOSTILE[0]},
        "augment": {},
        "options": {},
        "choices": [{"option": HOSTILE[1], "value": HOSTILE[2], "reason": HOSTILE[8]}],
    }
    hostile = Checkpoint(sample.contract, sample.config, {}, recipe=recipe)
    path = write_report(output, hostile, data, data, [found(HOSTILE, *rows), found(HOSTILE, *wrong)])
    page = checked(path)
    cells = page.texts["td"]
    for name in HOSTILE[:4]:
        assert name in cells
    assert "a" * 500 + "…" in cells
    assert r"\x1b[2J\x00" in cells
    assert page.texts["h1"] == ["Training of <b>m.pt"]
    assert "b" not in page.tags[: page.tags.index("ul")]
    assert any("it's & so.png" in text for text in page.texts["figcaption"])
    assert "taken for" in page.texts["th"]  # as every object of the second image is


def test_a_run_without_any_detection_has_a_report(trees: DetectionDataset, sample: Checkpoint, tmp_path: Path) -> None:
    nothing = [Detections.empty(["tree"], [1])] * len(trees)
    page = checked(write_report(tmp_path / "m.pt", sample, trees, trees, nothing))
    assert page.texts["b"][:4] == ["0.000", "0.000", "0 of 296", "0"]
    assert "There is no log of this run." in page.texts["p"]
    assert page.tags.count("img") == PICTURES


def test_a_run_without_an_error_and_without_an_evaluation_in_its_log_has_a_report(
    sample: Checkpoint, tmp_path: Path
) -> None:
    image = labeled(tmp_path / "a.png", [[0, 0, 40, 40]], [0])
    data = dataset_of(image)
    write_log(tmp_path / "m.csv", {"epoch": 1, "step": "", "learning_rate": "what?"})
    page = checked(
        write_report(tmp_path / "m.pt", sample, data, data, [found(data.class_names, ([0, 0, 40, 40], 0, 0.9))])
    )
    assert "There are no errors." in page.texts["p"]
    assert page.texts["b"] == ["1.000", "1.000", "1 of 1", "0"]
    log = read_log(tmp_path / "m.csv")
    assert log["epoch"] == [1.0]
    assert math.isnan(log["learning_rate"][0])


def test_a_log_of_very_many_epochs_gives_a_small_page(
    trees: DetectionDataset, sample: Checkpoint, tmp_path: Path
) -> None:
    numbers = np.random.default_rng(0).random((20_000, 3))
    write_log(
        tmp_path / "m.csv",
        *({"epoch": n, "classification": a, "bbox_regression": b, "AP": c} for n, (a, b, c) in enumerate(numbers, 1)),
    )
    path = write_report(tmp_path / "m.pt", sample, trees, trees, [Detections.empty(["tree"], [1])] * len(trees))
    checked(path)
    write_log(tmp_path / "m.csv", {"epoch": 1, "classification": 1, "bbox_regression": 1, "AP": 0})
    short = path.stat().st_size
    write_report(tmp_path / "m.pt", sample, trees, trees, [Detections.empty(["tree"], [1])] * len(trees))
    assert short - path.stat().st_size < 150_000


def test_the_images_with_the_most_errors_come_first(tmp_path: Path) -> None:
    objects = [[[0.0, 0.0, 40.0, 40.0]], [], [[0.0, 0.0, 40.0, 40.0], [50.0, 50.0, 90.0, 90.0]]]
    images = [labeled(tmp_path / f"{n}.png", boxes, [0] * len(boxes)) for n, boxes in enumerate(objects)]
    data = dataset_of(*images, names=("tree",))
    alarms = [([100.0 + 30 * n, 100.0, 120.0 + 30 * n, 120.0], 0, 0.9) for n in range(3)]
    detections = [
        found(("tree",), ([0, 0, 40, 40], 0, 0.9)),
        found(("tree",), *alarms),
        Detections.empty(["tree"], [1]),
    ]
    worst = worst_images(detections, data, 16)
    assert [(image.name, image.missed, image.false_alarms) for image in worst] == [("1.png", 0, 3), ("2.png", 2, 0)]
    picture = cv2.imdecode(np.frombuffer(worst[0].jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    assert picture.shape == (200, 300, 3)


def test_a_run_ends_with_a_report_that_can_be_made_again(
    tiny_coco: Path, treecrowns: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, output = treecrowns / "images", tmp_path / "m.pt"
    command = [*training_data(tiny_coco, treecrowns, output), *SMALL, "--epochs", "2"]
    report = tmp_path / "m.report.html"
    assert main(command) == 0
    assert f", {report}" in capsys.readouterr().err
    checked(report)
    first = report.read_bytes()
    report.unlink()
    data = api.TrainingData(tiny_coco, images, tiny_coco, images)
    assert api.write_training_report(output, data, device="cpu") == report
    assert report.read_bytes() == first
    report.unlink()
    assert main([*command, "--resume"]) == 0
    assert report.read_bytes() == first
    # A new run keeps the report of the last one.
    assert main(command) == 0
    assert (tmp_path / "m.previous.report.html").read_bytes() == first


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            OSError(28, "No space left on device", "m.report.html"),
            "warning: the report of the run could not be written",
        ),
        (ImportError("No module named 'matplotlib'"), "the run has no report, which needs matplotlib"),
    ],
)
def test_a_report_that_cannot_be_written_does_not_fail_the_run(
    tiny_coco: Path,
    treecrowns: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    message: str,
) -> None:
    def fail(*_: object) -> Path:
        raise error

    monkeypatch.setattr("retina_edge.training.report.write_report", fail)
    assert main([*training_data(tiny_coco, treecrowns, tmp_path / "m.pt"), *SMALL, "--epochs", "2"]) == 0
    printed = capsys.readouterr().err
    assert message in printed
    assert (tmp_path / "m.pt").is_file()
    assert "m.report.html," not in printed


def test_tensorboard_gets_pictures_of_the_same_images_at_each_evaluation(
    tiny_coco: Path, treecrowns: Path, tmp_path: Path
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    command = [*training_data(tiny_coco, treecrowns, tmp_path / "m.pt"), *SMALL, "--epochs", "2"]
    assert main(command) == 0
    events = EventAccumulator(str(tmp_path / "m.tensorboard"))
    events.Reload()
    assert events.Tags()["images"] == [f"validation/{number}" for number in range(1, 5)]
    for number in range(1, 5):
        pictures = events.Images(f"validation/{number}")
        assert [picture.step for picture in pictures] == [2, 4]
        for picture in pictures:
            decoded = cv2.imdecode(np.frombuffer(picture.encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
            assert decoded is not None
            assert decoded.shape == (picture.height, picture.width, 3)
            assert max(decoded.shape) <= 512
            assert picture.encoded_image_string[:2] == b"\xff\xd8"  # JPEG
    assert "AP" in events.Tags()["scalars"]


def test_tensorboard_keeps_what_was_written_before_resuming_and_hides_the_rest(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    losses = {"classification": 1.0, "bbox_regression": 0.5, "images_per_second": 3.0}
    for first, last in ((0, 4), (2, 3), (3, 3)):  # interrupted after its state of step 2, resumed; resumed at the end
        log = TrainingLog(tmp_path / "m.pt", first)
        for step in range(first + 1, last + 1):
            log.write(step, step, 0.1 * (first + 1), losses, None)
        log.close()
    events = EventAccumulator(str(tmp_path / "m.tensorboard"))
    events.Reload()
    found = [(event.step, round(event.value, 3)) for event in events.Scalars("learning_rate")]
    assert found == [(1, 0.1), (2, 0.1), (3, 0.3)]


def test_a_run_with_many_evaluations_writes_a_limited_number_of_pictures(tmp_path: Path) -> None:
    log = TrainingLog(tmp_path / "m.pt", 0)
    written = 0
    for number in range(1, 1001):
        if log.wants_pictures(number / 1000):
            log.add_pictures({"a": np.zeros((8, 8, 3), np.uint8)}, number, number / 1000)
            written += 1
    log.close()
    assert MAX_PICTURED / 2 < written <= MAX_PICTURED + 1
