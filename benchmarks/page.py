"""A screenshot of the page of ``serve``: the sample model on two RTSP cameras, beside a third one that is offline.

python -m benchmarks.page

Requires Chromium and its driver, ffmpeg, GStreamer's RTSP server (tests/rtsp_server.py names the packages) and
selenium.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import httpx
import numpy as np
import numpy.typing as npt
from selenium.webdriver import Chrome
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

from retina_edge.assets import FOREST, MODEL
from retina_edge.imaging.image_file import read_image
from retina_edge.sources.flight import FPS, Flight
from tests.rtsp_server import RtspServer, free_port

PICTURE = Path(__file__).parents[1] / "docs" / "pictures" / "page.jpg"
DESKTOP, PHONE = (1280, 1080), (390, 1080)
# First frame of each camera's video, so that the cameras show different parts of the forest.
STARTS = {"north": 0, "south": 300}
FRAMES = 250
SECONDS = 60.0


def main(argv: Sequence[str] | None = None) -> int:
    argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0]).parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        videos = {f"/{stream}": _write_video(folder / f"{stream}.mp4", start) for stream, start in STARTS.items()}
        with RtspServer(videos, fps=6) as server:
            arguments = [f"{stream}={server.url(f'/{stream}')}" for stream in STARTS]
            arguments += [
                f"gate=rtsp://127.0.0.1:{free_port()}/gate",
                "--zone",
                "north:clearing=0.3,0.25 0.7,0.25 0.7,0.75 0.3,0.75",
            ]
            arguments += ["--line", "south:path=0.5,0 0.5,1", "--anchor", "center"]
            _take_picture(arguments, folder)
    return 0


def _write_video(path: Path, start: int) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), FPS, (736, 416))
    for frame in Flight(read_image(FOREST), frames=2 * FRAMES + 100):
        if start <= frame.index < start + FRAMES:
            writer.write(frame.image)
    writer.release()
    return path


def _take_picture(arguments: Sequence[str], folder: Path) -> None:
    """Run ``serve`` and write one picture that shows its page on a desktop and on a phone."""
    port = free_port()
    command = [sys.executable, "-m", "retina_edge", "serve", str(MODEL), *arguments, "--port", str(port)]
    process = subprocess.Popen(command)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_for_events(url)
        screens = [_screenshot(url, size, folder / f"{size[0]}.png") for size in (DESKTOP, PHONE)]
    finally:
        process.terminate()
        process.wait(30)
    gap = np.full((DESKTOP[1], 24, 3), 255, np.uint8)
    if not cv2.imwrite(str(PICTURE), np.hstack([screens[0], gap, screens[1]]), [cv2.IMWRITE_JPEG_QUALITY, 88]):
        raise OSError(f"{PICTURE}: cannot be written")


def _wait_for_events(url: str) -> None:
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        try:
            if len(httpx.get(f"{url}/api/events").json()) >= 8:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
    raise TimeoutError(f"{url}: expected eight events within {SECONDS:g} s")


def _screenshot(url: str, size: tuple[int, int], path: Path) -> npt.NDArray[np.uint8]:
    options = Options()
    options.binary_location = shutil.which("chromium") or ""
    for argument in ("--headless=new", "--no-sandbox", f"--window-size={size[0]},{size[1]}"):
        options.add_argument(argument)
    metrics = {"width": size[0], "height": size[1], "pixelRatio": 1, "mobile": size == PHONE}
    options.add_experimental_option("mobileEmulation", {"deviceMetrics": metrics})
    browser = Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        browser.get(url)
        time.sleep(6)  # until the page shows rates and latencies of the last seconds
        browser.save_screenshot(str(path))
    finally:
        browser.quit()
    return read_image(path)


if __name__ == "__main__":
    raise SystemExit(main())
