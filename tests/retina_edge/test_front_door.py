"""Tests of the inputs that a detector takes, and of the uses of its detections."""

from __future__ import annotations

import builtins
import io
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import pytest

from engines.core.errors import SourceError
from retina_edge import Detection, Detections, Detector, GpuFrame, TiledDetector
from retina_edge.assets import CHECKPOINT, MODEL
from retina_edge.detections import DEFAULT_SCORE
from retina_edge.imaging.frame_input import to_frames
from retina_edge.imaging.image_file import write_image
from tests.engines.core.gpu_arrays import Interface
from tests.stand_in import StandIn, contract, detector, patch_frame

NAMES, IDS = ("tree", "car"), (1, 90)


def detections(**changes: Any) -> Detections:
    values: dict[str, Any] = {
        "boxes": np.array([[10, 20, 30, 60], [50, 20, 90.5, 60], [0, 0, 4, 4]], np.float32),
        "scores": np.array([0.9, 0.6, 0.25], np.float32),
        "labels": np.array([1, 0, 1], np.int32),
        "class_names": NAMES,
        "category_ids": IDS,
    }
    return Detections(**{**values, **changes})


def color_frame() -> Any:
    """A frame whose channels differ, so that exchanged channels show."""
    frame = np.random.default_rng(0).integers(0, 180, (64, 96, 3), np.uint8)
    frame[:, :, 2] //= 4
    frame[10:30, 20:40] = 255
    return frame


class Recorder(StandIn):
    """Keeps the images that it was given."""

    def infer(self, images: Any) -> Any:
        self.images = images.copy()
        return super().infer(images)


# Images


@pytest.mark.parametrize("kind", ["str", "Path", "PIL", "PIL palette", "PIL with EXIF rotation"])
def test_files_and_pil_images_give_the_same_input_as_a_bgr_array(kind: str, tmp_path: Path) -> None:
    frame = color_frame()
    rgb = np.ascontiguousarray(frame[:, :, ::-1])
    path = tmp_path / "image.png"
    PIL.Image.fromarray(rgb).save(path)
    image: Any = {"str": str(path), "Path": path, "PIL": PIL.Image.fromarray(rgb)}.get(kind)
    if kind == "PIL palette":
        image = PIL.Image.fromarray(frame[:, :, 0]).convert("P")
        frame = np.repeat(frame[:, :, :1], 3, axis=2)
    elif kind == "PIL with EXIF rotation":
        exif = PIL.Image.Exif()
        exif[0x0112] = 6  # shown rotated by 90 degrees clockwise
        content = io.BytesIO()
        PIL.Image.fromarray(np.ascontiguousarray(np.rot90(rgb))).save(content, "PNG", exif=exif)
        image = PIL.Image.open(content)
    expected, given = Recorder(contract()), Recorder(contract())
    Detector(expected)(frame)
    found = Detector(given)(image)
    assert np.array_equal(given.images, expected.images)
    assert found.frame is not None
    assert np.array_equal(found.frame, frame)


def test_an_array_stays_with_its_caller() -> None:
    assert detector()(color_frame()).frame is None


def test_a_converted_array_belongs_to_the_detections() -> None:
    bgr = color_frame()
    gray, bgra = bgr[:, :, 0], np.dstack([bgr, bgr[:, :, :1]])
    for image, expected in ((gray, np.dstack([gray] * 3)), (gray[:, :, None], np.dstack([gray] * 3)), (bgra, bgr)):
        given = image.copy()
        found = detector()(given)
        given[:] = 0
        assert found.frame is not None
        assert np.array_equal(found.frame, expected)
        assert found.plot().shape == bgr.shape


@pytest.mark.parametrize("form", ["stack", "list", "tuple", "generator"])
def test_a_stack_is_a_list_of_frames(form: str) -> None:
    frames = [patch_frame((64, 96), (8 * n, 8)) for n in range(3)]
    given: Any = {"stack": np.stack(frames), "list": frames, "tuple": tuple(frames)}.get(form, (f for f in frames))
    found = detector()(given)
    assert isinstance(found, list)
    assert [round(float(item.boxes[0, 0])) for item in found] == [0, 8, 16]


