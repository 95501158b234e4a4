"""``retina-edge serve``: run a model on many streams, with a web page, an API and metrics."""

from __future__ import annotations

import argparse
import os
import re
import secrets
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from engines.core.errors import MissingDependencyError, RetinaEdgeError
from retina_edge.api.running import RunOptions, StreamRun, open_run
from retina_edge.cli import argument_types, running
from retina_edge.cli.stream_options import StreamParser, run_options
from retina_edge.deployment.systemd import NAME, systemd_service
from retina_edge.pipeline.pipeline import DEADLINE
from retina_edge.pipeline.result import Result
from retina_edge.sinks.retention import Retention
from retina_edge.system.console import Console
from retina_edge.system.worker import Worker

# Seconds that one batch may take in the detector. After that the process ends, so that systemd can restart it.
HANG_TIMEOUT = 60.0


def build_parser() -> StreamParser:
    """Return the parser of the verb."""
    parser = StreamParser(
        "serve",
        "Run a model on many streams, with a web page, an API and metrics.",
        example="retina-edge serve model.engine gate=rtsp://camera-1/stream yard=rtsp://camera-2/stream",
    )
    add = parser.add_argument_group("server").add_argument
    add(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="address to listen on; 0.0.0.0 for all networks (default: %(default)s, this machine only)",
    )
    add(
        "--port",
        type=_port,
        default=8080,
        metavar="N",
        help="port to listen on; 0 for any free port (default: %(default)s)",
    )
    add(
        "--token",
        metavar="TOKEN",
        help="access token that every request needs, except for /healthz and the login page; at least 8 characters "
        "(default: none on this machine only, else generated and printed)",
    )
    add(
        "--deadline",
        type=_seconds,
        default=DEADLINE,
        metavar="S",
        help="longest time in seconds that a frame waits for a full batch (default: %(default)s)",
    )
    add(
        "--max-age",
        type=_seconds,
        metavar="S",
        help="drop frames and results of live streams that are older than S seconds (default: keep all)",
    )
    add(
        "--keep-days",
        type=argument_types.positive_float,
        metavar="D",
        help="delete recordings of --save DIR and clips that are older than D days (default: keep all)",
    )
    add(
        "--keep-gb",
        type=argument_types.positive_float,
        metavar="G",
        help="delete the oldest recordings and clips if all together exceed G times 10^9 bytes (default: keep all)",
    )
    add("--install-service", action="store_true", help="print a systemd unit that runs this command, and exit")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb and return its exit code.

    Returns:
        0 after SIGTERM, or when all files have ended; 1 after an error, including an error of an output; 130 after
        Ctrl-C.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    args = build_parser().parse_args(arguments)
    if args.install_service:
        kept = [argument for argument in arguments if argument != "--install-service"]
        return running.run(lambda: _print_service(args, kept))
    return running.run(lambda: _serve(args))


