"""Live video for viewers: MJPEG over HTTP for players, JPEG over a WebSocket for the page.

The server disconnects viewers that do not read (``retina_edge.web.connections``), so that others can connect.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from fastapi import Response, WebSocket, WebSocketDisconnect
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from retina_edge.pipeline.result import Result
from retina_edge.tracking.region_file import StreamRegions
from retina_edge.web.preview import Preview

# Largest number of frames per second that a viewer receives of each stream, and of viewers at once.
FRAMES_PER_SECOND, MAX_VIEWERS = 15.0, 16
BOUNDARY = "frame"
MEDIA_TYPE = f"multipart/x-mixed-replace; boundary={BOUNDARY}"


class ViewerLimit:
    """A limit on the number of viewers. It needs no lock, because only the thread of the event loop uses it.

    Args:
        count: largest number of viewers at once.
    """

    def __init__(self, count: int) -> None:
        self.free = count

    @contextmanager
    def taken(self) -> Iterator[bool]:
        """Reserve a place for a viewer within the block. Yield False if no place was free."""
        admitted = self.free > 0
        self.free -= admitted
        try:
            yield admitted
        finally:
            self.free += admitted


class MjpegResponse(Response):
    """A response with the annotated frames of a stream as they arrive, or status 503 if there are too many viewers.

    Args:
        preview: preview of the stream.
        viewers: limit on the number of viewers.
        healthy: function that returns True while the pipeline runs.
    """

    media_type = MEDIA_TYPE

    def __init__(self, preview: Preview, viewers: ViewerLimit, healthy: Callable[[], bool]) -> None:
        super().__init__(media_type=MEDIA_TYPE, headers={"x-accel-buffering": "no"})  # nginx would delay frames
        del self.headers["content-length"]
        self._preview, self._viewers, self._healthy = preview, viewers, healthy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._viewers.taken() as admitted:
            if not admitted:
                full = {"detail": f"the limit of {MAX_VIEWERS} viewers is reached; try again later"}
                await JSONResponse(full, 503)(scope, receive, send)
                return
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            disconnected = asyncio.ensure_future(_disconnect(receive))
            shown: Result | None = None
            try:
                while self._healthy() and not disconnected.done():
                    newest = await run_in_threadpool(self._preview.newest)
                    if newest is not None and newest[0] is not shown:
                        shown = newest[0]
                        head = f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(newest[1])}\r\n\r\n"
                        body = head.encode() + newest[1] + b"\r\n"
                        message = {"type": "http.response.body", "body": body, "more_body": True}
                        await send(message)
                    await asyncio.sleep(1 / FRAMES_PER_SECOND)
                await send({"type": "http.response.body", "body": b""})
            except OSError:
                pass  # the viewer disconnected during a frame
            finally:
                disconnected.cancel()


async def watch(
    socket: WebSocket,
    previews: Sequence[Preview],
    viewers: ViewerLimit,
    healthy: Callable[[], bool],
    regions: Callable[[str], StreamRegions],
) -> None:
    """Send the newest frames of all streams, and tell which streams have other regions.

    A frame is the number of the stream in two bytes, big-endian, then the JPEG. When the regions of a stream have
    changed since the viewer connected, it gets a text: ``{"regions": {"stream": NAME, "revision": N}}``.

    A slow viewer gets fewer frames, but no delayed ones. If the limit on viewers is reached, the socket is closed with
    code 1013 (try again later).
    """
    await socket.accept()
    with viewers.taken() as admitted:
        if not admitted:
            await socket.close(1013)
            return
        disconnected = asyncio.ensure_future(socket.receive())
        shown: dict[int, Result] = {}
        told = [regions(preview.stream.name).revision for preview in previews]
        try:
            while healthy() and not disconnected.done():
                for number, preview in enumerate(previews):
                    name = preview.stream.name
                    if (revision := regions(name).revision) != told[number]:
                        told[number] = revision
                        await socket.send_json({"regions": {"stream": name, "revision": revision}})
                    newest = await run_in_threadpool(preview.newest)
                    if newest is not None and newest[0] is not shown.get(number):
                        shown[number] = newest[0]
                        await socket.send_bytes(number.to_bytes(2, "big") + newest[1])
                await asyncio.sleep(1 / FRAMES_PER_SECOND)
        except (WebSocketDisconnect, RuntimeError):
            pass  # the viewer disconnected during a frame
        finally:
            disconnected.cancel()


async def _disconnect(receive: Receive) -> None:
    """Wait until the client disconnects."""
    while (await receive())["type"] != "http.disconnect":
        pass
