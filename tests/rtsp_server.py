"""GStreamer's RTSP server on loopback, which serves videos in a loop and runs in a Python that has gi.

    with RtspServer({"/one": video, "/two": other}) as server:
        VideoSource(server.url("/one"))

Run as a script, this file is the server itself, so it imports nothing of the project.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from functools import cache
from pathlib import Path

HOST = "127.0.0.1"
# Debian's own Python has the bindings of GStreamer; a virtual environment rarely has them.
PYTHONS = (sys.executable, "/usr/bin/python3")
NEEDS = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
START_SECONDS = 20.0


@cache
def python_with_gi() -> str | None:
    """Return a Python that has GStreamer's RTSP server, or None."""
    for python in PYTHONS:
        if shutil.which(python) and subprocess.run([python, "-c", NEEDS], capture_output=True).returncode == 0:
            return python
    return None


def why_not() -> str:
    """Return the reason why no server can run on this machine; empty if a server can run."""
    if python_with_gi() is None:
        return "GStreamer's RTSP server is missing: sudo apt-get install python3-gi gir1.2-gst-rtsp-server-1.0"
    if shutil.which("ffmpeg") is None:
        return "ffmpeg, which encodes the videos, is missing: sudo apt-get install ffmpeg"
    return ""


def free_port() -> int:
    """Return a TCP port of loopback that nothing listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def write_flight(image: Path, path: Path, *, size: tuple[int, int], seconds: float = 2, fps: int = 25) -> Path:
    """Write a flight over an image as an H.264 video of (height, width) pixels, and return its path."""
    height, width = size
    # The image is decoded once and repeated as a frame.
    filters = f"loop=-1:1,setpts=N/{fps}/TB,crop={width}:{height}:x='mod(200*t,iw-{width})':y='(ih-{height})/2'"
    command = ["-i", str(image), "-vf", f"{filters},format=yuv420p", "-r", str(fps), "-t", str(seconds)]
    _ffmpeg(*command, "-c:v", "libx264", "-preset", "ultrafast", str(path))
    return path


def split(video: Path, folder: Path, *, fps: int) -> None:
    """Encode a video as H.264 into one file for each frame, with two key frames per second and without reordering."""
    command = ["-i", str(video), "-r", str(fps), "-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency"]
    _ffmpeg(
        *command,
        "-pix_fmt",
        "yuv420p",
        "-g",
        str(max(1, fps // 2)),
        "-x264-params",
        "sliced-threads=0",
        "-f",
        "image2",
        str(folder / "%05d.h264"),
    )


def _ffmpeg(*arguments: str) -> None:
    subprocess.run(["ffmpeg", "-y", "-nostdin", "-loglevel", "error", "-threads", "1", *arguments], check=True)


class RtspServer:
    """The server's process. It can be restarted with ``kill`` and ``start``; the port stays the same.

    Args:
        mounts: for each mount point, such as ``/live``, a video of any format and size.
        port: port to listen on; 0 for a free one.
        user: user name that every client must give; empty for access without a login.
        password: password that every client must give.
        fps: frames per second that are sent.
    """

    def __init__(
        self, mounts: Mapping[str, Path], *, port: int = 0, user: str = "", password: str = "", fps: int = 25
    ) -> None:
        self.port = port or free_port()
        self._arguments = [f"--port={self.port}", f"--fps={fps}", f"--user={user}", f"--password={password}"]
        self._folder = tempfile.TemporaryDirectory()
        for number, (mount, video) in enumerate(mounts.items()):
            folder = Path(self._folder.name, str(number))
            folder.mkdir()
            split(video, folder, fps=fps)
            self._arguments.append(f"{mount}={folder}")
        self._login = f"{user}:{password}@" if user else ""
        self._process: subprocess.Popen[str] | None = None

    def url(self, mount: str, *, login: str | None = None) -> str:
        """Return the URL of a mount point; ``login`` replaces the correct ``user:password@``."""
        return f"rtsp://{self._login if login is None else login}{HOST}:{self.port}{mount}"

    def start(self) -> None:
        """Start the process, and return when it listens."""
        python = python_with_gi()
        assert python is not None, why_not()
        assert self._process is None, "the server already runs"
        self._process = process = subprocess.Popen(
            [python, str(Path(__file__).resolve()), *self._arguments],
            stdin=subprocess.PIPE,  # the server ends when this pipe is closed, so also if this process dies
            stdout=subprocess.PIPE,
            text=True,
        )
        watchdog = threading.Timer(START_SECONDS, process.kill)
        watchdog.start()
        assert process.stdout is not None
        ready = process.stdout.readline()
        watchdog.cancel()
        watchdog.join()
        if ready != "ready\n":
            self.kill()
            raise RuntimeError(f"the RTSP server does not listen on {self.port}: {ready!r}")

    def kill(self) -> None:
        """Kill the process, as a power cut would."""
        if (process := self._process) is None:
            return
        self._process = None
        process.kill()
        with process:
            process.wait()

    def send(self, number: int) -> None:
        """Send a signal to the process, for instance SIGSTOP to make it hang with open connections."""
        assert self._process is not None
        os.kill(self._process.pid, number)

    def __enter__(self) -> RtspServer:
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill the process and delete its files."""
        self.kill()
        self._folder.cleanup()


