"""The motion of the camera, against motions that the test made, and pictures that show none."""

from __future__ import annotations

import time

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from retina_edge.tracking.camera_motion import MAX_SIDE, CameraMotion
from tests.retina_edge.tracking.moving_camera import HEIGHT, WIDTH, ground, view

NO_BOXES = np.empty((0, 4), np.float32)
STILL = np.eye(2, 3)
# Pixels by which the motion of a corner of the frame may be wrong. Optical flow is exact to about a tenth of a pixel,
# in a picture whose sides are up to a third of the frame's.
CLOSE, CLOSE_LARGE = 0.3, 1.0


def moved(image: npt.NDArray[np.uint8], motion: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    """Return the image after a motion of its points."""
    height, width = image.shape[:2]
    return np.asarray(cv2.warpAffine(image, motion, (width, height), borderMode=cv2.BORDER_REFLECT), np.uint8)


def error(estimated: npt.NDArray[np.float64], true: npt.NDArray[np.float64], height: int, width: int) -> float:
    """Return the largest distance between the places where the motions take the corners of the frame, pixels."""
    corners = np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1]], float)
    return float(np.linalg.norm(corners @ (estimated - true).T, axis=1).max())


@pytest.mark.parametrize(
    ("angle", "scale", "dx", "dy"), [(0, 1, 30, -12), (2, 1, 5, 5), (0, 1.05, 0, 0), (-1, 0.97, 9, 4)]
)
def test_the_motion_is_found(angle: float, scale: float, dx: float, dy: float) -> None:
    about_center = cv2.getRotationMatrix2D((WIDTH / 2, HEIGHT / 2), angle, scale)
    true = np.asarray(about_center, np.float64) + np.array([[0, 0, dx], [0, 0, dy]])
    image = view(ground(), 500, 400)
    motion = CameraMotion()
    assert np.array_equal(motion.estimate(image, NO_BOXES), STILL)
    assert error(motion.estimate(moved(image, true), NO_BOXES), true, HEIGHT, WIDTH) < CLOSE


def test_a_large_frame_is_measured_in_a_small_picture() -> None:
    scene = ground(height=2400, width=4800)
    motion = CameraMotion()
    motion.estimate(scene[100:2260, 100:3940], NO_BOXES)
    assert motion._gray is not None
    assert max(motion._gray.shape) == MAX_SIDE
    true = np.array([[1, 0, -90], [0, 1, 60]], float)
    estimated = motion.estimate(scene[40:2200, 190:4030], NO_BOXES)
    assert error(estimated, true, 2160, 3840) < CLOSE_LARGE * 3840 / MAX_SIDE


def test_gray_frames_and_color_frames_give_the_same_motion() -> None:
    frames = [view(ground(), x, 400) for x in (500, 520)]
    grays = [np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), np.uint8) for frame in frames]
    of_color, of_gray, of_channel = CameraMotion(), CameraMotion(), CameraMotion()
    for frame, gray in zip(frames, grays, strict=True):
        expected = of_color.estimate(frame, NO_BOXES)
        assert np.array_equal(of_gray.estimate(gray, NO_BOXES), expected)
        assert np.array_equal(of_channel.estimate(gray[..., None], NO_BOXES), expected)
    assert error(expected, np.array([[1, 0, -20], [0, 1, 0]], float), HEIGHT, WIDTH) < CLOSE


@pytest.mark.parametrize("channels", [(), (3,)])
def test_frames_are_neither_kept_nor_changed(channels: tuple[int, ...]) -> None:
    """The pool writes the next frame into the same memory."""
    scene = ground()[..., 0] if not channels else ground()
    memory = scene[400 : 400 + HEIGHT, 500 : 500 + WIDTH].copy()
    motion, before = CameraMotion(), memory.copy()
    motion.estimate(memory, NO_BOXES)
    assert np.array_equal(memory, before)
    memory[:] = scene[400 : 400 + HEIGHT, 515 : 515 + WIDTH]
    estimated = motion.estimate(memory, NO_BOXES)
    assert error(estimated, np.array([[1, 0, -15], [0, 1, 0]], float), HEIGHT, WIDTH) < CLOSE


def test_frames_without_texture_have_no_motion() -> None:
    motion = CameraMotion()
    for value in (0, 0, 128, 255, 255):
        assert np.array_equal(motion.estimate(np.full((HEIGHT, WIDTH, 3), value, np.uint8), NO_BOXES), STILL)


def test_a_cut_to_another_scene_is_no_motion() -> None:
    motion = CameraMotion()
    motion.estimate(view(ground(seed=0), 500, 400), NO_BOXES)
    assert np.array_equal(motion.estimate(view(ground(seed=9), 500, 400), NO_BOXES), STILL)


