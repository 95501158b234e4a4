"""The options that ``detect`` and ``serve`` share: streams, tracking, outputs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from engines.core.errors import RetinaEdgeError
from retina_edge.api.running import RunOptions
from retina_edge.cli import argument_types
from retina_edge.cli.argument_files import with_files
from retina_edge.cli.tile_options import add_tile_options, tile_options
from retina_edge.cli.verb_parser import VerbParser
from retina_edge.detections import DEFAULT_SCORE
from retina_edge.sinks.clip_options import ClipOptions
from retina_edge.sinks.output_options import OutputOptions
from retina_edge.tracking import zones
from retina_edge.tracking.analysis import TrackingOptions
from retina_edge.tracking.region_counter import ANCHORS
from retina_edge.tracking.tracker_names import TRACKERS
from retina_edge.tracking.zone_counter import inertia

EPILOG = (
    "@FILE stands for the arguments in that file, one per line; lines that begin with # are comments. Use such a file "
    "for sources with passwords, because everyone who may list processes sees the command line."
)
LINE_DIRECTION = (
    f"Points are {zones.POINT_SYNTAX}. A crossing of a line is in if it goes to the right, seen from the line's first "
    "point toward its second: door=0.1,0.5 0.9,0.5 counts objects that move down as in. On the drawn line, an arrow "
    "points to the side that is in. Exchange the two points to exchange in and out."
)


class StreamParser(VerbParser):
    """The parser of a verb that runs a model on streams, with the options that these verbs share.

    Args:
        verb: name of the verb.
        description: description of the verb for ``--help``.
        example: one complete command.

    Examples:
        >>> parser = StreamParser("detect", "Detect objects.", example="retina-edge detect model.onnx video.mp4")
        >>> args = parser.parse_args(["model.onnx", "north=rtsp://camera/1", "--track"])
        >>> args.sources, args.track
        (['north=rtsp://camera/1'], True)
    """

    def __init__(self, verb: str, description: str, *, example: str) -> None:
        super().__init__(f"retina-edge {verb}", description, example=example, epilog=EPILOG)
        self.add_argument("model", type=Path, metavar="MODEL", help="model.engine, model.onnx or model.pt")
        self.add_argument(
            "sources",
            nargs="+",
            metavar="[NAME=]SOURCE",
            help="an image, a folder of images, a video, a glob of files, a camera index, a URL, a GStreamer pipeline "
            "(gst:...), a Jetson camera (csi://0); NAME is the stream's name in results, files and on the page, of "
            "letters from A to Z, digits, _ and -",
        )
        detection = self.add_argument_group("detection")
        detection.add_argument(
            "--score",
            type=float,
            metavar="S",
            help="show detections that score more than this, from 0 to 1; lower it to see more objects and more false "
            f"alarms (default: {DEFAULT_SCORE}, or the model's own threshold if it is higher)",
        )
        detection.add_argument(
            "--batch",
            type=argument_types.positive_int,
            metavar="N",
            help="frames, or tiles, in a batch (default: the model's own, or 1)",
        )
        detection.add_argument("--device", default="auto", help=argument_types.DEVICE_HELP)
        detection.add_argument(
            "--bit-depth",
            type=int,
            metavar="BITS",
            help="bits that image files of 16 bits use, 9 to 16: 12 for a camera whose values end at 4095 (default: "
            "the model's, 16 if it was trained without)",
        )
        detection.add_argument(
            "--fps",
            type=argument_types.frame_rate,
            metavar="RATE",
            help="frames per second of images and video files, instead of the times in them: for images that are "
            "frames of a video, and for files whose rate is missing or wrong; not for live sources (default: the times "
            "of a video file; no times for images, which are tracked as 25 frames per second)",
        )
        add_tile_options(detection)
        self._add_output_options(self.add_argument_group("outputs"))
        self._add_tracking_options(self.add_argument_group("tracking and counting", LINE_DIRECTION))

    def _add_output_options(self, group: argparse._ArgumentGroup) -> None:
        group.add_argument(
            "--save",
            type=Path,
            metavar="OUT.mp4|DIR",
            help="annotated video, or folder for the annotated videos and images of all streams; cameras are recorded "
            "in videos of ten minutes (default: nothing is saved)",
        )
        group.add_argument(
            "--json",
            type=Path,
            metavar="OUT.jsonl",
            help="file for the results, one JSON object per frame; serve appends to an existing file, detect "
            "overwrites it (default: no file)",
        )
        group.add_argument(
            "--csv",
            type=Path,
            metavar="OUT.csv",
            help="file for the detections, one row each; serve appends to an existing file, detect overwrites it "
            "(default: no file)",
        )
        group.add_argument(
            "--events",
            action="append",
            default=[],
            metavar="URL",
            help="receiver of zone and line events: mqtt://[USER@]HOST/TOPIC or https://HOST/PATH. Events that cannot "
            "be delivered wait on disk. The password comes from RETINA_EDGE_EVENTS_PASSWORD. May be repeated (default: "
            "events are not sent)",
        )
        group.add_argument(
            "--spool",
            type=Path,
            metavar="DIR",
            help="folder where events wait for delivery (default: retina_edge/events in the state folder of the "
            "user or the service)",
        )

        group.add_argument(
            "--clips",
            type=Path,
            metavar="DIR",
            help="folder for a short video of each zone and line event, which begins before the event (default: no "
            "clips)",
        )
        for name, side in (("before", "before an event"), ("after", "after it")):
            group.add_argument(
                f"--{name}",
                type=argument_types.clip_seconds,
                metavar="S",
                help=f"seconds of a clip {side}, 0 to 60 (default: 5)",
            )

    def _add_tracking_options(self, group: argparse._ArgumentGroup) -> None:
        group.add_argument(
            "--track",
            action="store_true",
            help="follow objects from frame to frame; --zone, --line and --regions imply it",
        )
        group.add_argument(
            "--tracker",
            choices=TRACKERS,
            help="tracker that follows objects; implies --track: bytetrack for a camera that stands still, botsort for "
            f"one that moves, which measures the motion in the picture (default: {TRACKERS[0]})",
        )
        group.add_argument(
            "--zone",
            type=zones.zone,
            action="append",
            default=[],
            metavar="ZONE",
            help=f"count objects that are inside, entered or left a polygon: {zones.ZONE_SYNTAX}. May be repeated "
            "(default: no zone)",
        )
        group.add_argument(
            "--line",
            type=zones.line,
            action="append",
            default=[],
            metavar="LINE",
            help=f"count objects that cross a line, in and out: {zones.LINE_SYNTAX}. May be repeated (default: no "
            "line)",
        )
        group.add_argument(
            "--regions",
            type=Path,
            metavar="FILE",
            help="file of zones, lines and masks that are drawn while serve runs, JSON; serve creates it and saves "
            "changes in it, detect only reads it (default: no file, and regions cannot be drawn)",
        )
        group.add_argument(
            "--dwell",
            type=_dwell,
            metavar="S",
            help="seconds after which an object that stays in a zone is an event, once per visit; a zone of --regions "
            "may have its own (default: no such event)",
        )
        group.add_argument(
            "--inertia",
            type=inertia,
            metavar="M/N",
            help="against flicker at the border of a zone: an object enters or leaves after M of its last N frames "
            "on the other side (default: 1/1, at once)",
        )
        group.add_argument(
            "--anchor",
            choices=ANCHORS,
            default=ANCHORS[0],
            help="point of a box that decides if the object is inside a zone or has crossed a line: the middle of the "
            "lower side (bottom), or the center for views from above (default: %(default)s)",
        )

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse the arguments, those in files too; ``tiles`` becomes ``TileOptions`` or None."""
        try:
            arguments = with_files(sys.argv[1:] if args is None else args)
        except RetinaEdgeError as error:
            self.error(str(error))
        parsed = super().parse_args(arguments, namespace)
        if parsed.clips is None and (parsed.before is not None or parsed.after is not None):
            self.error("--before and --after: expected --clips DIR with them, got no folder for clips")
        if parsed.clips is not None and not (parsed.zone or parsed.line or parsed.regions):
            self.error("--clips: expected --zone, --line or --regions, because clips show their events; got none")
        parsed.tiles = tile_options(self, parsed)
        return parsed