def _serve(args: argparse.Namespace) -> int:
    try:
        from retina_edge.web.access import is_loopback
        from retina_edge.web.app import create_app
        from retina_edge.web.event_log import EventLog
        from retina_edge.web.server import WebServer
    except ImportError as error:
        raise MissingDependencyError(f"serve needs a web server ({error}): pip install 'retina-edge[serve]'") from error
    if args.token is not None and not re.fullmatch(r"[!-~]{8,}", args.token):
        raise RetinaEdgeError(
            "--token: expected at least 8 ASCII letters, digits or symbols without spaces, got something else; choose "
            "a longer token that is hard to guess"
        )
    console = Console()
    generated = args.token is None and not is_loopback(args.host)
    token = secrets.token_urlsafe(24) if generated else args.token
    options = _serve_options(args)
    events = EventLog()
    run: StreamRun | None = None

    def on_result(result: Result) -> None:
        for event in result.events:
            events.add(event, result.frame.image)

    with (
        running.exit_if(lambda: run is not None and run.pipeline.hangs),
        # Listen first: if another server uses the port, it may write to the same output files.
        _listen(args.host, args.port) as listening,
        open_run(
            options,
            strict=False,
            on_result=on_result,
            deadline=args.deadline,
            max_age=args.max_age,
            hangs_after=HANG_TIMEOUT,
        ) as opened,
    ):
        run = opened
        pipeline, outputs, stop = run.pipeline, run.outputs, run.stop

        def detect() -> None:
            try:
                pipeline.run()
            finally:
                server.should_exit = True

        # The server needs the main thread, so the pipeline runs in another one.
        failures: list[BaseException] = []
        worker = Worker("pipeline", detect, failures.append)
        app = create_app(
            pipeline,
            events,
            token=token,
            healthy=lambda: worker.running and not stop.requested,
            outputs=outputs.status,
            clips=args.clips,
            regions=run.regions,
        )
        server = WebServer(app)
        host = f"[{args.host}]" if ":" in args.host else args.host
        console.print(f"http://{host}:{listening.getsockname()[1]}/", highlight=False, markup=False)
        if generated:
            console.print(f"token: {token}", highlight=False)
        if options.outputs.clips is not None:
            notice = options.outputs.clips.describe(streams=len(pipeline.streams))
            console.print(notice, highlight=False, markup=False, soft_wrap=True)
        timeout: float | None = None
        try:
            worker.start()
            server.run(sockets=[listening])
        except KeyboardInterrupt:  # the second Ctrl-C: do not wait
            timeout = 0.0
            raise
        finally:
            pipeline.stop()
            worker.wait(timeout)
        if failures:
            raise failures[0]
    if not stop.requested:
        console.print("all sources ended")
    if outputs.incomplete:  # the log names the outputs and their errors
        return 1
    if stop.number == signal.SIGINT:
        raise KeyboardInterrupt
    return 1 if any(stream.errors for stream in pipeline.streams) else 0


def _serve_options(args: argparse.Namespace) -> RunOptions:
    """Return the options of the run, with what is kept of recordings and clips."""
    options = run_options(args)
    if args.keep_days is None and args.keep_gb is None:
        return options
    recorded = args.save is not None and args.save.suffix.lower() != ".mp4"
    if not recorded and args.clips is None:
        raise RetinaEdgeError("--keep-days, --keep-gb: expected --save DIR or --clips DIR, got neither folder")
    return replace(options, outputs=replace(options.outputs, keep=Retention(args.keep_days, args.keep_gb)))


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        # Python adds the address to the text of some errors, so use the plain text.
        reason = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
        raise RetinaEdgeError(
            f"cannot listen on {host}, port {port} ({reason}); give another --port or --host"
        ) from error


def _print_service(args: argparse.Namespace, arguments: Sequence[str]) -> int:
    """Print the unit to stdout and the remaining steps to stderr, both without credentials."""
    folders = _output_folders(args)
    service = systemd_service(arguments, writable=folders)
    print(service.unit, end="")
    steps = [f"save the unit as /etc/systemd/system/{service.name}.service"]
    if service.environment:
        names = ", ".join(line.partition("=")[0] for line in service.environment.splitlines())
        steps.append(f"write the secret arguments into {service.environment_file}, readable by root only: {names}")
    if folders:
        steps.append(
            f"let the unit's user write to {', '.join(map(str, folders))}, or write outputs to "
            f"/var/lib/{service.name}, which systemd creates for the unit"
        )
    steps.append(f"systemctl daemon-reload && systemctl enable --now {service.name}")
    for number, step in enumerate(steps, start=1):
        print(f"{number}. {step}", file=sys.stderr)
    return 0


def _output_folders(args: argparse.Namespace) -> list[Path]:
    """Return the folders that outputs are written to, without folders that systemd makes writable anyway."""
    saved = args.save.parent if args.save is not None and args.save.suffix.lower() == ".mp4" else args.save
    files = [path.parent for path in (args.json, args.csv, args.regions) if path is not None]
    folders = {path.absolute() for path in (saved, args.spool, args.clips, *files) if path is not None}
    return sorted(folder for folder in folders if Path("/var/lib", NAME) not in (folder, *folder.parents))


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"expected a port up to 65535, or 0 for any free port, got {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    value = argument_types.to_float(text)
    if not 0 <= value < 3600:
        raise argparse.ArgumentTypeError(f"expected a number of seconds from 0 to below 3600, got {text!r}")
    return value


if __name__ == "__main__":
    raise SystemExit(main())