def test_a_list_may_mix_kinds(tmp_path: Path) -> None:
    frame = color_frame()
    path = tmp_path / "a.png"
    cv2.imwrite(str(path), frame)
    found = detector()([frame, path, str(path), PIL.Image.fromarray(frame[:, :, ::-1].copy())])
    assert {tuple(item.boxes[0]) for item in found} == {tuple(found[0].boxes[0])}
    assert [item.frame is None for item in found] == [True, False, False, False]


def test_an_empty_list_and_an_empty_stack_give_an_empty_list() -> None:
    empty: list[Any] = [[], np.zeros((0, 64, 96, 3), np.uint8)]
    assert [detector()(images) for images in empty] == [[], []]


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (None, "NoneType"),
        (7, "int"),
        (b"jpeg", "bytes"),
        ({"image": 1}, "dict"),
        (memoryview(b"jpeg"), "memoryview [4]; decode the bytes with cv2.imdecode"),
        (io.BytesIO(b"jpeg"), "BytesIO; pass the path of the file, or PIL.Image.open(file)"),
        (np.zeros((4, 4, 3), np.float32), "float32 [4, 4, 3]; scale the values to 0..255"),
        ([np.zeros((4, 4, 3), np.float32)], "float32 [4, 4, 3] at [0]; scale the values to 0..255"),
        (
            np.zeros((4, 4, 3), np.uint16),
            "uint16 [4, 4, 3]; if the values use all 16 bits, convert it with (array >> 8)",
        ),
        (np.zeros((4, 4), bool), "bool [4, 4]; convert it with 255 * array.astype(np.uint8)"),
        (np.zeros((0, 0, 3), np.uint8), "uint8 [0, 0, 3]"),
        (PIL.Image.new("RGB", (0, 0)), "uint8 [0, 0, 3]"),
        (PIL.Image.new("F", (4, 4)), "PIL image of mode F, whose values have no fixed range; scale"),
        ([PIL.Image.new("I", (4, 4))], "PIL image of mode I at [0], whose values have no fixed range; scale"),
        (PIL.Image.new("La", (4, 4)), "PIL image of mode La, which Pillow cannot convert to RGB"),
        (np.zeros((4, 4, 2), np.uint8), "uint8 [4, 4, 2]"),
        (np.zeros((2, 3, 8, 8), np.uint8), "uint8 [3, 8, 8] at [0]"),
        ([np.zeros((4, 4, 3), np.uint8), None], "NoneType at [1]"),
        ([[1, 2], [3, 4]], "list at [0]"),
    ],
)
def test_anything_else_gets_one_error_that_says_what_is_taken(given: Any, named: str) -> None:
    with pytest.raises(ValueError, match="expected an image: uint8") as caught:
        detector()(given)
    message = str(caught.value)
    assert named in message
    for kind in ("path", "PIL", "stack", "list"):
        assert kind in message
    assert "\n" not in message


@pytest.mark.parametrize("dtype", [object, "S3"])
def test_a_dtype_without_pixels_gets_no_advice_to_scale(dtype: Any) -> None:
    with pytest.raises(ValueError, match=r"got (object|\|S3) \[4, 4\]$"):
        detector()(np.zeros((4, 4), dtype))


class Tensor:
    """Looks like a tensor of torch."""

    def __init__(self, *shape: int) -> None:
        self.shape = shape

    def __iter__(self) -> Any:
        return iter(np.zeros(self.shape, np.float32))

    def numpy(self) -> Any:
        raise NotImplementedError


@pytest.mark.parametrize("shape", [(4, 4, 3), (0,)])
def test_a_tensor_is_refused_as_a_whole(shape: tuple[int, ...]) -> None:
    cases: list[tuple[Any, str]] = [(Tensor(*shape), ""), ([Tensor(*shape)], " at [0]")]
    for images, position in cases:
        with pytest.raises(ValueError, match="expected an image") as caught:
            detector()(images)
        assert f"got Tensor {list(shape)}{position}; pass tensor.cpu().numpy()" in str(caught.value)


