"""The calibration set: real images that show the quantizer which values occur, audited before they are believed."""

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

# Below RECOMMENDED_CALIBRATION_IMAGES the ranges depend on which images they were; below MIN_CALIBRATION_IMAGES on each
# single one.
MIN_CALIBRATION_IMAGES, RECOMMENDED_CALIBRATION_IMAGES = 8, 64
DEFAULT_IMAGES = 128
# How ranges are chosen, see export.precision.ranges; the defaults are what came out best in
# benchmarks/results/calibrators.json.
CALIBRATORS = ("percentile", "minmax", "entropy", "mse")
DEFAULT_CALIBRATORS = {TENSORRT: "percentile", CPU: "mse"}
# Standard deviation of the gray values, of 255, under which a picture shows nothing: a lens cap, a black frame.
BLANK = 2.0
# How many files a message names.
NAMED = 3


@dataclass(frozen=True)
class CalibrationSet:
    """Images to calibrate with; ``audit`` makes one.

    Attributes:
        paths: the image files, those left out gone.
        digest: sha256 of their contents, in order.
        findings: what the audit has to say, a line each; empty when all is well.
        read: opens one of them.
    """

    paths: tuple[Path, ...]
    digest: str
    findings: tuple[str, ...]
    read: Callable[[Path], Frame]

    def __len__(self) -> int:
        return len(self.paths)

    def batches(self, contract: DetectorContract, size: int) -> Iterator[Frame]:
        """The images as the detector would see them: uint8 [size, height, width, 3], BGR, letterboxed.

        The last batch is filled up with the images before it.
        """
        for start in range(0, len(self.paths), size):
            chosen = [self.paths[index % len(self.paths)] for index in range(start, start + size)]
            yield letterbox_batch([self.read(path) for path in chosen], contract.input_size)[0]


def audit(paths: Sequence[Path], read: Callable[[Path], Frame], *, count: int = DEFAULT_IMAGES) -> CalibrationSet:
    """Looks at every image: leaves out what cannot be read, shows nothing, or is there already.

    Args:
        paths: image files, of which ``count`` are taken, evenly spread over their sorted names.
        read: opens one: BGR uint8 [height, width, 3]; SourceError where it cannot.
        count: images at most.

    Raises:
        DataError: fewer than 8 are left.
    """
    chosen = sorted(paths)
    if len(chosen) > count:
        chosen = [chosen[index * len(chosen) // count] for index in range(count)]
    unreadable, blank, again = [], [], []
    kept: dict[str, Path] = {}
    for path in chosen:
        try:
            image = read(path)
        except SourceError:
            unreadable.append(path)
            continue
        digest = hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()
        if image.std() < BLANK:
            blank.append(path)
        elif digest in kept:
            again.append(path)
        else:
            kept[digest] = path
    findings = [
        f"{len(found)} {what}, left out: {_names(found)}"
        for what, found in (("unreadable", unreadable), ("blank", blank), ("there twice", again))
        if found
    ]
    if len(kept) < MIN_CALIBRATION_IMAGES:
        raise DataError(
            f"calibration: expected at least {MIN_CALIBRATION_IMAGES} different images as the camera will see them, "
            f"better {RECOMMENDED_CALIBRATION_IMAGES} to {DEFAULT_IMAGES}; found {len(kept)}"
            + "".join(f"; {finding}" for finding in findings)
        )
    if len(kept) < RECOMMENDED_CALIBRATION_IMAGES:
        findings.append(
            f"only {len(kept)} images: ranges from fewer than {RECOMMENDED_CALIBRATION_IMAGES} depend on which they are"
        )
    digest = hashlib.sha256("".join(kept).encode()).hexdigest()
    return CalibrationSet(tuple(kept.values()), digest, tuple(findings), read)


def _names(paths: Sequence[Path]) -> str:
    more = f" and {len(paths) - NAMED} more" if len(paths) > NAMED else ""
    return ", ".join(path.name for path in paths[:NAMED]) + more