def test_a_change_of_size_is_no_motion() -> None:
    motion, image = CameraMotion(), view(ground(), 500, 400)
    motion.estimate(image, NO_BOXES)
    half = np.asarray(cv2.resize(image, (WIDTH // 2, HEIGHT // 2)), np.uint8)
    assert np.array_equal(motion.estimate(half, NO_BOXES), STILL)
    assert np.array_equal(motion.estimate(view(ground(), 520, 400), NO_BOXES), STILL)
    estimated = motion.estimate(view(ground(), 540, 400), NO_BOXES)
    assert error(estimated, np.array([[1, 0, -20], [0, 1, 0]], float), HEIGHT, WIDTH) < CLOSE


def test_parts_of_the_frame_that_move_apart_are_no_motion() -> None:
    """Three strips, such as three trains, move at three speeds. None of them is half of the frame."""
    motion = CameraMotion()
    for step in range(2):
        strips = [
            view(ground(), 700 + speed * step, 400)[top : top + 120]
            for top, speed in zip((0, 120, 240), (-12, 9, 25), strict=True)
        ]
        assert np.array_equal(motion.estimate(np.concatenate(strips), NO_BOXES), STILL)


def test_a_few_points_are_no_motion() -> None:
    """Three lamps in the night: too few corners to tell a moving camera from moving lamps."""
    motion = CameraMotion()
    for step in range(2):
        image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        for x, y in ((60, 60), (560, 100), (300, 300)):
            cv2.circle(image, (x + 8 * step, y), 4, (255, 255, 255), cv2.FILLED)
        assert np.array_equal(motion.estimate(image, NO_BOXES), STILL)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (1, 4000), (4000, 1), (8, 8)])
def test_frames_of_a_few_pixels_have_no_motion(size: tuple[int, int]) -> None:
    rng, motion = np.random.default_rng(0), CameraMotion()
    for _ in range(3):
        image = rng.integers(0, 256, (*size, 3), np.uint8)
        assert np.array_equal(motion.estimate(image, np.array([[0, 0, 9e9, 9e9], [-5, -5, 1, 1]])), STILL)


@pytest.mark.parametrize("known", [True, False])
def test_an_object_before_a_blank_wall_is_no_motion_of_the_camera(known: bool) -> None:
    """Only the object has corners. It does not speak for the camera, whether or not it was detected."""
    texture, motion = ground()[:160, :120], CameraMotion()
    for i in range(4):
        image, x = np.full((HEIGHT, WIDTH, 3), 200, np.uint8), 100 + 12 * i
        image[100:260, x : x + 120] = texture
        boxes = np.array([[x - 4, 96, x + 124, 264]], float) if known else NO_BOXES
        assert np.array_equal(motion.estimate(image, boxes), STILL)


def test_large_objects_that_are_detected_do_not_count() -> None:
    """Objects with more corners than the background move to the right, and the camera stands still."""
    scene, texture, motion = view(ground(), 500, 400), ground(seed=5)[:300, :300], CameraMotion()
    scene[:, :] = cv2.GaussianBlur(scene, (0, 0), 3)  # weaker corners than those of the object
    for i in range(4):
        image, x = scene.copy(), 100 + 10 * i
        image[30:330, x : x + 300] = texture
        estimated = motion.estimate(image, np.array([[x - 4, 26, x + 304, 334]], float))
        assert error(estimated, STILL, HEIGHT, WIDTH) < CLOSE


def test_objects_that_cover_the_frame_are_the_background() -> None:
    """Trees that cover the ground under a drone show its motion."""
    boxes = np.array([[x, y, x + 80, y + 90] for x in range(0, WIDTH, 80) for y in range(0, HEIGHT, 90)], float)
    motion = CameraMotion()
    motion.estimate(view(ground(), 500, 400), boxes)
    estimated = motion.estimate(view(ground(), 518, 406), boxes)
    assert error(estimated, np.array([[1, 0, -18], [0, 1, -6]], float), HEIGHT, WIDTH) < CLOSE


@pytest.mark.timed
def test_a_frame_of_1080p_takes_less_than_a_thirtieth_of_a_second() -> None:
    scene = ground()
    motion, seconds = CameraMotion(), []
    for i in range(20):
        frame = scene[20 : 20 + 1080, 10 * i : 10 * i + 1920].copy()
        start = time.process_time()
        motion.estimate(frame, NO_BOXES)
        seconds.append(time.process_time() - start)
    assert np.median(seconds) < 1 / 30