def test_an_array_on_a_gpu_needs_the_order_of_its_colors() -> None:
    array: Any = Interface(np.zeros((4, 6, 3), np.uint8))
    for images, position in ((array, ""), ([array], " at [0]")):
        with pytest.raises(ValueError, match="a GpuFrame") as caught:
            detector()(images)
        advice = "say the order of its colors: GpuFrame(array, color='rgb'), or GpuFrame.nv12 (from retina_edge)"
        assert f"got Interface{position}; {advice}" in str(caught.value)


def test_a_model_on_the_cpu_refuses_a_frame_on_a_gpu_by_name() -> None:
    frame: Any = GpuFrame(Interface(np.zeros((4, 6, 3), np.uint8)), color="rgb")
    for model, library in ((MODEL, "ONNX Runtime"), (CHECKPOINT, "torch")):
        with Detector.load(model, device="cpu") as one:
            for images in (frame, [frame, frame], [np.zeros((4, 6, 3), np.uint8), frame]):
                with pytest.raises(ValueError, match=f"{library} gets its images from the CPU, got GpuFrame"):
                    one(images)
            with pytest.raises(ValueError, match=f"{library} gets its images from the CPU"):
                TiledDetector(one)(frame)


def test_sixteen_bits_are_read_alike_from_a_file_and_by_pillow(tmp_path: Path) -> None:
    path = tmp_path / "deep.png"
    deep = np.random.default_rng(0).integers(0, 1 << 16, (64, 96), np.uint16)
    cv2.imwrite(str(path), deep)
    expected = np.dstack([deep >> 8] * 3)
    for image in (path, PIL.Image.open(path), PIL.Image.fromarray(deep)):
        frame = detector()(image).frame
        assert frame is not None
        assert np.array_equal(frame, expected)


def test_a_truncated_pil_image_is_a_source_error(tmp_path: Path) -> None:
    path = tmp_path / "cut.png"
    PIL.Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    message = r"cut\.png at \[0\]: cannot be read \(.*truncated.*\); copy or download"
    with PIL.Image.open(path) as image, pytest.raises(SourceError, match=message):
        detector()([image])


def test_a_url_is_no_image_and_its_password_is_not_shown() -> None:
    with pytest.raises(SourceError, match=r"^https://\*\*\*@x/y\.jpg: expected the path of an image file, got a URL"):
        detector()("https://me:secret@x/y.jpg")


def test_an_iterator_may_reuse_its_buffer() -> None:
    def frames() -> Any:
        buffer = np.zeros((64, 96, 3), np.uint8)
        for n in range(3):
            buffer[:] = patch_frame((64, 96), (8 * n, 8))
            yield buffer

    assert [round(item[0].box[0]) for item in detector()(frames())] == [0, 8, 16]


def test_the_images_of_a_list_are_not_copied() -> None:
    frame = color_frame()
    assert to_frames([frame]).frames[0] is frame


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"nowhere\.jpg"):
        detector()([tmp_path / "nowhere.jpg"])


def test_without_pillow_arrays_and_paths_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real = builtins.__import__

    def without_pillow(name: str, *args: Any, **options: Any) -> Any:
        if name.partition(".")[0] == "PIL":
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without_pillow)
    cv2.imwrite(str(tmp_path / "a.png"), color_frame())
    assert len(detector()([color_frame(), tmp_path / "a.png"])) == 2


# Scores


def test_a_score_in_the_call_keeps_better_detections_only() -> None:
    frame = patch_frame((64, 96), (8, 8))
    assert len(detector()(frame, score=0.5)) == 1
    assert len(detector()(frame, score=0.95)) == 0
    assert [len(item) for item in detector()([frame, frame], score=0.95)] == [0, 0]
    running = detector()
    assert len(running.result(running.submit(frame, score=0.95))) == 0


