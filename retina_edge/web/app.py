"""The web application of a pipeline: API, page and metrics. Of requests, only names of clips reach the disk."""

from __future__ import annotations

import html
import importlib.resources
import json
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Request, Response, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from pydantic import BaseModel, Field

from engines.core.errors import RetinaEdgeError
from retina_edge import __version__
from retina_edge.pipeline.pipeline import Pipeline
from retina_edge.pipeline.stream import Stream, StreamStatus
from retina_edge.sinks.outputs import OutputStatus
from retina_edge.tracking.region_store import RegionStore
from retina_edge.web import live_video
from retina_edge.web import snapshot as snapshots
from retina_edge.web.access import AccessControl
from retina_edge.web.clip_routes import add_clip_routes
from retina_edge.web.event_log import EventLog
from retina_edge.web.event_routes import add_event_routes
from retina_edge.web.live_video import MjpegResponse, ViewerLimit
from retina_edge.web.metrics import exposition
from retina_edge.web.preview import Preview
from retina_edge.web.regions_api import NAME, Problem, add_region_routes

# The page: the files of the folder of this name.
PAGE = importlib.resources.files(__package__) / "page"
TYPES = {"html": "text/html; charset=utf-8", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
# An entry of the Attributes section of a docstring: the names of one field or of several, and their description.
_ATTRIBUTE = re.compile(r"^    ([\w, ]+): (.+(?:\n {8}.+)*)", re.MULTILINE)


class Score(BaseModel):
    """The score threshold of the streams."""

    score: float = Field(ge=0, lt=1, allow_inf_nan=False, strict=True, description="minimum score of a detection")


def create_app(
    pipeline: Pipeline,
    events: EventLog,
    *,
    token: str | None,
    healthy: Callable[[], bool],
    outputs: Callable[[], list[OutputStatus]] = list,
    clips: pathlib.Path | None = None,
    regions: RegionStore | None = None,
) -> AccessControl:
    """Return the web application, behind its access control.

    Args:
        pipeline: the pipeline to show; it runs in another thread.
        events: the latest events.
        token: access token, required on every request; None on loopback.
        healthy: function that returns True while the pipeline runs.
        outputs: function that returns the status of every output; by default there are no outputs.
        clips: folder of the clips of events; None without clips, when the API does not have them.
        regions: zones, lines and masks of the streams; by default there are none, and none can be drawn.
    """
    # A proxy may serve the application under a path, so every address in its answers is relative: that of the API, and
    # no redirects from /path/ to /path, which would be absolute.
    app = _Api(
        title="retina_edge",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        servers=[{"url": "."}],
        redirect_slashes=False,
        exception_handlers={RequestValidationError: _invalid},
    )
    files = {file.name: file.read_bytes() for file in PAGE.iterdir()}
    previews = {stream.name: Preview(stream) for stream in pipeline.streams}
    viewers = ViewerLimit(live_video.MAX_VIEWERS)
    store = regions or RegionStore(list(previews), ())

    def status() -> list[StreamStatus]:
        return [stream.status() for stream in pipeline.streams]

    def preview_of(name: str) -> Preview:
        if name not in previews:
            raise HTTPException(404, f"no stream has this name; the streams are {', '.join(previews)}")
        return previews[name]

    def stream_of(name: str) -> Stream:
        return preview_of(name).stream

    invalid: dict[int | str, dict[str, Any]] = {422: {"model": Problem}}
    not_found: dict[int | str, dict[str, Any]] = {404: {"model": Problem}, **invalid}

    # Routes that are open without the token are coroutines: they must not wait for a thread.
    @app.get("/healthz", responses={503: {"model": dict[str, Any]}})
    async def healthz(response: Response) -> dict[str, Any]:
        """Return the health of the pipeline, with status 503 if it has stopped, and the number of streams online."""
        ok = healthy()
        response.status_code = 200 if ok else 503
        return {"status": "ok" if ok else "stopped", "online": pipeline.online, "streams": len(pipeline.streams)}

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    def metrics() -> Response:
        """Return the metrics of all streams and outputs in Prometheus's text format."""
        return Response(
            exposition(status, outputs, counted=pipeline.streams),
            media_type="text/plain; version=0.0.4; charset=utf-8",
        )

    @app.get("/api/streams")
    def streams() -> list[StreamStatus]:
        """Return the state, counts, rate and latency of every stream."""
        return status()

    @app.get("/api/streams/{name}", responses=not_found)
    def stream(name: Annotated[str, NAME]) -> StreamStatus:
        """Return the state, counts, rate and latency of one stream."""
        return stream_of(name).status()

    @app.get("/api/streams/{name}/detections", responses=not_found)
    def detections(name: Annotated[str, NAME]) -> Response:
        """Return the newest result of a stream: boxes xyxy in frame pixels, times in UTC, ages in seconds."""
        result = stream_of(name).latest
        if result is None:
            raise HTTPException(404, "no frame yet")
        # json.dumps escapes all characters that are not ASCII; the name of a file may not be valid UTF-8.
        return Response(json.dumps(result.to_dict()), media_type="application/json")

    @app.get(
        "/api/streams/{name}/frame.jpg",
        response_class=Response,
        responses={200: {"content": {"image/jpeg": {}}}, **not_found},
    )
    def frame(name: Annotated[str, NAME]) -> Response:
        """Return the newest annotated frame of a stream as JPEG."""
        newest = preview_of(name).newest()
        if newest is None:
            raise HTTPException(404, "no frame yet")
        return Response(newest[1], media_type="image/jpeg")

    @app.get(
        "/api/streams/{name}/snapshot",
        response_class=Response,
        responses={200: {"content": {snapshots.MEDIA_TYPE: {}}}, **not_found},
    )
    def snapshot(name: Annotated[str, NAME]) -> Response:
        """Return the newest frame in full size as two JPEG files in one form: `annotated` with boxes, and `plain`."""
        result = stream_of(name).latest
        if result is None:
            raise HTTPException(404, "no frame yet")
        return snapshots.snapshot(result)

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
        """Send the annotated frames of a stream as they arrive (MJPEG), for players and HTML images."""
        return MjpegResponse(preview_of(name), viewers, healthy)

    @app.get("/api/outputs")
    def output_states() -> list[OutputStatus]:
        """Return the status of every output: files for results, and receivers of events."""
        return outputs()

    add_event_routes(app, events, stream_of, problems=not_found)

    if clips is not None:
        add_clip_routes(app, clips, preview_of, problems=not_found)

    @app.get("/api/score")
    def score() -> Score:
        """Return the score threshold: detections below it are neither shown nor sent to outputs."""
        return Score(score=pipeline.score)

    @app.put("/api/score", responses={400: {"model": Problem}, 429: {"model": Problem}, **invalid})
    def set_score(requested: Score) -> Score:
        """Set the score threshold, from the next result on."""
        try:
            pipeline.set_score(requested.score)
        except RetinaEdgeError as error:
            raise HTTPException(400, str(error)) from error
        return Score(score=pipeline.score)

    add_region_routes(app, store, stream_of)

    @app.get("/api", include_in_schema=False)
    def operations() -> HTMLResponse:
        return HTMLResponse(_operations(app.openapi()))

    @app.get("/", include_in_schema=False)
    def page() -> Response:
        return Response(files["index.html"], media_type=TYPES["html"])

    @app.get("/login", include_in_schema=False)
    async def login() -> Response:
        if token is None:
            return RedirectResponse("./", 303)
        return Response(files["login.html"], media_type=TYPES["html"])

    for name in files.keys() - {"index.html", "login.html"}:
        _serve(app, name, files)

    @app.websocket("/api/watch")
    async def watch(socket: WebSocket) -> None:
        """Send the frames of all streams, and a text when the regions of a stream have changed."""
        await live_video.watch(socket, list(previews.values()), viewers, healthy, store.regions)

    return AccessControl(app, token)


class _Api(FastAPI):
    """An application whose OpenAPI descriptions are Markdown for users, although they come from docstrings."""

    def openapi(self) -> dict[str, Any]:
        """Return the OpenAPI schema. Each field is described by the Attributes section of its class."""
        schema = super().openapi()
        for component in schema["components"]["schemas"].values():
            text = component.get("description", "").partition("\n\nExamples:")[0].replace("``", "`")
            summary, _, attributes = text.partition("\n\nAttributes:\n")
            if summary:
                component["description"] = summary
            for names, description in _ATTRIBUTE.findall(attributes):
                words = " ".join(description.split()).replace("None", "null").replace("True", "true")
                for name in names.split(", "):
                    component["properties"][name]["description"] = words
        return schema


async def _invalid(_request: Request, error: Exception) -> Response:
    """Answer a request with invalid values: one line, in which NaN and characters that are not Unicode are escaped."""
    assert isinstance(error, RequestValidationError)
    lines = []
    for problem in error.errors():
        if problem["type"] == "json_invalid":
            lines.append(f"body: expected JSON; {problem['ctx']['error']} at character {problem['loc'][-1]}")
        else:
            place = ".".join(str(part) for part in problem["loc"])
            lines.append(f"{place}: {problem['msg']}, got {problem['input']!r:.80}")
    return JSONResponse({"detail": "; ".join(lines)}, 422)


def _serve(app: FastAPI, name: str, files: Mapping[str, bytes]) -> None:
    """Add a route for a static file of the page."""
    media_type = TYPES[name.rpartition(".")[2]]

    @app.get(f"/{name}", include_in_schema=False)
    async def static() -> Response:
        return Response(files[name], media_type=media_type)


def _operations(schema: dict[str, Any]) -> str:
    """Return the API as an HTML page. FastAPI's own pages load scripts from other servers and do not work offline."""
    rows = [
        f"<tr><td>{method.upper()}</td><td><code>{html.escape(path)}</code></td>"
        f"<td>{html.escape(operation.get('description', ''))}</td></tr>"
        for path, methods in schema["paths"].items()
        for method, operation in methods.items()
    ]
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        '<title>retina_edge: API</title><link rel="stylesheet" href="page.css"><main class="api"><h1>API</h1>'
        '<p>OpenAPI description: <a href="openapi.json">openapi.json</a></p>'
        f"<table>{''.join(rows)}</table></main></html>"
    )
