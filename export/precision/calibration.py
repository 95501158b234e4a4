"""The calibration set: real images that the ranges of activations are measured on, checked before use."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engines.core.contract import CPU, TENSORRT, DetectorContract
from engines.core.errors import DataError, SourceError
from engines.core.letterbox import letterbox_batch

Frame = npt.NDArray[np.uint8]

# With fewer images than RECOMMENDED_CALIBRATION_IMAGES the ranges depend on the choice of images, and with fewer than
# MIN_CALIBRATION_IMAGES they depend on every single image.
MIN_CALIBRATION_IMAGES, RECOMMENDED_CALIBRATION_IMAGES = 8, 64
DEFAULT_IMAGES = 128
# Calibrators are described in export.precision.ranges. The defaults are the best ones in
# benchmarks/results/calibrators.json.
CALIBRATORS = ("percentile", "minmax", "entropy", "mse")
DEFAULT_CALIBRATORS = {TENSORRT: "percentile", CPU: "mse"}
# Standard deviation of the pixel values, 0 to 255, below which an image shows nothing (a lens cap, a black frame).
MIN_CONTRAST = 2.0
# Largest number of files that a message names.
MAX_NAMED_FILES = 3


@dataclass(frozen=True)
class CalibrationSet:
    """A calibration set whose images were checked by ``audit``.

    Attributes:
        paths: paths of the image files that passed the audit.
        digest: SHA-256 of the decoded images, in order, hexadecimal.
        findings: remarks of the audit, one line each; empty if there are none.
        read: function from the path of an image file to the image, uint8 [height, width, 3], BGR.

    Examples:
        >>> from engines.core.contract import PyramidLevel
        >>> levels = (PyramidLevel((1, 2), (32, 32), (32.0,), (1.0,)),)
        >>> contract = DetectorContract("demo", (32, 64), ("tree",), (1,), levels)
        >>> images = CalibrationSet((Path("a.jpg"),) * 3, "", (), read=lambda path: np.zeros((40, 40, 3), np.uint8))
        >>> [batch.shape for batch in images.batches(contract, 2)]
        [(2, 32, 64, 3), (2, 32, 64, 3)]
    """

    paths: tuple[Path, ...]
    digest: str
    findings: tuple[str, ...]
    read: Callable[[Path], Frame]

    def __len__(self) -> int:
        return len(self.paths)

    def batches(self, contract: DetectorContract, size: int) -> Iterator[Frame]:
        """Yield batches of letterboxed images: uint8 [size, height, width, 3], BGR.

        The first images of the set fill the last batch.
        """
        for start in range(0, len(self.paths), size):
            chosen = [self.paths[index % len(self.paths)] for index in range(start, start + size)]
            yield letterbox_batch([self.read(path) for path in chosen], contract.input_size)[0]


def audit(paths: Sequence[Path], read: Callable[[Path], Frame], *, count: int = DEFAULT_IMAGES) -> CalibrationSet:
    """Read images, and skip those that are unreadable, blank, or duplicates of another image.

    Args:
        paths: paths of image files. If there are more than ``count`` paths, ``count`` of them are chosen, evenly spread
            over the sorted paths.
        read: function from the path of an image file to the image, uint8 [height, width, 3], BGR. It raises SourceError
            for an unreadable file.
        count: largest number of images.

    Raises:
        DataError: if fewer than 8 images are left.

    Examples:
        >>> def read(path):  # noise in place of image files
        ...     return np.random.default_rng(int(path.stem)).integers(0, 256, (32, 32, 3), np.uint8)
        >>> images = audit([Path(f"{number}.jpg") for number in range(10)], read)
        >>> len(images), images.findings
        (10, ('only 10 images: ranges from fewer than 64 images depend on the choice of images',))
    """
    chosen = sorted(paths)
    if len(chosen) > count:
        chosen = [chosen[index * len(chosen) // count] for index in range(count)]
    unreadable, blank, duplicate = [], [], []
    kept: dict[str, Path] = {}
    for path in chosen:
        try:
            image = read(path)
        except SourceError:
            unreadable.append(path)
            continue
        digest = hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()
        if image.std() < MIN_CONTRAST:
            blank.append(path)
        elif digest in kept:
            duplicate.append(path)
        else:
            kept[digest] = path
    findings = [
        f"{len(skipped)} {reason}, skipped: {_names(skipped)}"
        for reason, skipped in (("unreadable", unreadable), ("blank", blank), ("duplicate", duplicate))
        if skipped
    ]
    if len(kept) < MIN_CALIBRATION_IMAGES:
        raise DataError(
            f"calibration: expected at least {MIN_CALIBRATION_IMAGES} different images as the camera will see them, "
            f"better {RECOMMENDED_CALIBRATION_IMAGES} to {DEFAULT_IMAGES}, got {len(kept)}"
            + "".join(f"; {finding}" for finding in findings)
        )
    if len(kept) < RECOMMENDED_CALIBRATION_IMAGES:
        findings.append(
            f"only {len(kept)} images: ranges from fewer than {RECOMMENDED_CALIBRATION_IMAGES} images depend on the "
            "choice of images"
        )
    digest = hashlib.sha256("".join(kept).encode()).hexdigest()
    return CalibrationSet(tuple(kept.values()), digest, tuple(findings), read)


def _names(paths: Sequence[Path]) -> str:
    more = f" and {len(paths) - MAX_NAMED_FILES} more" if len(paths) > MAX_NAMED_FILES else ""
    return ", ".join(path.name for path in paths[:MAX_NAMED_FILES]) + more
