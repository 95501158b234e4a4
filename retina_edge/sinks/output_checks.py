"""Refuses, before any work, outputs that would overwrite an input or one another."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from engines.core.errors import SinkError
from retina_edge.imaging.image_file import IMAGE_SUFFIXES
from retina_edge.sinks.video_sink import partial_path
from retina_edge.sources.frames import Source
from retina_edge.sources.image_source import ImageSource

_OTHER_VIDEOS = frozenset({".avi", ".mkv", ".mov", ".webm"})


def check_outputs(
    model: Path,
    sources: Sequence[Source],
    *,
    save: Path | None,
    jsonl: Path | None,
    csv: Path | None = None,
    endless: bool = False,
) -> None:
    """Refuses places that cannot be meant.

    Args:
        model: the model file.
        sources: what is read.
        save: the video or folder for pictures; None for neither.
        jsonl, csv: the files for detections; None for none.
        endless: the run is to go on for ever, and begins anew where it was cut off.

    Raises:
        SinkError: one MP4 for several sources or for pictures, two outputs of one name, an output that would
            replace a source or the model, another file format.
    """
    outputs: dict[Path, str] = {}
    for target in [] if save is None else _targets(save, sources, endless=endless):
        for path in [target, partial_path(target)] if target.suffix.lower() == ".mp4" else [target]:
            if path in outputs:
                raise SinkError(f"--save {save}: two sources would write {path}; give one another name: NAME=SOURCE")
            outputs[path] = f"--save {save}"
    for option, file in (("--json", jsonl), ("--csv", csv)):
        if file is None:
            continue
        for path, other in outputs.items():
            if path.name == file.name and path.resolve() == file.resolve():
                raise SinkError(f"{option} {file}: {other.split()[0]} would write the same file; give another name")
        outputs[file] = f"{option} {file}"
    # Only an output that is there can be an input, whatever links and upper case its name goes through.
    present = {_identity(path): option for path, option in outputs.items()}
    present.pop(None, None)
    if not present:
        return
    inputs = [("model", model)]
    for source in sources:
        paths = source.paths if isinstance(source, ImageSource) else [Path(source.name)]
        inputs += [("source", path) for path in paths]
    for kind, path in inputs:
        identity = _identity(path)
        if identity in present:
            raise SinkError(f"{present[identity]}: would replace the {kind} {path}; give another folder or name")


def _targets(save: Path, sources: Sequence[Source], *, endless: bool) -> list[Path]:
    """The files that saving writes in the end."""
    if save.suffix.lower() == ".mp4":
        if len(sources) != 1 or isinstance(sources[0], ImageSource):
            raise SinkError(f"--save {save}: an MP4 takes one video, camera or URL; for this give a folder")
        # Behind an HTTP address may be a film.
        if endless and sources[0].live and not sources[0].name.startswith("http"):
            raise SinkError(f"--save {save}: each start would replace it; of a stream without end give a folder")
        return [save]
    if save.suffix.lower() in IMAGE_SUFFIXES | _OTHER_VIDEOS and not save.is_dir():
        raise SinkError(f"--save {save}: expected a name ending in .mp4, or a folder; pictures keep their names")
    # Recordings of live streams are named by their time, and replace nothing.
    return [save / name for source in sources if not source.live for name in source.output_names]


def _identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of an existing file; None for anything else."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino
