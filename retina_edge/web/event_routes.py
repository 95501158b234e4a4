"""The routes of the API for events: the list with its filters, thumbnails, and the last hour of a stream."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Path, Query, Response
from pydantic import AwareDatetime

from retina_edge.pipeline.stream import Stream
from retina_edge.web.event_log import EventLog
from retina_edge.web.timeline import Minute, timeline

Name = Annotated[str | None, Query(max_length=256)]


def add_event_routes(
    app: FastAPI,
    events: EventLog,
    stream_of: Callable[[str], Stream],
    *,
    problems: dict[int | str, dict[str, Any]],
) -> None:
    """Add the routes for events to an application.

    Args:
        app: the application.
        events: the latest events.
        stream_of: function that returns the stream of a name, or raises an HTTPException with status 404.
        problems: answers for a stream or event that does not exist, and for invalid values.
    """

    @app.get("/api/events", responses={422: problems[422]})
    def last_events(
        limit: Annotated[int, Query(ge=1, le=100, description="largest number of events")] = 20,
        stream: Name = None,
        class_name: Annotated[str | None, Query(alias="class", max_length=256)] = None,
        region: Name = None,
        since: AwareDatetime | None = None,
        until: AwareDatetime | None = None,
    ) -> list[dict[str, Any]]:
        """Return the latest events, newest first: of a stream, a class, a zone or line, or a time (ISO 8601)."""
        return events.newest(limit, stream=stream, class_name=class_name, region=region, since=since, until=until)

    @app.get(
        "/api/events/{number}/thumbnail.jpg",
        response_class=Response,
        responses={200: {"content": {"image/jpeg": {}}}, **problems},
    )
    def event_thumbnail(
        number: Annotated[int, Path(ge=0, le=2**53, description="number of the event, as in the list of events")],
    ) -> Response:
        """Return a thumbnail of the object of an event as JPEG."""
        content = events.thumbnail(number)
        if content is None:
            raise HTTPException(404, "no event has this number, or the event is no longer kept")
        return Response(content, media_type="image/jpeg")

    @app.get("/api/streams/{name}/timeline", responses=problems)
    def last_hour(name: Annotated[str, Path(description="name of a stream", max_length=64)]) -> list[Minute]:
        """Return the minutes of the last hour, oldest first: events, and seconds without frames."""
        return timeline(list(stream_of(name).changes), events.per_minute(name), time.time())
