"""The conversion of images that users pass to a detector to BGR frames. Frames on a GPU stay there."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import numpy as np
import numpy.typing as npt

from engines.core.contract import BIT_DEPTH
from engines.core.errors import SourceError
from engines.core.gpu_array import on_gpu
from engines.core.gpu_frame import GpuFrame
from engines.core.letterbox import BgrImage, as_bgr, uint8_advice
from retina_edge.imaging.image_file import read_image, to_8_bits
from retina_edge.system.redaction import redact

if TYPE_CHECKING:
    import PIL.Image

# One image: a BGR array, a path, a PIL image, or a frame on a GPU.
ImageInput: TypeAlias = Union[npt.NDArray[np.uint8], str, "os.PathLike[str]", "PIL.Image.Image", GpuFrame]

EXPECTED = (
    "expected an image: uint8 [height, width, 3] in BGR as OpenCV delivers it (or grayscale, or BGRA), a path (str or "
    "Path), a PIL image, a GpuFrame, a stack [N, height, width, 3], or a list of these"
)
_BYTES = bytes | bytearray | memoryview


@dataclass(frozen=True)
class FrameInput:
    """The images that a user passed, converted to BGR frames.

    Attributes:
        frames: the images, uint8 [height, width, 3], BGR, or frames on a GPU.
        own: for each image, its frame if it was read or converted here, so that no other code can modify it; else None.
        single: True for one image that was not in a list or stack.
    """

    frames: list[BgrImage | GpuFrame]
    own: list[BgrImage | None]
    single: bool


def to_frames(images: Any, bit_depth: int = BIT_DEPTH) -> FrameInput:
    """Convert an image, a stack or an iterable of images to BGR frames.

    Args:
        images: an image, a stack or an iterable of images, in the forms that ``EXPECTED`` lists. Arrays from an
            iterator are copied, because the iterator may reuse its buffer; frames on a GPU are not. PIL images are
            rotated according to their EXIF orientation and converted to RGB. The PIL modes I and F are refused, because
            their values have no fixed range.
        bit_depth: bits that files and PIL images of 16 bits use; the upper 8 of them count.

    Raises:
        ValueError: if something else is given. The message lists the accepted forms, the value and its position.
        SourceError: if a file cannot be read.

    Examples:
        >>> to_frames(np.zeros((2, 48, 64, 3), np.uint8)).frames[0].shape
        (48, 64, 3)
    """
    if _is_image(images) and not (isinstance(images, np.ndarray) and images.ndim == 4):
        frame, own = _to_frame(images, "", bit_depth, copy=False)
        return FrameInput([frame], [own], True)
    if not _is_series(images):
        raise ValueError(_refusal(images, ""))
    copy = not isinstance(images, np.ndarray | Sequence)
    pairs = [_to_frame(image, f" at [{n}]", bit_depth, copy=copy) for n, image in enumerate(images)]
    return FrameInput([frame for frame, _ in pairs], [own for _, own in pairs], False)


def _is_image(image: Any) -> bool:
    return isinstance(image, np.ndarray | str | os.PathLike | GpuFrame) or _is_pil(image)


def _is_pil(image: Any) -> bool:
    # Not isinstance, because Pillow may not be installed, and importing it for this check would be slow.
    return type(image).__module__.partition(".")[0] == "PIL" and hasattr(image, "convert")


def _is_series(images: Any) -> bool:
    """True for an iterable whose items may be images. The items of a tensor or a file are its rows or lines."""
    if isinstance(images, np.ndarray):
        return True
    one = isinstance(images, dict | _BYTES) or hasattr(images, "shape") or hasattr(images, "read")
    return isinstance(images, Iterable) and not one


def _to_frame(image: Any, position: str, bit_depth: int, *, copy: bool) -> tuple[BgrImage | GpuFrame, BgrImage | None]:
    """Return an image as a frame, and once more the frame if it was read or converted here, else None."""
    if isinstance(image, GpuFrame):
        return image, None
    if isinstance(image, str | os.PathLike):
        frame = _read(image, bit_depth)
        return frame, frame
    array = _pil_to_array(image, position, bit_depth) if _is_pil(image) else image
    try:
        frame = as_bgr(array)
    except ValueError as error:
        raise ValueError(_refusal(array, position)) from error
    owned = frame is not image
    # The BGR channels of a BGRA array are a view of the caller's array.
    if copy or (owned and frame.base is not None):
        frame = frame.copy()
    return frame, frame if owned else None


def _read(path: str | os.PathLike[str], bit_depth: int) -> BgrImage:
    if isinstance(path, str) and "://" in path:
        raise SourceError(
            f"{redact(path)}: expected the path of an image file, got a URL; download the image, or use "
            "Detector.stream for a video or a camera"
        )
    return read_image(Path(path), bit_depth)


def _pil_to_array(image: PIL.Image.Image, position: str, bit_depth: int) -> npt.NDArray[np.uint8]:
    """Return the pixels of a PIL image: uint8 [height, width], grayscale, or uint8 [height, width, 3], BGR."""
    from PIL import ImageOps

    got = f"{EXPECTED}; got a PIL image of mode {image.mode}{position}"
    if image.mode in ("I", "F"):
        raise ValueError(
            f"{got}, whose values have no fixed range; scale np.asarray(image) to 0..255 and convert to uint8"
        )
    try:
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I;16"):
            return to_8_bits(np.asarray(upright), bit_depth, getattr(image, "filename", "") or "PIL image")
        rgb = np.asarray(upright.convert("RGB"), np.uint8)
    except (OSError, SyntaxError) as error:  # a SyntaxError reports a damaged PNG
        name = getattr(image, "filename", "") or "PIL image"
        raise SourceError(f"{name}{position}: cannot be read ({error}); copy or download it again") from error
    except ValueError as error:
        raise ValueError(f"{got}, which Pillow cannot convert to RGB; convert it to a mode such as RGB or L") from error
    return np.ascontiguousarray(rgb[:, :, ::-1])


def _refusal(value: Any, position: str) -> str:
    """Return the message of the error for a value that is not an image."""
    kind, advice, shape = type(value).__name__, "", getattr(value, "shape", None)
    if isinstance(value, np.ndarray):
        kind, advice = str(value.dtype), uint8_advice(value.dtype)
    elif on_gpu(value):
        advice = "; say the order of its colors: GpuFrame(array, color='rgb'), or GpuFrame.nv12 (from retina_edge)"
    elif hasattr(value, "numpy"):
        advice = "; pass tensor.cpu().numpy(), arranged as uint8 [height, width, 3] in BGR, values 0..255"
    elif isinstance(value, _BYTES):
        advice = "; decode the bytes with cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)"
    elif hasattr(value, "read"):
        advice = "; pass the path of the file, or PIL.Image.open(file)"
    size = "" if shape is None else f" {list(shape)}"
    return f"{EXPECTED}; got {kind}{size}{position}{advice}"
