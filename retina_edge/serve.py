"""``retina-edge serve``: many streams through one detector, with a page to look at, an API and metrics."""

from __future__ import annotations

import argparse
import secrets
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from engines.errors import MissingDependencyError, RetinaEdgeError
from retina_edge import cli
from retina_edge.detector import Detector
from retina_edge.live.analysis import Analysis
from retina_edge.live.naming import named_sources
from retina_edge.live.pipeline import DEADLINE, LivePipeline
from retina_edge.live.stream import Stream
from retina_edge.streams import zones
from retina_edge.streams.counting import ANCHORS
from retina_edge.streams.sinks import Result

DEFAULT_SCORE = 0.4
# Seconds that watchers have to go at the end.
GRACE = 2


def build_parser() -> argparse.ArgumentParser:
    """The options of the verb."""
    parser = argparse.ArgumentParser(prog="retina-edge serve", description=__doc__)
    add = parser.add_argument
    add("model", type=Path, metavar="MODEL", help="model.engine, model.onnx or model.pt")
    add("sources", nargs="+", metavar="[NAME=]SOURCE", help="a camera's number, a URL, a video; a name for the page")
    add("--host", default="127.0.0.1", help="address to listen on (default: %(default)s, this machine alone)")
    add("--port", type=_port, default=8080, help="default: %(default)s")
    add(
        "--token",
        metavar="TOKEN",
        help="asked for on every request; beyond this machine one is made where none is given",
    )
    add("--score", type=float, help=f"least score to begin with (default {DEFAULT_SCORE}, or the model's own)")
    add("--batch", type=cli.positive, metavar="N", help="frames an inference (default: the model's)")
    add(
        "--deadline", type=_seconds, default=DEADLINE, metavar="S", help="a batch waits so long at most (default: 0.01)"
    )
    add("--track", action="store_true", help="follow objects from frame to frame; --zone and --line do so, too")
    add("--zone", type=zones.zone, action="append", default=[], metavar="ZONE", help=zones.ZONE_SYNTAX)
    add("--line", type=zones.line, action="append", default=[], metavar="LINE", help=zones.LINE_SYNTAX)
    add(
        "--anchor",
        choices=ANCHORS,
        default=ANCHORS[0],
        help="the point of a box that is in a zone: of its lower side, or its centre as seen from above "
        "(default: %(default)s)",
    )
    add("--max-age", type=_seconds, metavar="S", help="drop frames and results of live streams that are older")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 after SIGTERM or when all files have ended; 1 after an error; 130 after Ctrl-C."""
    args = build_parser().parse_args(argv)
    return cli.run(lambda: _serve(args))


def _serve(args: argparse.Namespace) -> int:
    try:
        import uvicorn

        from retina_edge.web.access import is_loopback
        from retina_edge.web.app import create_app
        from retina_edge.web.event_log import EventLog
    except ImportError as error:
        raise MissingDependencyError(f"serve needs a web server ({error}): pip install '.[serve]'") from error
    if args.token is not None and len(args.token) < 8:
        raise RetinaEdgeError("--token: expected at least 8 characters, which nobody can guess")
    console = Console()
    sources = named_sources(args.sources)
    generated = args.token is None and not is_loopback(args.host)
    token = secrets.token_urlsafe(24) if generated else args.token
    with Detector.load(args.model) as detector:
        least = detector.contract.score_threshold
        regions = [*args.zone, *args.line]
        zones.check_regions(regions, streams=list(sources), class_names=detector.contract.class_names)
        score = max(DEFAULT_SCORE, least) if args.score is None else args.score
        events = EventLog()

        def on_result(_stream: Stream, result: Result) -> None:
            for event in result.events:
                events.add(event, result.frame.image)

        pipeline = LivePipeline(
            detector,
            sources,
            on_result=on_result,
            analyse=partial(Analysis, regions=regions, score=score, anchor=args.anchor)
            if args.track or regions
            else None,
            score=score,
            batch=args.batch,
            deadline=args.deadline,
            max_age=args.max_age,
        )
        running = _Running(pipeline)
        app = create_app(pipeline, events, token=token, healthy=lambda: running.alive)
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                host=args.host,
                port=args.port,
                log_level="warning",
                access_log=False,  # addresses of watchers are nobody's business
                server_header=False,
                limit_concurrency=100,
                timeout_graceful_shutdown=GRACE,
                ws_max_size=1024,
            )
        )
        where = f"[{args.host}]" if ":" in args.host else args.host
        console.print(f"http://{where}:{args.port}/", highlight=False)
        if generated:
            console.print(f"token: {token}", highlight=False)
        running.start(on_end=lambda: setattr(server, "should_exit", True))
        try:
            server.run()
        finally:
            running.stop()
    return 0


class _Running:
    """The pipeline in a thread of its own, while the server has this one, and its signals."""

    def __init__(self, pipeline: LivePipeline) -> None:
        self._pipeline = pipeline
        self._error: BaseException | None = None
        self._on_end: Callable[[], None] = lambda: None
        self._thread = threading.Thread(target=self._run, name="pipeline", daemon=True)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def start(self, *, on_end: Callable[[], None]) -> None:
        self._on_end = on_end
        self._thread.start()

    def stop(self) -> None:
        """Ends the pipeline, and raises what it ended with."""
        self._pipeline.stop()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            self._pipeline.run()
        except BaseException as error:
            self._error = error
        finally:
            self._on_end()


def _port(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"expected a port from 1 to 65535, got {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    value = cli.number(text)
    if not 0 <= value < 3600:
        raise argparse.ArgumentTypeError(f"expected seconds, 0 or more, got {text!r}")
    return value


if __name__ == "__main__":
    raise SystemExit(main())