def main() -> int:
    """Run the server until stdin is closed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--fps", type=int, default=25)
    parser.add_argument("--user", default="")
    parser.add_argument("--password", default="")
    parser.add_argument("mounts", nargs="+", metavar="/MOUNT=FOLDER")
    args = parser.parse_args()

    import gi

    gi.require_version("Gst", "1.0")
    gi.require_version("GstRtspServer", "1.0")
    from gi.repository import GLib, Gst, GstRtspServer

    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address(HOST)
    server.set_service(str(args.port))
    permissions = GstRtspServer.RTSPPermissions()
    if args.user:
        auth, token = GstRtspServer.RTSPAuth(), GstRtspServer.RTSPToken()
        token.set_string("media.factory.role", "user")
        auth.add_basic(GstRtspServer.RTSPAuth.make_basic(args.user, args.password), token)
        server.set_auth(auth)
        for allowed in ("media.factory.access", "media.factory.construct"):
            permissions.add_permission_for_role("user", allowed, True)

    def feed(_factory: object, media: GstRtspServer.RTSPMedia, frames: list[bytes]) -> None:
        """Feed the frames to a client's pipeline in a loop, with timestamps that keep increasing."""
        duration, numbers = Gst.SECOND // args.fps, itertools.count()

        def push(source: Gst.Element, _size: int) -> None:
            number = next(numbers)
            buffer = Gst.Buffer.new_wrapped(frames[number % len(frames)])
            buffer.pts = buffer.dts = number * duration
            buffer.duration = duration
            source.emit("push-buffer", buffer)

        media.get_element().get_by_name("source").connect("need-data", push)

    for text in args.mounts:
        mount, _, folder = text.partition("=")
        factory = GstRtspServer.RTSPMediaFactory()
        caps = f"video/x-h264,stream-format=byte-stream,alignment=au,framerate={args.fps}/1"
        factory.set_launch(
            f'( appsrc name=source format=time max-bytes=1 caps="{caps}" ! h264parse '
            "! video/x-h264,alignment=au ! rtph264pay name=pay0 pt=96 config-interval=-1 )"
        )
        factory.connect("media-configure", feed, [path.read_bytes() for path in sorted(Path(folder).iterdir())])
        factory.set_shared(True)
        if args.user:
            factory.set_permissions(permissions)
        server.get_mount_points().add_factory(mount, factory)
    if not server.attach(None):
        return 1
    loop = GLib.MainLoop()
    GLib.io_add_watch(sys.stdin.fileno(), GLib.PRIORITY_DEFAULT, GLib.IOCondition.HUP, lambda *_: loop.quit())
    print("ready", flush=True)
    loop.run()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
