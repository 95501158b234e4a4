"""The contract: what a detector artifact promises, from training to camera.

It is written once, at training or conversion, and travels in the checkpoint, in the ONNX metadata and in the
engine's sidecar. Everything that touches pixels or boxes reads it, so nothing is typed in twice.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from engines import __version__
from engines.core.errors import ContractError

SCHEMA = 1
PRECISIONS = ("fp32", "fp16", "int8")
# For whom the quantized operators of an INT8 ONNX are laid out; see export.precision.quantization.
CPU, TENSORRT = "cpu", "tensorrt"
LAYOUTS = (CPU, TENSORRT)
# What each field holds in JSON, and what each item of a list; True is no number here, although Python says so.
_NUMBER = (int, float)
_FIELDS: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("architecture", "color_order", "letterbox", "precision"), (str,)),
    **dict.fromkeys(("score_threshold", "iou_threshold"), _NUMBER),
    **dict.fromkeys(("top_k", "max_detections"), (int,)),
    "produced_by": (dict,),
}
_LISTS: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("input_size", "category_ids", "feature_size", "stride"), (int,)),
    **dict.fromkeys(("mean", "std", "anchor_sizes", "aspect_ratios"), _NUMBER),
    "class_names": (str,),
    "levels": (dict,),
}
# A backbone halves its input five times; the letterbox pads to such a size anyway, so nothing is lost.
INPUT_MULTIPLE = 32


@dataclass(frozen=True)
class PyramidLevel:
    """One level of the feature pyramid and the anchors on it.

    Attributes:
        feature_size: (height, width) of the level's head outputs.
        stride: (y, x) distance in input pixels between neighboring anchor centers. Data, not a power of two:
            torchvision takes floor(input / feature), which at 800 pixels is 61 and 114 on the last two levels.
        anchor_sizes: square roots of the anchors' areas, input pixels.
        aspect_ratios: height / width of the anchors.
    """

    feature_size: tuple[int, int]
    stride: tuple[int, int]
    anchor_sizes: tuple[float, ...]
    aspect_ratios: tuple[float, ...]

    @property
    def num_anchors(self) -> int:
        """Anchors at one position."""
        return len(self.anchor_sizes) * len(self.aspect_ratios)

    def cell_anchors(self) -> npt.NDArray[np.float32]:
        """Anchors around the origin: float32 [num_anchors, 4], xyxy, input pixels.

        The rule of torchvision's ``AnchorGenerator.generate_anchors``: all sizes of the first ratio, then of
        the second, rounded half to even.
        """
        ratios = np.sqrt(np.asarray(self.aspect_ratios, np.float32))
        sizes = np.asarray(self.anchor_sizes, np.float32)
        widths = ((np.float32(1) / ratios)[:, None] * sizes[None, :]).reshape(-1)
        heights = (ratios[:, None] * sizes[None, :]).reshape(-1)
        return np.round(np.stack([-widths, -heights, widths, heights], axis=1) / np.float32(2))


@dataclass(frozen=True)
class DetectorContract:
    """What every executor of one detector agrees on.

    Executors take ``images``: uint8 [N, height, width, 3], BGR, letterboxed, and give ``num_detections`` int32
    [N], ``boxes`` float32 [N, max_detections, 4] xyxy in input pixels, ``scores`` float32 and ``labels`` int32
    [N, max_detections]; rows past ``num_detections`` are zero.

    Attributes:
        architecture: for people, for instance ``retinanet_resnet50_fpn``.
        input_size: (height, width) of the network's input, pixels, multiples of 32.
        class_names: name of each label, label 0 first.
        category_ids: the data set's own id of each label, for COCO results.
        levels: the feature pyramid, finest first.
        mean, std: of the color channels in ``color_order``, for pixel values scaled to 0..1.
        color_order: the order the network was trained in; the images handed over are always BGR.
        letterbox: ``top-left``: aspect kept, resized bilinearly to fit, zero padding right and bottom.
        score_threshold: candidates score more than this.
        iou_threshold: of two boxes of one class overlapping by more than this, the better one stays.
        top_k: candidates kept on each level before non-maximum suppression.
        max_detections: detections kept in each image.
        precision: arithmetic of the network: fp32, fp16 or int8.
        produced_by: versions of the packages that made the artifact.
    """

    architecture: str
    input_size: tuple[int, int]
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    levels: tuple[PyramidLevel, ...]
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    color_order: str = "RGB"
    letterbox: str = "top-left"
    score_threshold: float = 0.05
    iou_threshold: float = 0.5
    top_k: int = 1000
    max_detections: int = 300
    precision: str = "fp32"
    produced_by: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_input_size(self.input_size)
        _require(len(self.class_names) > 0, "class_names", "at least one name", self.class_names)
        _require(
            len(self.category_ids) == len(self.class_names),
            "category_ids",
            f"one id for each of the {len(self.class_names)} class names",
            f"{len(self.category_ids)} ids",
        )
        _require(
            len(set(self.category_ids)) == len(self.category_ids),
            "category_ids",
            "no id twice",
            self.category_ids,
        )
        _require(len(self.levels) > 0, "levels", "at least one pyramid level", self.levels)
        for index, level in enumerate(self.levels):
            sizes = (*level.feature_size, *level.stride)
            _require(
                len(level.feature_size) == len(level.stride) == 2 and min(sizes) > 0,
                f"levels[{index}]",
                "feature_size (height, width) and stride (y, x), all positive",
                sizes,
            )
            anchors = (*level.anchor_sizes, *level.aspect_ratios)
            _require(
                level.num_anchors > 0 and min(anchors) > 0,
                f"levels[{index}]",
                "at least one anchor size and aspect ratio, all positive",
                anchors,
            )
            # The head's convolutions are shared by all levels, so their channel count is too.
            _require(
                level.num_anchors == self.levels[0].num_anchors,
                f"levels[{index}]",
                f"{self.levels[0].num_anchors} anchors a position, as on the first level",
                level.num_anchors,
            )
        _require(len(self.mean) == 3 and len(self.std) == 3, "mean, std", "three channels", (self.mean, self.std))
        _require(min(self.std) > 0, "std", "positive values", self.std)
        _require(self.color_order in ("RGB", "BGR"), "color_order", "RGB or BGR", self.color_order)
        _require(self.letterbox == "top-left", "letterbox", "'top-left'", self.letterbox)
        _require(0 <= self.score_threshold < 1, "score_threshold", "0 <= value < 1", self.score_threshold)
        _require(0 <= self.iou_threshold <= 1, "iou_threshold", "0 <= value <= 1", self.iou_threshold)
        _require(self.top_k >= 1, "top_k", "at least 1", self.top_k)
        _require(self.max_detections >= 1, "max_detections", "at least 1", self.max_detections)
        _require(self.precision in PRECISIONS, "precision", f"one of {', '.join(PRECISIONS)}", self.precision)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def num_anchors(self) -> int:
        """Anchors at one position, the same on every level."""
        return self.levels[0].num_anchors

    def to_json(self) -> str:
        """The contract as a JSON object with sorted keys; ``from_json`` gives an equal contract back."""
        fields = dataclasses.asdict(self)
        return json.dumps({"schema": SCHEMA, **fields, "produced_by": dict(self.produced_by)}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> DetectorContract:
        """Reads what ``to_json`` wrote.

        Raises:
            ContractError: not JSON, another schema, a field missing, unknown, of a wrong type or value.
        """
        try:
            values = json.loads(text)
        except (json.JSONDecodeError, TypeError) as error:
            raise ContractError(f"contract: expected JSON, got {str(text)[:60]!r} ({error})") from error
        if not isinstance(values, dict) or values.get("schema") != SCHEMA:
            found = values.get("schema") if isinstance(values, dict) else type(values).__name__
            raise ContractError(
                f"contract: expected schema {SCHEMA}, got {found!r}; export the model again with this version"
            )
        del values["schema"]
        known = {item.name for item in dataclasses.fields(cls)}
        if set(values) != known:
            missing, unknown = sorted(known - set(values)), sorted(set(values) - known)
            raise ContractError(f"contract: fields missing {missing}, unknown {unknown}; export the model again")
        _check_types(values)
        for level in values["levels"]:
            _check_types(level)
        try:
            values["levels"] = tuple(PyramidLevel(**_tuples(level)) for level in values["levels"])
            return cls(**_tuples(values))
        except TypeError as error:  # a level lacks a field or has another
            raise ContractError(f"contract: levels: {error}; export the model again") from error


def package_versions(*packages: str) -> dict[str, str]:
    """Installed versions by distribution name, for ``DetectorContract.produced_by``."""
    installed = {package: importlib.metadata.version(package) for package in packages}
    return {"retina-edge": __version__, **installed}


def check_input_size(input_size: tuple[int, int]) -> None:
    """Raises ContractError unless (height, width) are positive multiples of 32; names the nearest that are."""
    if len(input_size) != 2:
        raise ContractError(f"input size: expected height and width, got {input_size}")
    if all(isinstance(side, int) and side > 0 and side % INPUT_MULTIPLE == 0 for side in input_size):
        return
    nearest = "x".join(str(max(1, round(side / INPUT_MULTIPLE)) * INPUT_MULTIPLE) for side in input_size)
    raise ContractError(
        f"input size: expected height and width in multiples of {INPUT_MULTIPLE}, "
        f"got {'x'.join(map(str, input_size))}; frames of any size are letterboxed into it, so take {nearest}"
    )


def _check_types(values: dict[str, Any]) -> None:
    """Raises ContractError for a field, or an item of a list, that is not of its type."""
    for name, value in values.items():
        if name in _LISTS:
            fits = isinstance(value, list) and all(type(item) in _LISTS[name] for item in value)
        else:
            fits = name not in _FIELDS or type(value) in _FIELDS[name]
        if not fits:
            kinds = " or ".join(kind.__name__ for kind in _LISTS.get(name) or _FIELDS[name])
            expected = f"a list of {kinds}" if name in _LISTS else kinds
            raise ContractError(f"contract: {name}: expected {expected}, got {value!r}; export the model again")


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    """JSON has lists where the dataclasses have tuples."""
    return {
        key: tuple(tuple(v) if isinstance(v, list) else v for v in value) if isinstance(value, list | tuple) else value
        for key, value in values.items()
    }


def _require(condition: bool, name: str, expected: str, got: object) -> None:
    if not condition:
        raise ContractError(f"contract: {name}: expected {expected}, got {got}")
