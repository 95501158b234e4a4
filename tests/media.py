"""Images and videos that tests write and read."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from tests.stand_in import patch_frame


def write_patch_image(path: Path, *, size: tuple[int, int] = (64, 96)) -> Path:
    """Write an image of noise with a white patch, of (height, width), in the format of the path's suffix."""
    image = np.random.default_rng(0).integers(0, 100, (*size, 3), np.uint8)
    image[5:25, 5:25] = 255
    assert cv2.imwrite(str(path), image)
    return path


def write_video(
    path: Path, *, count: int, fps: float = 25.0, size: tuple[int, int] = (64, 96), codec: str = "mp4v"
) -> Path:
    """Write a video: frame i has gray level 10 i (at most 190), with a white patch that moves 2 pixels per frame."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), fps, (size[1], size[0]))
    assert writer.isOpened()
    for index in range(count):
        frame = patch_frame(size, (2 * index % (size[1] - 16), 24))
        writer.write(np.maximum(frame, np.uint8(min(190, 10 * index))))
    writer.release()
    return path


def count_frames(path: Path) -> tuple[int, tuple[int, int], float]:
    """Return the number of frames that can be read from a video, their (height, width) and the frame rate."""
    capture = cv2.VideoCapture(str(path))
    assert capture.isOpened()
    fps = capture.get(cv2.CAP_PROP_FPS)
    size = (int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)), int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)))
    count = 0
    while capture.read()[0]:
        count += 1
    capture.release()
    return count, size, fps


def write_timed_video(path: Path, times: Sequence[float], *options: str, size: tuple[int, int] = (32, 48)) -> Path:
    """Write a video with ffmpeg: frame i has gray level 20 + 9 i and is shown from ``times[i]`` on, in seconds.

    Args:
        path: path of the video; its suffix chooses the container.
        times: increasing times, in whole milliseconds.
        options: options of ffmpeg for the output, such as the codec.
        size: (height, width) of the frames, pixels.
    """
    assert len(times) <= 25
    frames = b"".join(np.full((*size, 3), 20 + 9 * index, np.uint8).tobytes() for index in range(len(times)))
    stamps = "+".join(f"eq(N,{index})*{round(1000 * time)}" for index, time in enumerate(times))
    command = ["ffmpeg", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "bgr24", "-s", f"{size[1]}x{size[0]}"]
    command += ["-i", "-", "-vf", f"settb=1/1000,setpts='{stamps}'", "-fps_mode", "passthrough", "-threads", "1"]
    command += ["-enc_time_base", "1:1000", "-pix_fmt", "yuv420p", *options, str(path)]
    subprocess.run(command, check=True, input=frames)
    return path


def probed(path: Path, entries: str) -> list[dict[str, Any]]:
    """Return the streams of a video, or its frames, with the given entries, as ffprobe reports them."""
    command = ["ffprobe", "-loglevel", "error", "-threads", "1", "-select_streams", "v:0", "-of", "json"]
    text = subprocess.run([*command, "-show_entries", entries, str(path)], check=True, capture_output=True).stdout
    section: list[dict[str, Any]] = json.loads(text)[f"{entries.partition('=')[0]}s"]
    return section


def probed_times(path: Path) -> list[float]:
    """Return the times of a video's frames since the first one, in seconds, as ffprobe reports them."""
    times = [float(frame["best_effort_timestamp_time"]) for frame in probed(path, "frame=best_effort_timestamp_time")]
    return [time - times[0] for time in times]
