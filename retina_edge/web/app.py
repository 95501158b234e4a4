"""The API and the page over a running pipeline. No path of a request reaches the file system."""

from __future__ import annotations

import importlib.resources
import json
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Path, Query, Response, WebSocket
from fastapi.responses import HTMLResponse, RedirectResponse
from pydantic import BaseModel, Field

from engines.core.errors import RetinaEdgeError
from retina_edge import __version__
from retina_edge.pipeline.pipeline import Pipeline
from retina_edge.pipeline.stream import StreamStatus
from retina_edge.sinks.outputs import OutputStatus
from retina_edge.web import live_video
from retina_edge.web.access import AccessControl
from retina_edge.web.event_log import EventLog
from retina_edge.web.live_video import MjpegResponse, ViewerLimit
from retina_edge.web.metrics import exposition
from retina_edge.web.preview import Preview

PAGE = ("index.html", "login.html", "page.css", "page.js", "login.js", "icon.svg")
TYPES = {"html": "text/html; charset=utf-8", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
NAME = Path(description="name of a stream", max_length=64)


class Score(BaseModel):
    """What is shown and handed on."""

    score: float = Field(ge=0, lt=1, allow_inf_nan=False, strict=True, description="least score of a box")


class Problem(BaseModel):
    """Why a request is refused."""

    detail: str


def create_app(
    pipeline: Pipeline,
    events: EventLog,
    *,
    token: str | None,
    healthy: Callable[[], bool],
    outputs: Callable[[], list[OutputStatus]] = list,
) -> AccessControl:
    """The application behind its gate.

    Args:
        pipeline: whose streams are shown; it runs in another thread.
        events: what happened last.
        token: asked for on every request; None on loopback.
        healthy: whether the pipeline still runs.
        outputs: what has become of results and events; there are none unless given.
    """
    app = FastAPI(title="retina_edge", version=__version__, docs_url=None, redoc_url=None, openapi_url="/openapi.json")
    files = {name: (importlib.resources.files(__package__) / "page" / name).read_bytes() for name in PAGE}
    previews = {stream.name: Preview(stream) for stream in pipeline.streams}
    places = ViewerLimit(live_video.MAX_VIEWERS)

    def status() -> list[StreamStatus]:
        return [stream.status() for stream in pipeline.streams]

    def preview_of(name: str) -> Preview:
        if name not in previews:
            raise HTTPException(404, f"no stream of this name; there are {', '.join(previews)}")
        return previews[name]

    not_found: dict[int | str, dict[str, Any]] = {404: {"model": Problem}}

    @app.get("/healthz", responses={503: {"model": dict[str, Any]}})
    def healthz(response: Response) -> dict[str, Any]:
        """Whether the pipeline runs, and how many streams give frames."""
        well = healthy()
        response.status_code = 200 if well else 503
        return {"status": "ok" if well else "stopped", "online": pipeline.online, "streams": len(pipeline.streams)}

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    def metrics() -> Response:
        """In Prometheus's text format."""
        return Response(exposition(status, outputs), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/api/streams")
    def streams() -> list[StreamStatus]:
        """State, counts, rate and latency of every stream."""
        return status()

    @app.get("/api/streams/{name}", responses=not_found)
    def stream(name: Annotated[str, NAME]) -> StreamStatus:
        """Of one."""
        return preview_of(name).stream.status()

    @app.get("/api/streams/{name}/detections", responses=not_found)
    def detections(name: Annotated[str, NAME]) -> Response:
        """The newest result: boxes xyxy in frame pixels, times in UTC, ages in seconds."""
        result = preview_of(name).stream.latest
        if result is None:
            raise HTTPException(404, "no frame yet")
        # ASCII, because a file's name need not be UTF-8.
        return Response(json.dumps(result.to_dict()), media_type="application/json")

    @app.get(
        "/api/streams/{name}/frame.jpg",
        response_class=Response,
        responses={200: {"content": {"image/jpeg": {}}}, **not_found},
    )
    def frame(name: Annotated[str, NAME]) -> Response:
        """The newest annotated frame."""
        found = preview_of(name).newest()
        if found is None:
            raise HTTPException(404, "no frame yet")
        return Response(found[1], media_type="image/jpeg")

    @app.get(
        "/api/streams/{name}/stream.mjpg",
        status_code=200,
        response_class=MjpegResponse,
        responses={
            200: {"content": {live_video.MEDIA_TYPE: {}}},
            **not_found,
            503: {"model": Problem},
        },
    )
    def mjpeg(name: Annotated[str, NAME]) -> MjpegResponse:
        """Annotated frames as they come, for players and ``<img>``."""
        return MjpegResponse(preview_of(name), places, healthy)

    @app.get("/api/outputs")
    def output_states() -> list[OutputStatus]:
        """What has become of results and events: files, and receivers elsewhere."""
        return outputs()

    @app.get("/api/events")
    def last_events(limit: Annotated[int, Query(ge=1, le=100)] = 20) -> list[dict[str, Any]]:
        """What happened last, newest first."""
        return events.newest(limit)

    @app.get(
        "/api/events/{number}/thumbnail.jpg",
        response_class=Response,
        responses={200: {"content": {"image/jpeg": {}}}, **not_found},
    )
    def event_thumbnail(number: Annotated[int, Path(ge=0, le=2**53)]) -> Response:
        """What it looked like."""
        content = events.thumbnail(number)
        if content is None:
            raise HTTPException(404, "no such event, or too old")
        return Response(content, media_type="image/jpeg")

    @app.get("/api/score")
    def score() -> Score:
        """The least score that is shown and handed on."""
        return Score(score=pipeline.score)

    @app.put("/api/score", responses={400: {"model": Problem}, 429: {"model": Problem}})
    def set_score(asked: Score) -> Score:
        """Acts on the next result."""
        try:
            pipeline.set_score(asked.score)
        except RetinaEdgeError as error:
            raise HTTPException(400, str(error)) from error
        return Score(score=pipeline.score)

    @app.get("/api", include_in_schema=False)
    def operations() -> HTMLResponse:
        return HTMLResponse(_operations(app.openapi()))

    @app.get("/", include_in_schema=False)
    def page() -> Response:
        return Response(files["index.html"], media_type=TYPES["html"])

    @app.get("/login", include_in_schema=False)
    def login() -> Response:
        if token is None:
            return RedirectResponse("/", 303)
        return Response(files["login.html"], media_type=TYPES["html"])

    for name in ("page.css", "page.js", "login.js", "icon.svg"):
        _serve(app, name, files)

    @app.websocket("/api/watch")
    async def watch(socket: WebSocket) -> None:
        """Pictures of all streams: the stream's number in two bytes, the high one first, then JPEG."""
        await live_video.watch(socket, list(previews.values()), places, healthy)

    return AccessControl(app, token)


def _serve(app: FastAPI, name: str, files: Mapping[str, bytes]) -> None:
    media_type = TYPES[name.rpartition(".")[2]]

    @app.get(f"/{name}", include_in_schema=False)
    def static() -> Response:
        return Response(files[name], media_type=media_type)


def _operations(schema: dict[str, Any]) -> str:
    """The API as a page of its own: those that come with FastAPI load their scripts from elsewhere."""
    rows = [
        f"<tr><td>{method.upper()}</td><td><code>{path}</code></td><td>{operation.get('description', '')}</td></tr>"
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
    ]
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        '<title>retina_edge: API</title><link rel="stylesheet" href="/page.css"><main class="api"><h1>API</h1>'
        '<p>As OpenAPI: <a href="/openapi.json">openapi.json</a></p>'
        f"<table>{''.join(rows)}</table></main></html>"
    )
