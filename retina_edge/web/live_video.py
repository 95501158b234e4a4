"""Moving pictures for those who watch: MJPEG over HTTP for players, JPEG over a WebSocket for the page."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from fastapi import Response, WebSocket, WebSocketDisconnect
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.types import Receive, Scope, Send

from retina_edge.pipeline.result import Result
from retina_edge.web.preview import Preview

# Pictures a second that a watcher gets of each stream at most; watchers at a time.
FRAMES_PER_SECOND, MAX_VIEWERS = 15.0, 16
# Seconds that a watcher has to take a picture: who does not is gone, or holds a place that others want.
SEND_SECONDS = 10.0
BOUNDARY = "frame"
MEDIA_TYPE = f"multipart/x-mixed-replace; boundary={BOUNDARY}"


class ViewerLimit:
    """For so many watchers. Taken and given back in the event loop's thread alone, so that none is taken twice."""

    def __init__(self, count: int) -> None:
        self.free = count

    @contextmanager
    def taken(self) -> Iterator[bool]:
        """Whether there was one; given back at the end."""
        got = self.free > 0
        self.free -= got
        try:
            yield got
        finally:
            self.free += got


class MjpegResponse(Response):
    """Pictures of a stream as they come, until the watcher goes; 503 where there is no place left.

    Args:
        preview: of the stream.
        places: of all watchers.
        healthy: whether more pictures come.
    """

    media_type = MEDIA_TYPE

    def __init__(self, preview: Preview, places: ViewerLimit, healthy: Callable[[], bool]) -> None:
        super().__init__(media_type=MEDIA_TYPE)
        del self.headers["content-length"]
        self._preview, self._places, self._healthy = preview, places, healthy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._places.taken() as got:
            if not got:
                full = {"detail": f"as many watch as can ({MAX_VIEWERS})"}
                await JSONResponse(full, 503)(scope, receive, send)
                return
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            gone = asyncio.ensure_future(_disconnect(receive))
            shown: Result | None = None
            try:
                while self._healthy() and not gone.done():
                    found = await run_in_threadpool(self._preview.newest)
                    if found is not None and found[0] is not shown:
                        shown = found[0]
                        head = f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(found[1])}\r\n\r\n"
                        body = head.encode() + found[1] + b"\r\n"
                        message = {"type": "http.response.body", "body": body, "more_body": True}
                        await asyncio.wait_for(send(message), SEND_SECONDS)
                    await asyncio.sleep(1 / FRAMES_PER_SECOND)
                await asyncio.wait_for(send({"type": "http.response.body", "body": b""}), SEND_SECONDS)
            except (TimeoutError, asyncio.TimeoutError, OSError):  # two classes before Python 3.11
                pass
            finally:
                gone.cancel()


async def watch(
    socket: WebSocket, previews: Sequence[Preview], places: ViewerLimit, healthy: Callable[[], bool]
) -> None:
    """Newest pictures of all streams: the stream's number in two bytes, the high one first, then JPEG.

    A slow watcher gets fewer, not later ones; one for whom there is no place is told to come again later.
    """
    await socket.accept()
    with places.taken() as got:
        if not got:
            await socket.close(1013)
            return
        gone = asyncio.ensure_future(socket.receive())
        shown: dict[int, Result] = {}
        try:
            while healthy() and not gone.done():
                for number, preview in enumerate(previews):
                    found = await run_in_threadpool(preview.newest)
                    if found is not None and found[0] is not shown.get(number):
                        shown[number] = found[0]
                        await asyncio.wait_for(socket.send_bytes(number.to_bytes(2, "big") + found[1]), SEND_SECONDS)
                await asyncio.sleep(1 / FRAMES_PER_SECOND)
        except (WebSocketDisconnect, RuntimeError, TimeoutError, asyncio.TimeoutError):
            pass  # gone in the middle of a picture, or too slow to take one
        finally:
            gone.cancel()


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