def run_options(args: argparse.Namespace) -> RunOptions:
    """Return the options of a parsed command line.

    Examples:
        >>> parser = StreamParser("detect", "Detect objects.", example="retina-edge detect model.onnx video.mp4")
        >>> args = parser.parse_args(["model.onnx", "video.mp4", "--score", "0.5"])
        >>> options = run_options(args)
        >>> options.sources, options.score
        (['video.mp4'], 0.5)
    """
    return RunOptions(
        model=args.model,
        sources=args.sources,
        device=args.device,
        score=args.score,
        batch=args.batch,
        bit_depth=args.bit_depth,
        tiles=args.tiles,
        tracking=TrackingOptions(
            args.track or args.tracker is not None,
            [*args.zone, *args.line],
            args.anchor,
            args.tracker or TRACKERS[0],
            dwell=args.dwell,
            inertia=args.inertia,
            regions_file=args.regions,
        ),
        outputs=OutputOptions(args.save, args.json, args.csv, args.events, args.spool, _clip_options(args)),
        fps=args.fps,
    )


def _clip_options(args: argparse.Namespace) -> ClipOptions | None:
    if args.clips is None:
        return None
    seconds = {name: getattr(args, name) for name in ("before", "after") if getattr(args, name) is not None}
    return ClipOptions(args.clips, **seconds)


def _dwell(text: str) -> float:
    seconds = argument_types.to_float(text)
    try:
        zones.check_dwell(seconds)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return seconds
