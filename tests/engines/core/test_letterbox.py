"""Tests of the letterbox for awkward frame sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from engines.core.letterbox import Letterbox, as_bgr

INPUTS = ((416, 736), (320, 320), (64, 1024))
# Sizes that are often handled wrongly: one pixel, lines, odd sides, the input size, 960x540 (retinanet-examples#167).
FRAMES = ((1, 1), (1, 5000), (4000, 1), (719, 1281), (416, 736), (540, 960), (333, 2), (2160, 3840))
# Largest error that is accepted; the error of float32 at 5000 pixels is far smaller.
HALF_PIXEL = 0.5
# Allows for rounding to 8 bits, and for parts of the spot outside the frame. A wrong half-pixel rule would be 0.2 off.
SPOT_TOLERANCE = 0.05


@pytest.mark.parametrize("input_size", INPUTS)
@pytest.mark.parametrize("frame_size", FRAMES)
def test_boxes_round_trip(frame_size: tuple[int, int], input_size: tuple[int, int]) -> None:
    height, width = frame_size
    corners = np.random.default_rng(0).uniform(0, 1, (50, 2, 2)) * (width, height)
    boxes = np.sort(corners, axis=1).reshape(-1, 4).astype(np.float32)
    boxes = np.concatenate([boxes, np.array([[0, 0, width, height]], np.float32)])
    letterbox = Letterbox.fit(frame_size, input_size)
    mapped = letterbox.to_input(boxes)
    assert mapped.dtype == np.float32
    assert np.abs(letterbox.to_frame(mapped) - boxes).max() < HALF_PIXEL
    # The edges of the frame map to the edges of the resized frame, so every box lies inside the resized frame.
    resized_height, resized_width = letterbox.resized
    assert (mapped <= np.array([resized_width, resized_height] * 2) + HALF_PIXEL).all()


@pytest.mark.parametrize("input_size", INPUTS)
@pytest.mark.parametrize("frame_size", FRAMES)
def test_fit_keeps_the_aspect_ratio_and_touches_an_edge(
    frame_size: tuple[int, int], input_size: tuple[int, int]
) -> None:
    resized = Letterbox.fit(frame_size, input_size).resized
    assert all(1 <= side <= limit for side, limit in zip(resized, input_size, strict=True))
    assert any(side == limit for side, limit in zip(resized, input_size, strict=True))
    scale = min(limit / side for side, limit in zip(frame_size, input_size, strict=True))
    for side, original in zip(resized, frame_size, strict=True):
        assert side == 1 or abs(side - original * scale) <= HALF_PIXEL


def test_an_empty_array_of_boxes_is_mapped() -> None:
    letterbox = Letterbox.fit((719, 1281), (416, 736))
    empty = np.zeros((0, 4), np.float32)
    assert letterbox.to_frame(empty).shape == letterbox.to_input(empty).shape == (0, 4)


def test_boxes_are_clipped_to_the_frame() -> None:
    letterbox = Letterbox.fit((100, 200), (416, 736))
    outside = np.array([[-9, -9, 9999, 9999]], np.float32)
    assert letterbox.to_frame(outside).tolist() == [[0, 0, 200, 100]]


@pytest.mark.parametrize("frame_size", [(720, 1280), (719, 1281), (1000, 300), (208, 368)])
def test_a_spot_in_the_frame_lands_at_its_mapped_position(frame_size: tuple[int, int]) -> None:
    # The spot is smooth, because hard edges alias. Its center is in the convention of boxes: pixel i covers i to i + 1.
    height, width = frame_size
    x, y = width / 3, height / 4
    rows, columns = np.mgrid[:height, :width] + 0.5
    spot = 255 * np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 12.0**2))
    frame = np.repeat(spot[:, :, None], 3, axis=2).astype(np.uint8)
    letterbox = Letterbox.fit(frame_size, (416, 736))
    image = np.full((416, 736, 3), 77, np.uint8)
    letterbox.apply(frame, image)
    weights = image[:, :, 0].astype(np.float64)
    rows, columns = np.mgrid[:416, :736] + 0.5
    expected = letterbox.to_input(np.array([[x, y, x, y]], np.float32))[0]
    assert (weights * columns).sum() / weights.sum() == pytest.approx(expected[0], abs=SPOT_TOLERANCE)
    assert (weights * rows).sum() / weights.sum() == pytest.approx(expected[1], abs=SPOT_TOLERANCE)


@pytest.mark.parametrize("frame_size", FRAMES)
def test_padding_is_zero_and_old_content_is_overwritten(frame_size: tuple[int, int]) -> None:
    letterbox = Letterbox.fit(frame_size, (416, 736))
    image = np.full((416, 736, 3), 77, np.uint8)
    letterbox.apply(np.full((*frame_size, 3), 255, np.uint8), image)
    height, width = letterbox.resized
    assert (image[:height, :width] == 255).all()
    assert not image[height:].any()
    assert not image[:, width:].any()


def test_a_frame_of_the_input_size_is_copied_exactly(frames: list[npt.NDArray[np.uint8]]) -> None:
    image = np.empty((416, 416, 3), np.uint8)
    frame = np.ascontiguousarray(np.pad(frames[0], ((0, 16), (0, 16), (0, 0))))
    Letterbox.fit((416, 416), (416, 416)).apply(frame, image)
    assert (image == frame).all()


def test_grayscale_and_alpha_are_accepted() -> None:
    rng = np.random.default_rng(0)
    gray = rng.integers(0, 256, (5, 7), np.uint8)
    assert (as_bgr(gray) == gray[:, :, None]).all()
    assert (as_bgr(gray[:, :, None]) == gray[:, :, None]).all()
    assert as_bgr(gray).shape == (5, 7, 3)
    bgra = rng.integers(0, 256, (5, 7, 4), np.uint8)
    assert (as_bgr(bgra) == bgra[:, :, :3]).all()
    assert (as_bgr(bgra[:, :, :3]) == bgra[:, :, :3]).all()


@pytest.mark.parametrize("frame_size", [(719, 1281), (100, 736)])
def test_bgra_is_letterboxed_as_bgr(frame_size: tuple[int, int]) -> None:
    bgra = np.random.default_rng(0).integers(0, 256, (*frame_size, 4), np.uint8)
    letterbox = Letterbox.fit(frame_size, (416, 736))
    images = np.empty((2, 416, 736, 3), np.uint8)
    letterbox.apply(as_bgr(bgra), images[0])
    letterbox.apply(np.ascontiguousarray(bgra[:, :, :3]), images[1])
    assert (images[0] == images[1]).all()


@pytest.mark.parametrize(
    ("frame", "got"),
    [
        (np.zeros((4, 4, 3), np.float32), "float32"),
        (np.zeros((4, 4, 3), np.uint16), "uint16"),
        (np.zeros((4, 4, 2), np.uint8), r"\[4, 4, 2\]"),
        (np.zeros(4, np.uint8), r"\[4\]"),
        (np.zeros((1, 4, 4, 3), np.uint8), r"\[1, 4, 4, 3\]"),
        (np.zeros((0, 4, 3), np.uint8), r"\[0, 4, 3\]"),
        (None, "NoneType"),
        ([[1, 2], [3, 4]], "list"),
    ],
)
def test_other_values_are_refused_with_their_type_and_shape(frame: Any, got: str) -> None:
    with pytest.raises(ValueError, match=rf"expected a frame.*{got}"):
        as_bgr(frame)
