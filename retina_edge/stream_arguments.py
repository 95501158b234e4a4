"""What ``detect`` and ``serve`` have in common: streams, what is followed in them, and where results go."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from retina_edge import cli
from retina_edge.detector import Detector
from retina_edge.pipeline.outputs import Outputs, default_spool, open_outputs
from retina_edge.pipeline.pipeline import Pipeline
from retina_edge.pipeline.stream import Stream
from retina_edge.signals import StopRequest, stop_on_signal
from retina_edge.sinks.base import Result, Sink
from retina_edge.sinks.checks import check_outputs
from retina_edge.sinks.retrying import RetryingSink
from retina_edge.sinks.saving import saving_sink
from retina_edge.sources.frames import Source
from retina_edge.sources.naming import named_sources
from retina_edge.tile_arguments import add_tiles, check_tiles, with_tiles
from retina_edge.tracking import zones
from retina_edge.tracking.analysis import Analysis
from retina_edge.tracking.counting import ANCHORS

DEFAULT_SCORE = 0.4
EPILOG = (
    "@FILE stands for the arguments in that file, one a line, # before remarks: for instance sources with their "
    "passwords, which a command line shows to whoever may list processes."
)


class StreamParser(argparse.ArgumentParser):
    """Of a verb that runs a model on streams, with the options that all such verbs have."""

    def __init__(self, verb: str, description: str) -> None:
        super().__init__(
            prog=f"retina-edge {verb}",
            description=description,
            epilog=EPILOG,
            fromfile_prefix_chars="@",
            allow_abbrev=False,  # whoever looks for --token in the arguments must find it
        )
        add = self.add_argument
        add("model", type=Path, metavar="MODEL", help="model.engine, model.onnx or model.pt")
        add(
            "sources",
            nargs="+",
            metavar="[NAME=]SOURCE",
            help="a picture, a folder of pictures, a video, a glob of files, a camera's number, a URL, a GStreamer "
            "pipeline (gst:...), a Jetson's camera (csi://0); NAME is how results, files and the page call it",
        )
        add(
            "--save",
            type=Path,
            metavar="OUT.mp4|DIR",
            help="annotated video, or folder for all; of cameras it gets videos of ten minutes",
        )
        add(
            "--json",
            type=Path,
            metavar="OUT.jsonl",
            help="results, one JSON object a frame; serve continues an older file, detect replaces it",
        )
        add("--csv", type=Path, metavar="OUT.csv", help="detections, one row each; likewise")
        add("--score", type=float, help=f"least score (default {DEFAULT_SCORE}, or the model's own)")
        add("--batch", type=cli.positive, metavar="N", help="frames, or tiles, an inference (default: the model's)")
        add_tiles(self)
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
        add(
            "--events",
            action="append",
            default=[],
            metavar="URL",
            help="where events of zones and lines go: mqtt://[USER@]HOST/TOPIC or https://HOST/PATH; those that cannot "
            "be delivered wait on the disk; passwords from RETINA_EDGE_EVENTS_PASSWORD",
        )
        add("--spool", type=Path, default=default_spool(), metavar="DIR", help="where they wait (default: %(default)s)")

    def convert_arg_line_to_args(self, arg_line: str) -> list[str]:
        """Of a line of such a file; whole, so that names and pipelines may hold spaces."""
        word = arg_line.strip()
        return [word] if word and not word.startswith("#") else []

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        found = super().parse_args(args, namespace)
        check_tiles(self, found)
        return found


@dataclass(frozen=True)
class Opened:
    """What the arguments ask for, not running yet.

    Attributes:
        sources: of the streams, by their names; not these, but others like them are read.
        pipeline: of all streams.
        outputs: files and receivers.
        stop: asks the pipeline to end when a signal comes.
    """

    sources: Mapping[str, Source]
    pipeline: Pipeline
    outputs: Outputs
    stop: StopRequest


@contextmanager
def opened(
    args: argparse.Namespace, *, strict: bool, on_result: Callable[[Result], None] = lambda _: None, **options: Any
) -> Iterator[Opened]:
    """Detector, pipeline and outputs, open within the block.

    After the block a detector that hangs ends the process, once all files are closed: what it holds cannot be given
    back.

    Args:
        args: of a ``StreamParser``.
        strict: as of ``open_outputs``.
        on_result: called with each result before it goes to the outputs, in the detector's thread.
        options: of ``Pipeline``, besides.

    Raises:
        RetinaEdgeError, OSError: what was asked for cannot be.
    """
    named = named_sources(args.sources)
    sources = {name: make() for name, make in named.items()}
    check_outputs(
        args.model, list(sources.values()), save=args.save, jsonl=args.json, csv=args.csv, for_good=not strict
    )
    with Detector.load(args.model) as loaded:
        detector = with_tiles(loaded, args)
        contract = detector.contract
        regions = [*args.zone, *args.line]
        zones.check_regions(regions, streams=list(sources), class_names=contract.class_names)
        score = max(DEFAULT_SCORE, contract.score_threshold) if args.score is None else args.score
        follows = args.track or regions

        def saving(name: str) -> Sink:
            (stream,) = (stream for stream in pipeline.streams if stream.name == name)
            make = partial(saving_sink, args.save, sources[name], name=name, live=stream.live, fps=stream.info.fps)
            return make() if strict else RetryingSink(f"{args.save}, {name}", make)

        def hand_on(_stream: Stream, result: Result) -> None:
            on_result(result)
            outputs.write(result)

        pipeline = Pipeline(
            detector,
            named,
            on_result=hand_on,
            on_end=lambda stream: outputs.end(stream.name),
            analyse=partial(Analysis, regions=regions, anchor=args.anchor) if follows else None,
            score=score,
            batch=1 if args.tile else args.batch,
            **options,
        )
        with (
            _leaving_what_hangs(pipeline),
            # The first Ctrl-C ends the run in order, with whole files; one more gives up what hangs.
            stop_on_signal(pipeline.stop) as stop,
            open_outputs(
                jsonl=args.json,
                csv=args.csv,
                save=args.save,
                saving=saving,
                receivers=args.events,
                spool=args.spool,
                strict=strict,
            ) as outputs,
        ):
            yield Opened(sources, pipeline, outputs, stop)


@contextmanager
def _leaving_what_hangs(pipeline: Pipeline) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        if pipeline.hangs:
            code = cli.run(partial(_raise, error))
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        raise


def _raise(error: BaseException) -> int:
    raise error