@pytest.mark.parametrize("score", [0.01, -1.0, 1.0, float("nan"), True, "0.4"])
def test_a_score_that_the_model_cannot_give_is_refused(score: Any) -> None:
    with pytest.raises(ValueError, match=r"score: expected 0\.05 <= score < 1") as caught:
        detector()(patch_frame((64, 96), (8, 8)), score=score)
    assert (score == 0.01) == ("drops scores of 0.05 and less" in str(caught.value))


def test_calls_and_streams_have_the_same_default_score(tmp_path: Path) -> None:
    write_image(tmp_path / "patch.png", patch_frame((64, 96), (8, 8)))
    for score, expected in ((0.39, 0), (0.41, 1)):
        running = detector(score=score)
        assert len(running(tmp_path / "patch.png")) == expected
        assert len(running.result(running.submit(tmp_path / "patch.png"))) == expected
        assert [len(found) for _, found in running.stream(tmp_path / "patch.png")] == [expected]
        assert len(running(tmp_path / "patch.png", score=running.score_threshold)) == 1
    assert detector().default_score == DEFAULT_SCORE == 0.4
    assert Detector(StandIn(contract(score_threshold=0.6))).default_score == 0.6


def test_the_threshold_of_the_model_is_a_possible_score() -> None:
    assert len(detector()(patch_frame((64, 96), (8, 8)), score=0.05)) == 1


# Detections


def test_iteration_gives_plain_rows() -> None:
    rows = list(detections())
    assert rows[1] == Detection((50.0, 20.0, 90.5, 60.0), pytest.approx(0.6), 0, "tree")  # type: ignore[arg-type]
    assert [row.name for row in rows] == ["car", "tree", "car"]
    assert all(type(value) is float for row in rows for value in (*row.box, row.score))
    assert list(detections()[:0]) == []


@pytest.mark.parametrize("index", [0, 2, -1, np.int64(1)])
def test_a_number_gives_one_detection(index: int) -> None:
    assert detections()[index] == list(detections())[index]


def test_a_number_beyond_the_end_is_an_index_error() -> None:
    with pytest.raises(IndexError):
        detections()[3]


@pytest.mark.parametrize("rows", [[True, False, True], [0, 2], np.array([True, False, True]), slice(None, None, 2)])
def test_masks_lists_and_slices_give_detections(rows: Any) -> None:
    chosen = detections(frame=np.zeros((64, 96, 3), np.uint8))[rows]
    assert isinstance(chosen, Detections)
    assert chosen.names == ["car", "car"]
    assert chosen.frame is not None


@pytest.mark.parametrize("index", [np.array(1), np.array(1, np.uint8)])
def test_an_array_of_one_number_gives_one_detection(index: Any) -> None:
    assert detections()[index] == detections()[1]


@pytest.mark.parametrize(
    ("rows", "error", "got"),
    [
        (np.where([True, False, True]), TypeError, "int64 [1, 2]; for the result of np.where, use np.flatnonzero"),
        (np.zeros((1, 1), int), TypeError, "int64 [1, 1]"),
        (True, TypeError, "True"),
        (1.0, TypeError, "1.0"),
        (None, TypeError, "None"),
        ("a", TypeError, "'a'"),
        ([0.5, 1.5], TypeError, "float64 [2]"),
        ([[0], [1, 2]], TypeError, "list"),
        (np.zeros(0, bool), IndexError, "a mask of 0"),
        ([True, False], IndexError, "a mask of 2"),
    ],
)
def test_other_indices_are_refused_with_what_is_taken(rows: Any, error: type[Exception], got: str) -> None:
    with pytest.raises(error) as caught:
        detections()[rows]
    assert str(caught.value) == (
        f"expected a row number, a slice, a mask (bool [3]) or several row numbers (int [K]), got {got}"
    )


