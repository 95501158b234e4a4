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
from contextlib import nullcontext
from pathlib import Path

from rich.console import Console

from engines.errors import MissingDependencyError, RetinaEdgeError
from retina_edge import cli
from retina_edge.pipeline.outputs import default_spool
from retina_edge.pipeline.pipeline import DEADLINE
from retina_edge.pipeline.worker import Worker
from retina_edge.service import NAME, systemd_service
from retina_edge.sinks.base import Result
from retina_edge.stream_arguments import StreamParser, opened

# Seconds that watchers have to go at the end.
GRACE = 2
# Of one batch in the detector: then it is taken to hang, and the process ends, so that systemd can begin anew.
HANGS_AFTER = 60.0


def build_parser() -> StreamParser:
    """The options of the verb."""
    parser = StreamParser("serve", "Many streams through one detector, with a page to look at, an API and metrics.")
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on (default: %(default)s, this machine alone)")
    add("--port", type=_port, default=8080, help="default: %(default)s")
    add(
        "--token",
        metavar="TOKEN",
        help="asked for on every request; beyond this machine one is made where none is given",
    )
    add(
        "--deadline", type=_seconds, default=DEADLINE, metavar="S", help="a batch waits so long at most (default: 0.01)"
    )
    add("--max-age", type=_seconds, metavar="S", help="drop frames and results of live streams that are older")
    add("--install-service", action="store_true", help="print a systemd unit that runs this, and do no more")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 after SIGTERM or when all files have ended; 1 after an error, also of an output; 130 after Ctrl-C."""
    words = list(sys.argv[1:] if argv is None else argv)
    args = build_parser().parse_args(words)
    if args.install_service:
        return cli.run(lambda: _print_service(args, [word for word in words if word != "--install-service"]))
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
    generated = args.token is None and not is_loopback(args.host)
    token = secrets.token_urlsafe(24) if generated else args.token
    events = EventLog()

    def on_result(result: Result) -> None:
        for event in result.events:
            events.add(event, result.frame.image)

    # Listens first: a port that is taken must not cost the one who has it the files that both would write.
    with (
        _listen(args.host, args.port) as listening,
        opened(
            args,
            strict=False,
            on_result=on_result,
            deadline=args.deadline,
            max_age=args.max_age,
            hangs_after=HANGS_AFTER,
        ) as run,
    ):

        def detect() -> None:
            try:
                run.pipeline.run()
            finally:
                server.should_exit = True

        # The pipeline has a thread of its own, because the server has this one.
        failures: list[BaseException] = []
        worker = Worker("pipeline", detect, failures.append)
        app = create_app(
            run.pipeline,
            events,
            token=token,
            healthy=lambda: worker.running and not run.stop.asked,
            outputs=run.outputs.status,
        )
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                host=args.host,
                port=args.port,
                log_level="warning",
                lifespan="off",  # there is none, and one that a second Ctrl-C cuts off is a traceback
                access_log=False,  # addresses of watchers are nobody's business
                server_header=False,
                limit_concurrency=100,
                timeout_graceful_shutdown=GRACE,
                ws_max_size=1024,
            )
        )
        # Its own would end the process by the signal, before files are closed.
        server.capture_signals = nullcontext  # type: ignore[method-assign,assignment]
        where = f"[{args.host}]" if ":" in args.host else args.host
        console.print(f"http://{where}:{listening.getsockname()[1]}/", highlight=False, markup=False)
        if generated:
            console.print(f"token: {token}", highlight=False)
        patience: float | None = None
        try:
            worker.start()
            server.run(sockets=[listening])
        except KeyboardInterrupt:  # the second one
            patience = 0.0
            raise
        finally:
            run.pipeline.stop()
            worker.wait(patience)
        if failures:
            raise failures[0]
    if run.outputs.failed:  # the log has said which
        return 1
    if run.stop.number == signal.SIGINT:
        raise KeyboardInterrupt
    return 1 if any(stream.errors for stream in run.pipeline.streams) else 0


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


def _print_service(args: argparse.Namespace, words: Sequence[str]) -> int:
    """The unit on stdout, what is left to do on stderr; credentials on neither."""
    folders = _written_folders(args)
    service = systemd_service(words, writable=folders)
    print(service.unit, end="")
    steps = [f"save it as /etc/systemd/system/{service.name}.service"]
    if service.environment:
        names = ", ".join(line.partition("=")[0] for line in service.environment.splitlines())
        steps.append(f"put what is secret in the arguments into {service.environment_file}, for root alone: {names}")
    if folders:
        steps.append(
            f"let the unit's user write to {', '.join(map(str, folders))}, or give outputs a place in "
            f"/var/lib/{service.name}, which systemd makes for it"
        )
    steps.append(f"systemctl daemon-reload && systemctl enable --now {service.name}")
    for number, step in enumerate(steps, start=1):
        print(f"{number}. {step}", file=sys.stderr)
    return 0


def _written_folders(args: argparse.Namespace) -> list[Path]:
    """Where outputs go, but for what systemd gives the service anyway."""
    saved = args.save.parent if args.save is not None and args.save.suffix.lower() == ".mp4" else args.save
    spool = None if args.spool == default_spool() else args.spool
    files = [path.parent for path in (args.json, args.csv) if path is not None]
    folders = {path.absolute() for path in (saved, spool, *files) if path is not None}
    return sorted(folder for folder in folders if Path("/var/lib", NAME) not in (folder, *folder.parents))


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
