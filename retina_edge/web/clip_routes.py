"""The routes of the API for clips of events."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Path, Query
from fastapi.responses import FileResponse

from retina_edge.sinks.clip_files import ClipFile, clip_path, newest_clips

MEDIA_TYPE = "video/webm"


def add_clip_routes(
    app: FastAPI,
    folder: pathlib.Path,
    check_stream: Callable[[str], object],
    *,
    problems: dict[int | str, dict[str, Any]],
) -> None:
    """Add the list of a stream's clips, and the clips.

    Args:
        app: the application.
        folder: folder of the clips.
        check_stream: raises the answer to a request if no stream has the name.
        problems: answers for a stream or clip that does not exist, and for invalid values.
    """

    @app.get("/api/streams/{name}/clips", responses=problems)
    def clips(
        name: Annotated[str, Path(description="name of a stream", max_length=64)],
        limit: Annotated[int, Query(ge=1, le=100, description="largest number of clips")] = 20,
    ) -> list[ClipFile]:
        """Return the newest clips of a stream, newest first. A clip appears when it is complete."""
        check_stream(name)
        return newest_clips(folder, name, limit)

    @app.get(
        "/api/streams/{name}/clips/{clip}",
        response_class=FileResponse,
        responses={200: {"content": {MEDIA_TYPE: {}}}, 206: {"content": {MEDIA_TYPE: {}}}, **problems},
    )
    def clip(
        name: Annotated[str, Path(description="name of a stream", max_length=64)],
        clip: Annotated[str, Path(description="file name of a clip, as in the list", max_length=128)],
    ) -> FileResponse:
        """Return a clip as WebM, or the requested range of it."""
        check_stream(name)
        path = clip_path(folder, name, clip)
        if path is None:
            raise HTTPException(404, "no clip has this name, or it is still being written, or no longer kept")
        return FileResponse(path, media_type=MEDIA_TYPE, content_disposition_type="inline", filename=clip)
