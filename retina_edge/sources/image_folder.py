"""A folder of images as a source, with a line about everything in the folder that is not an image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from engines.core.errors import SourceError
from retina_edge.imaging.image_file import IMAGE_SUFFIXES
from retina_edge.sources.image_source import ImageSource
from retina_edge.system.natural_order import natural_order

# Images of phones, in a format that OpenCV cannot read.
HEIC_SUFFIXES = frozenset({".heic", ".heif", ".hif"})
# Names that a message lists of each kind.
LISTED = 5


def open_folder(folder: Path, *, fps: float | None = None) -> ImageSource:
    """Return the images of a folder, in the natural order of their names.

    Subfolders and files with other endings are passed over, which is a warning of the source. Hidden files, such as the
    thumbnails of macOS, are passed over without a warning.

    Args:
        folder: path of the folder.
        fps: images per second, for their timestamps; None for no timestamps.

    Raises:
        SourceError: if the folder contains no image.

    Examples:
        >>> from retina_edge.assets import FOREST
        >>> open_folder(FOREST.parent).output_names
        ('forest.jpg',)
    """
    images: list[Path] = []
    folders: list[str] = []
    heic: list[str] = []
    others: list[str] = []
    for entry in sorted(folder.iterdir(), key=natural_order):
        suffix = entry.suffix.lower()
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            folders.append(entry.name)
        elif suffix in IMAGE_SUFFIXES:
            images.append(entry)
        elif suffix in HEIC_SUFFIXES:
            heic.append(entry.name)
        else:
            others.append(suffix or entry.name)
    parts = []
    if heic:
        parts.append(
            f"{_counted(heic, 'HEIC image')} ({_listed(heic)}), which OpenCV cannot read: convert to JPEG, for "
            "instance with heif-convert or ImageMagick"
        )
    if folders:
        parts.append(f"{_counted(folders, 'subfolder')} ({_listed(folders)}): give '{folder}/**/*.jpg' to include them")
    if others:
        kinds = sorted(set(others))
        parts.append(f"{_counted(others, 'file')} of another kind ({_listed(kinds)})")
    passed_over = f"passed over {'; '.join(parts)}" if parts else ""
    if not images:
        expected = f"expected a folder with images ({', '.join(sorted(IMAGE_SUFFIXES))}), got one without images"
        raise SourceError(f"{folder}: {expected}" + (f"; {passed_over}" if parts else ""))
    return ImageSource(images, fps=fps, passed_over=[f"{folder}: {passed_over}"] if parts else [])


def _counted(names: Sequence[str], noun: str) -> str:
    return f"{len(names)} {noun}{'s' if len(names) > 1 else ''}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:LISTED]) + (", ..." if len(names) > LISTED else "")