@pytest.mark.parametrize("rows", [[], (), np.zeros(0), np.zeros(0, int)])
def test_no_rows_give_no_detections(rows: Any) -> None:
    assert len(detections()[rows]) == 0


def test_repr_is_one_short_line() -> None:
    assert repr(detections()) == "Detections(3: 2 car, 1 tree; best 0.90)"
    assert repr(detections()[:0]) == "Detections(0)"
    many = Detections(
        np.zeros((9, 4), np.float32),
        np.full(9, 0.5, np.float32),
        np.arange(9, dtype=np.int32),
        tuple("abcdefghi"),
        tuple(range(9)),
    )
    assert repr(many) == "Detections(9: 1 a, 1 b, 1 c, 1 d, 1 e, 4 other; best 0.50)"


def test_area_and_xywh() -> None:
    assert detections().xywh.tolist() == [[10, 20, 20, 40], [50, 20, 40.5, 40], [0, 0, 4, 4]]
    assert detections().area.tolist() == [800, 1620, 16]
    assert detections()[:0].area.shape == (0,)


def test_coco_results_with_an_id_of_numpy_are_plain_values() -> None:
    assert json.loads(json.dumps(detections().to_coco(np.int64(7))))[0]["image_id"] == 7


def test_json_has_plain_values() -> None:
    assert json.loads(detections()[:1].to_json()) == {
        "detections": [{"box": [10.0, 20.0, 30.0, 60.0], "score": 0.9, "label": 1, "name": "car"}]
    }


def test_plot_draws_into_a_copy() -> None:
    frame = np.zeros((100, 100, 3), np.uint8)
    annotated = detections().plot(frame)
    assert not frame.any()
    assert annotated.shape == frame.shape
    for x1, y1, x2, y2 in detections().boxes[:2].astype(int):
        assert annotated[(y1 + y2) // 2, x1].any(), "the left side of the box"
        assert annotated[y2, (x1 + x2) // 2].any(), "the lower side of the box"
    assert not annotated[80:, 20:40].any(), "nothing outside the boxes"
    assert np.array_equal(detections(frame=frame).plot(), annotated)
    read_only = frame.copy()
    read_only.flags.writeable = False
    assert np.array_equal(detections().plot(read_only[:, ::-1]), annotated)


def test_plot_converts_what_the_detector_converts() -> None:
    gray = np.full((100, 100), 90, np.uint8)
    bgra = np.dstack([gray] * 3 + [np.full_like(gray, 255)])
    expected = detections().plot(np.dstack([gray] * 3))
    for frame in (gray, gray[:, :, None], bgra):
        assert np.array_equal(detections().plot(frame), expected)
    assert (bgra == [90, 90, 90, 255]).all()
    with pytest.raises(ValueError, match=r"expected a frame as OpenCV delivers it.*got float32 .*scale"):
        detections().plot(np.zeros((100, 100, 3), np.float32))


def test_plot_without_a_frame_asks_for_one() -> None:
    with pytest.raises(ValueError, match=r"plot\(frame\)"):
        detections().plot()


def test_a_notebook_shows_the_annotated_frame_if_it_is_known() -> None:
    frame = np.zeros((100, 100, 3), np.uint8)
    png = detections(frame=frame)._repr_png_()
    assert png is not None
    decoded: Any = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    assert np.array_equal(decoded, detections().plot(frame))
    assert detections()._repr_png_() is None


# Detector


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (MODEL, "Detector(treecrowns.onnx: fp32, input 416x736, 1 class (tree), cpu)"),
        (CHECKPOINT, "Detector(treecrowns.pt: fp32, input 416x736, 1 class (tree), cpu)"),
    ],
)
def test_repr_says_model_input_classes_and_device(path: Path, expected: str) -> None:
    with Detector.load(path, device="cpu") as loaded:
        assert repr(loaded) == expected


def test_repr_shortens_many_classes() -> None:
    many = Detector(StandIn(contract(classes=("a", "b", "c", "d"))))
    assert repr(many) == "Detector(fp32, input 64x96, 4 classes (a, b, c, ...))"
