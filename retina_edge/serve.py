"""``retina-edge serve``: many streams through one detector, with a page to look at, an API and metrics."""

from __future__ import annotations

import argparse
import os
import re
import secrets
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from functools import partial
from pathlib import Path

from rich.console import Console

from engines.errors import MissingDependencyError, RetinaEdgeError
from retina_edge import cli
from retina_edge.detector import Detector
from retina_edge.pipeline.outputs import default_spool, open_outputs
from retina_edge.pipeline.pipeline import DEADLINE, Pipeline
from retina_edge.pipeline.stream import Stream
from retina_edge.pipeline.worker import Worker
from retina_edge.service import systemd_service
from retina_edge.signals import stop_on_signal
from retina_edge.sinks.base import Result
from retina_edge.sources.naming import named_sources
from retina_edge.tracking import zones
from retina_edge.tracking.analysis import Analysis
from retina_edge.tracking.counting import ANCHORS

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
    add(
        "--score",
        type=float,
        help=f"least score to begin with, also to follow objects (default {DEFAULT_SCORE}, or the model's own)",
    )
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
    add("--json", type=Path, metavar="OUT.jsonl", help="results, one JSON object a frame")
    add("--csv", type=Path, metavar="OUT.csv", help="detections, one row each")
    add(
        "--events",
        action="append",
        default=[],
        metavar="URL",
        help="where events of zones and lines go: mqtt://[USER@]HOST/TOPIC or https://HOST/PATH; those that cannot be "
        "delivered wait on the disk; passwords from RETINA_EDGE_EVENTS_PASSWORD",
    )
    add("--spool", type=Path, default=default_spool(), metavar="DIR", help="where they wait (default: %(default)s)")
    add("--install-service", action="store_true", help="print a systemd unit that runs this, and do no more")
    add("--max-age", type=_seconds, metavar="S", help="drop frames and results of live streams that are older")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 after SIGTERM or when all files have ended; 1 after an error, also of an output; 130 after Ctrl-C."""
    words = list(sys.argv[1:] if argv is None else argv)
    args = build_parser().parse_args(words)
    if args.install_service:
        return cli.run(lambda: _print_service([word for word in words if word != "--install-service"]))
    return cli.run(lambda: _serve(args))


def _serve(args: argparse.Namespace) -> int:
    try:
        import uvicorn

        from retina_edge.web.access import is_loopback
        from retina_edge.web.app import create_app
        from retina_edge.web.event_log import EventLog
    except ImportError as error:
        raise MissingDependencyError(f"serve needs a web server ({error}): pip install '.[serve]'") from error
    if args.token is not None and not re.fullmatch(r"[!-~]{8,}", args.token):
        raise RetinaEdgeError(
            "--token: expected at least 8 letters, digits and signs, no spaces, which nobody can guess"
        )
    console = Console()
    sources = named_sources(args.sources)
    generated = args.token is None and not is_loopback(args.host)
    token = secrets.token_urlsafe(24) if generated else args.token
    with ExitStack() as stack:
        detector = stack.enter_context(Detector.load(args.model))
        least = detector.contract.score_threshold
        regions = [*args.zone, *args.line]
        zones.check_regions(regions, streams=list(sources), class_names=detector.contract.class_names)
        score = max(DEFAULT_SCORE, least) if args.score is None else args.score
        events = EventLog()

        def on_result(_stream: Stream, result: Result) -> None:
            for event in result.events:
                events.add(event, result.frame.image)
            outputs.write(result)

        pipeline = Pipeline(
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
        outputs = stack.enter_context(
            open_outputs(
                jsonl=args.json,
                csv=args.csv,
                receivers=args.events,
                spool=args.spool,
                strict=False,
            )
        )

        def run() -> None:
            try:
                pipeline.run()
            finally:
                end()

        def end() -> None:
            server.should_exit = True

        # The pipeline has a thread of its own, because the server has this one, and its signals.
        failures: list[BaseException] = []
        worker = Worker("pipeline", run, failures.append)
        app = create_app(
            pipeline,
            events,
            token=token,
            healthy=lambda: worker.running and not server.should_exit,
            outputs=outputs.status,
        )
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
        listening = stack.enter_context(_listen(args.host, args.port))
        where = f"[{args.host}]" if ":" in args.host else args.host
        console.print(f"http://{where}:{listening.getsockname()[1]}/", highlight=False, markup=False)
        if generated:
            console.print(f"token: {token}", highlight=False)
        # Its own would end the process by the signal, before files are closed.
        server.capture_signals = nullcontext  # type: ignore[method-assign,assignment]

        with stop_on_signal(end) as stop:
            try:
                worker.start()
                server.run(sockets=[listening])
            finally:
                pipeline.stop()
                worker.wait()
        if failures:
            raise failures[0]
    if outputs.failed:  # the log has said which
        return 1
    if stop.number == signal.SIGINT:
        raise KeyboardInterrupt
    return 1 if any(stream.errors for stream in pipeline.streams) else 0


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        # Python adds the address to the text of some.
        why = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
        raise RetinaEdgeError(
            f"{host}, port {port}: cannot be listened on ({why}); give another --port or --host"
        ) from error


def _print_service(words: Sequence[str]) -> int:
    """The unit on stdout, what is left to do on stderr; credentials on neither."""
    service = systemd_service(words)
    print(service.unit, end="")
    steps = [f"save it as /etc/systemd/system/{service.name}.service"]
    if service.environment:
        names = ", ".join(line.partition("=")[0] for line in service.environment.splitlines())
        steps.append(f"put what is secret in the arguments into {service.environment_file}, for root alone: {names}")
    steps.append(f"systemctl daemon-reload && systemctl enable --now {service.name}")
    for number, step in enumerate(steps, start=1):
        print(f"{number}. {step}", file=sys.stderr)
    return 0


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"expected a port up to 65535, or 0 for any that is free, got {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    value = cli.number(text)
    if not 0 <= value < 3600:
        raise argparse.ArgumentTypeError(f"expected seconds, 0 or more, got {text!r}")
    return value


if __name__ == "__main__":
    raise SystemExit(main())
