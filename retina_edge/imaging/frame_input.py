"""The conversion of images that users pass to a detector to BGR frames."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import numpy as np
import numpy.typing as npt

from engines.core.letterbox import BgrImage, as_bgr
from retina_edge.imaging.image_file import read_image

if TYPE_CHECKING:
    import PIL.Image

# One image: a BGR array, a path or a PIL image.
ImageInput: TypeAlias = Union[npt.NDArray[np.uint8], str, "os.PathLike[str]", "PIL.Image.Image"]

EXPECTED = (
    "expected an image: uint8 [height, width, 3] in BGR as OpenCV delivers it (or grayscale, or BGRA), a path (str or "
    "Path), a PIL image, a stack [N, height, width, 3], or a list of these"
)


@dataclass(frozen=True)
class FrameInput:
    """The images that a user passed, converted to BGR frames.

    Attributes:
        frames: the images, uint8 [height, width, 3], BGR.
        owned: for each image, True if the image was read or converted here, so that no other code can modify it.
        single: True for one image that was not in a list or stack.
    """

    frames: list[BgrImage]
    owned: list[bool]
    single: bool


def to_frames(images: Any) -> FrameInput:
    """Convert an image, a stack or an iterable of images to BGR frames.

    Args:
        images: an image, a stack or an iterable of images, in the forms that ``EXPECTED`` lists. PIL images of any
            mode are converted to RGB first, and rotated according to their EXIF orientation.

    Raises:
        ValueError: if something else is given. The message lists the accepted forms, the value and its position.
        SourceError: if a file cannot be read.

    Examples:
        >>> to_frames(np.zeros((2, 48, 64, 3), np.uint8)).frames[0].shape
        (48, 64, 3)
    """
    if isinstance(images, np.ndarray) and images.ndim == 4:
        return FrameInput(
            [_to_bgr(image, f" at [{n}]") for n, image in enumerate(images)], [False] * len(images), False
        )
    if _is_image(images):
        return FrameInput([_to_bgr(images, "")], [not isinstance(images, np.ndarray)], True)
    if isinstance(images, dict | bytes | bytearray) or not isinstance(images, Iterable):
        raise ValueError(f"{EXPECTED}; got {_description(images)}")
    items = list(images)
    frames = [_to_bgr(image, f" at [{n}]") for n, image in enumerate(items)]
    return FrameInput(frames, [not isinstance(image, np.ndarray) for image in items], False)


def _is_image(image: Any) -> bool:
    return isinstance(image, np.ndarray | str | os.PathLike) or _is_pil(image)


def _is_pil(image: Any) -> bool:
    # Not isinstance, because Pillow may not be installed, and importing it for this check would be slow.
    return type(image).__module__.partition(".")[0] == "PIL" and hasattr(image, "convert")


def _to_bgr(image: Any, position: str) -> BgrImage:
    if isinstance(image, str | os.PathLike):
        return read_image(Path(image))
    if _is_pil(image):
        from PIL import ImageOps

        rgb = np.asarray(ImageOps.exif_transpose(image).convert("RGB"), np.uint8)
        return np.ascontiguousarray(rgb[:, :, ::-1])
    try:
        return as_bgr(image)
    except ValueError as error:
        raise ValueError(f"{EXPECTED}; got {_description(image)}{position}") from error


def _description(value: Any) -> str:
    if isinstance(value, np.ndarray):
        hint = ": scale the values to 0..255 and convert to uint8" if value.dtype != np.uint8 else ""
        return f"{value.dtype} {list(value.shape)}{hint}"
    shape = getattr(value, "shape", None)
    return type(value).__name__ + (f" {list(shape)}" if shape is not None else "")
