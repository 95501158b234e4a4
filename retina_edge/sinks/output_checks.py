"""Checks, before any work, that outputs do not overwrite an input or one another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from engines.core.errors import SinkError
from retina_edge.imaging.image_file import IMAGE_SUFFIXES
from retina_edge.sinks.video_sink import partial_files
from retina_edge.sources.frames import Source
from retina_edge.sources.image_source import ImageSource
from retina_edge.system.output_file import file_identity

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
    """Refuse outputs that would overwrite the model, a source or one another.

    Args:
        model: the model file.
        sources: the sources of the run.
        save: the annotated video, or the folder for videos and images; None for neither.
        jsonl, csv: the files for results and for detections; None for no file.
        endless: True for a service, which restarts after an interruption and would then overwrite an MP4.

    Raises:
        SinkError: if an MP4 is given for several sources or for images, two outputs would write the same file, an
            output would overwrite a source or the model, or a video format is not MP4.

    Examples:
        >>> from retina_edge.sources.opening import open_sources
        >>> camera = open_sources(["0"])
        >>> check_outputs(Path("model.onnx"), camera, save=Path("out.mp4"), jsonl=Path("out.jsonl"))
        >>> check_outputs(Path("model.onnx"), camera, save=Path("out.avi"), jsonl=None)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        engines.core.errors.SinkError: --save out.avi: expected a name ending in .mp4, or a folder; images keep ...
    """
    outputs: dict[Path, str] = {}
    for target in [] if save is None else _targets(save, sources, endless=endless):
        if target in outputs:
            raise SinkError(f"--save {save}: two sources would write {target}; rename one of them: NAME=SOURCE")
        # The sink of a video removes what earlier ones of this name have left.
        for path in [target, *partial_files(target)] if target.suffix.lower() == ".mp4" else [target]:
            outputs[path] = f"--save {save}"
    for option, file in (("--json", jsonl), ("--csv", csv)):
        if file is None:
            continue
        for path, other in outputs.items():
            if path.name == file.name and path.resolve() == file.resolve():
                raise SinkError(f"{option} {file}: {other.split()[0]} would write the same file; use another name")
        outputs[file] = f"{option} {file}"
    # Only an output that exists can also be an input.
    present = {file_identity(path): option for path, option in outputs.items()}
    present.pop(None, None)
    if not present:
        return
    inputs = [("model", model)]
    for source in sources:
        paths = source.paths if isinstance(source, ImageSource) else [Path(source.name)]
        inputs += [("source", path) for path in paths]
    for kind, path in inputs:
        identity = file_identity(path)
        if identity in present:
            raise SinkError(f"{present[identity]}: would overwrite the {kind} {path}; use another folder or name")


def _targets(save: Path, sources: Sequence[Source], *, endless: bool) -> list[Path]:
    """Return the files that ``--save`` writes, by their final names."""
    if save.suffix.lower() == ".mp4":
        if len(sources) != 1 or (isinstance(sources[0], ImageSource) and sources[0].fps is None):
            raise SinkError(
                f"--save {save}: an MP4 takes one video, camera or URL; use a folder instead, or --fps for images"
            )
        # An HTTP address may be a video, which ends.
        if endless and sources[0].live and not sources[0].name.startswith("http"):
            raise SinkError(f"--save {save}: each start would overwrite it; use a folder for an endless stream")
        return [save]
    if save.suffix.lower() in IMAGE_SUFFIXES | _OTHER_VIDEOS and not save.is_dir():
        raise SinkError(f"--save {save}: expected a name ending in .mp4, or a folder; images keep their names")
    # Recordings of live streams are named by their start and overwrite nothing.
    return [save / name for source in sources if not source.live for name in source.output_names]
