"""The contract: what a model promises, from training to the camera.

The contract is written once, at training or conversion. It travels in the checkpoint, in the metadata of the ONNX and
in the passport of the engine. All code that touches pixels or boxes reads the contract, so no value is entered twice.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from engines import __version__
from engines.core.errors import CONTROL, ContractError
from engines.core.json_form import BOOLEAN, INTEGER, NUMBER, TEXT, Form, read_json, require, short
from engines.core.option_checks import check_pair

SCHEMA = 1
PRECISIONS = ("fp32", "fp16", "int8")
# Layouts of the operators of an INT8 ONNX: for ONNX Runtime or for TensorRT; see export.precision.quantization.
CPU, TENSORRT = "cpu", "tensorrt"
LAYOUTS = (CPU, TENSORRT)
_LEVEL: Form = {"feature_size": [INTEGER], "stride": [INTEGER], "anchor_sizes": [NUMBER], "aspect_ratios": [NUMBER]}
_CONTRACT: Form = {
    **dict.fromkeys(("architecture", "color_order", "letterbox", "precision"), TEXT),
    **dict.fromkeys(("score_threshold", "iou_threshold"), NUMBER),
    **dict.fromkeys(("top_k", "max_detections", "bit_depth?"), INTEGER),
    "input_size": [INTEGER],
    "category_ids": [INTEGER],
    "mean": [NUMBER],
    "std": [NUMBER],
    "class_names": [TEXT],
    "levels": [_LEVEL],
    "agnostic?": BOOLEAN,
    "produced_by": {"*": TEXT},
}
# A backbone halves its input five times. The restriction costs nothing, because frames are letterboxed anyway.
INPUT_MULTIPLE = 32
# Bits that image files of 16 bits use, unless the model was trained on a camera with fewer.
BIT_DEPTH = 16
# Fields that older versions do not know, and the values that stand for their behavior.
LATER_FIELDS: Mapping[str, Any] = {"agnostic": False, "bit_depth": BIT_DEPTH}
# Bounds far above every RetinaNet, so that a damaged or hostile file cannot ask for more memory than there is.
MAX_INPUT_SIDE = 8192
MAX_LEVELS = 16
MAX_ANCHORS = 256
MAX_CLASSES = 65_536
MAX_DETECTIONS = 100_000
# Range of anchor sizes and aspect ratios, and of mean and std, in which float32 computes without overflow.
_SMALLEST, _LARGEST = 1e-6, 1e6


@dataclass(frozen=True)
class PyramidLevel:
    """One level of the feature pyramid and its anchors.

    Attributes:
        feature_size: (height, width) of the raw heads of this level.
        stride: (y, x) distance between the centers of neighboring anchors, input pixels. The stride is stored because
            it need not be a power of two. torchvision uses floor(input / feature), which is 61 and 114 on the last two
            levels of an input of 800 pixels.
        anchor_sizes: square roots of the areas of the anchors, input pixels.
        aspect_ratios: height / width of the anchors.

    Examples:
        >>> level = PyramidLevel((100, 100), (8, 8), anchor_sizes=(32, 40), aspect_ratios=(0.5, 1, 2))
        >>> level.num_anchors
        6
    """

    feature_size: tuple[int, int]
    stride: tuple[int, int]
    anchor_sizes: tuple[float, ...]
    aspect_ratios: tuple[float, ...]

    @property
    def num_anchors(self) -> int:
        """Number of anchors at one position."""
        return len(self.anchor_sizes) * len(self.aspect_ratios)

    def cell_anchors(self) -> npt.NDArray[np.float32]:
        """Return the anchors around the origin: float32 [num_anchors, 4], xyxy, input pixels.

        The order is that of torchvision's ``AnchorGenerator.generate_anchors``: all sizes of the first ratio, then all
        sizes of the second, and so on. Coordinates are rounded half to even.

        Examples:
            >>> PyramidLevel((52, 92), (8, 8), (16, 20), (1.0, 2.0)).cell_anchors().tolist()
            [[-8.0, -8.0, 8.0, 8.0], [-10.0, -10.0, 10.0, 10.0], [-6.0, -11.0, 6.0, 11.0], [-7.0, -14.0, 7.0, 14.0]]
        """
        ratios = np.sqrt(np.asarray(self.aspect_ratios, np.float32))
        sizes = np.asarray(self.anchor_sizes, np.float32)
        widths = ((np.float32(1) / ratios)[:, None] * sizes[None, :]).reshape(-1)
        heights = (ratios[:, None] * sizes[None, :]).reshape(-1)
        return np.round(np.stack([-widths, -heights, widths, heights], axis=1) / np.float32(2))


@dataclass(frozen=True)
class DetectorContract:
    """Everything that the executors of one detector agree on.

    A model takes ``images``: uint8 [N, height, width, 3], BGR, letterboxed. The model returns ``num_detections`` int32
    [N], ``boxes`` float32 [N, max_detections, 4] xyxy in input pixels, ``scores`` float32 [N, max_detections] and
    ``labels`` int32 [N, max_detections]. Rows past ``num_detections`` are zero.

    Attributes:
        architecture: name of the architecture for display, for instance ``retinanet_resnet50_fpn``.
        input_size: (height, width) of the network's input, pixels, multiples of 32.
        class_names: name of each label, label 0 first.
        category_ids: the data set's own number of each label, for COCO results.
        levels: levels of the feature pyramid, finest first.
        mean, std: mean and standard deviation of the color channels in ``color_order``, for pixel values scaled to
            0..1.
        color_order: order of the color channels in training, RGB or BGR; the images passed in are always BGR.
        letterbox: kind of letterbox, always ``top-left``: the frame is resized bilinearly to fit, its aspect ratio is
            kept, and the right and the bottom are padded with zeros.
        score_threshold: score that a candidate must exceed, 0 <= value < 1.
        iou_threshold: largest IoU of two boxes of one class, 0 to 1; if the IoU is larger, only the better box is kept.
            With ``agnostic``, of any two boxes.
        top_k: largest number of candidates that a level keeps before NMS.
        max_detections: largest number of detections of an image.
        agnostic: True if NMS is class-agnostic: a box suppresses boxes of all classes, not only of its own.
        bit_depth: bits that image files of 16 bits use, 9 to 16: 12 for a camera whose values end at 4095.
        precision: arithmetic of the network: fp32, fp16 or int8.
        produced_by: versions of the packages that made the model.

    Raises:
        ContractError: if a value is out of range, or two fields contradict each other.

    Examples:
        >>> levels = (PyramidLevel((13, 23), (32, 32), anchor_sizes=(64.0,), aspect_ratios=(1.0,)),)
        >>> contract = DetectorContract("demo", (416, 736), ("tree", "car"), (1, 2), levels, top_k=100)
        >>> contract.num_classes, contract.max_detections, contract.precision
        (2, 300, 'fp32')
        >>> DetectorContract.from_json(contract.to_json()) == contract
        True
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
    agnostic: bool = False
    bit_depth: int = BIT_DEPTH
    precision: str = "fp32"
    produced_by: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_input_size(self.input_size)
        _require(
            0 < len(self.class_names) <= MAX_CLASSES, "class_names", f"1 to {MAX_CLASSES} names", len(self.class_names)
        )
        texts = {"architecture": (self.architecture,), "class_names": self.class_names}
        for name, values in {**texts, "produced_by": (*self.produced_by, *self.produced_by.values())}.items():
            for text in values:
                _require(not CONTROL.search(text), name, "text without control characters", text)
        _require(
            len(self.category_ids) == len(self.class_names),
            "category_ids",
            f"one id for each of the {len(self.class_names)} class names",
            len(self.category_ids),
        )
        _require(
            len(set(self.category_ids)) == len(self.category_ids),
            "category_ids",
            "unique ids",
            self.category_ids,
        )
        _require(0 < len(self.levels) <= MAX_LEVELS, "levels", f"1 to {MAX_LEVELS} pyramid levels", len(self.levels))
        for index, level in enumerate(self.levels):
            sizes = (*level.feature_size, *level.stride)
            _require(
                len(level.feature_size) == len(level.stride) == 2 and min(sizes) > 0 and max(sizes) <= MAX_INPUT_SIDE,
                f"levels[{index}]",
                f"feature_size (height, width) and stride (y, x), all from 1 to {MAX_INPUT_SIDE}",
                sizes,
            )
            check_anchors(f"contract: levels[{index}]", level.anchor_sizes, level.aspect_ratios)
            # All levels share the convolutions of the heads, so their raw heads have the same number of channels.
            _require(
                level.num_anchors == self.levels[0].num_anchors,
                f"levels[{index}]",
                f"{self.levels[0].num_anchors} anchors at each position, as on the first level",
                level.num_anchors,
            )
        _require(len(self.mean) == 3 and len(self.std) == 3, "mean, std", "three channels", (self.mean, self.std))
        in_range = all(-_LARGEST <= value <= _LARGEST for value in self.mean)
        _require(in_range, "mean", f"numbers from {-_LARGEST:g} to {_LARGEST:g}", self.mean)
        in_range = all(_SMALLEST <= value <= _LARGEST for value in self.std)
        _require(in_range, "std", f"numbers from {_SMALLEST:g} to {_LARGEST:g}", self.std)
        _require(self.color_order in ("RGB", "BGR"), "color_order", "RGB or BGR", self.color_order)
        _require(self.letterbox == "top-left", "letterbox", "'top-left'", self.letterbox)
        _require(0 <= self.score_threshold < 1, "score_threshold", "0 <= value < 1", self.score_threshold)
        _require(0 <= self.iou_threshold <= 1, "iou_threshold", "0 <= value <= 1", self.iou_threshold)
        for name in ("top_k", "max_detections"):
            value = getattr(self, name)
            _require(1 <= value <= MAX_DETECTIONS, name, f"1 to {MAX_DETECTIONS}", value)
        check_bit_depth(self.bit_depth)
        _require(self.precision in PRECISIONS, "precision", f"one of {', '.join(PRECISIONS)}", self.precision)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def num_anchors(self) -> int:
        """Number of anchors at one position, the same on every level."""
        return self.levels[0].num_anchors

    def to_json(self) -> str:
        """Return the contract as a JSON object with sorted keys; ``from_json`` restores an equal contract."""
        fields = dataclasses.asdict(self)
        for name, usual in LATER_FIELDS.items():  # older versions must refuse only other values
            if fields[name] == usual:
                del fields[name]
        return json.dumps({"schema": SCHEMA, **fields, "produced_by": dict(self.produced_by)}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> DetectorContract:
        """Restore a contract from the JSON of ``to_json``.

        Raises:
            ContractError: if the text is not JSON or has another schema, or a field is missing, unknown, or of a wrong
                type or value.
        """
        values = read_json(text, _CONTRACT, what="contract", fix="export the model again", schema=SCHEMA)
        levels = tuple(PyramidLevel(**_tuples(level)) for level in values["levels"])
        return cls(**{**_tuples(values), "levels": levels})


def package_versions(*packages: str) -> dict[str, str]:
    """Return the installed version of each distribution, for ``DetectorContract.produced_by``.

    Examples:
        >>> sorted(package_versions("numpy", "onnxruntime"))
        ['numpy', 'onnxruntime', 'retina-edge']
    """
    installed = {package: importlib.metadata.version(package) for package in packages}
    return {"retina-edge": __version__, **installed}


def check_bit_depth(bit_depth: int, name: str = "bit_depth") -> None:
    """Check the number of bits that image files of 16 bits use.

    Raises:
        ContractError: if it is not 9 to 16.

    Examples:
        >>> check_bit_depth(12)
    """
    if isinstance(bit_depth, bool) or not isinstance(bit_depth, int) or not 9 <= bit_depth <= BIT_DEPTH:
        raise ContractError(f"{name}: expected a number of bits from 9 to {BIT_DEPTH}, got {bit_depth}")


def check_input_size(input_size: tuple[int, int], name: str = "input_size") -> None:
    """Check that (height, width) are positive multiples of 32.

    Args:
        input_size: (height, width), pixels.
        name: name of the option, for the message.

    Raises:
        ContractError: if they are not; the message names the nearest allowed size.

    Examples:
        >>> check_input_size((416, 736))
        >>> check_input_size((500, 800))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        engines.core.errors.ContractError: input_size: ... got 500x800; use 512x800 ...
    """
    check_pair(name, input_size, "height and width")
    multiples = range(INPUT_MULTIPLE, MAX_INPUT_SIDE + 1, INPUT_MULTIPLE)
    if all(isinstance(side, int) and side in multiples for side in input_size):
        return
    # max(32, NaN) is 32, but max(NaN, 32) would be NaN.
    bounded = (min(max(INPUT_MULTIPLE, side), MAX_INPUT_SIDE) for side in input_size)
    nearest = "x".join(str(round(side / INPUT_MULTIPLE) * INPUT_MULTIPLE) for side in bounded)
    raise ContractError(
        f"{name}: expected height and width up to {MAX_INPUT_SIDE} in multiples of {INPUT_MULTIPLE}, "
        f"got {'x'.join(map(short, input_size))}; use {nearest} (frames of any size are letterboxed to the input size)"
    )


def check_anchors(name: str, anchor_sizes: Sequence[float], aspect_ratios: Sequence[float]) -> None:
    """Check the anchors of one pyramid level.

    Args:
        name: name of the level, for the message.
        anchor_sizes: sizes, input pixels.
        aspect_ratios: height / width.

    Raises:
        ContractError: if there are none or too many, or a value is out of range.

    Examples:
        >>> check_anchors("levels[0]", (32.0, 40.0), (0.5, 1.0, 2.0))
    """
    count, values = len(anchor_sizes) * len(aspect_ratios), (*anchor_sizes, *aspect_ratios)
    if not 0 < count <= MAX_ANCHORS:
        raise ContractError(f"{name}: expected 1 to {MAX_ANCHORS} anchors at each position, got {count}")
    if not all(_SMALLEST <= value <= _LARGEST for value in values):
        raise ContractError(
            f"{name}: expected anchor sizes and aspect ratios from {_SMALLEST:g} to {_LARGEST:g}, got {short(values)}"
        )


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    """Convert the lists of a JSON object to the tuples of the dataclasses."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


def _require(condition: bool, name: str, expected: str, got: object) -> None:
    require(condition, f"contract: {name}", expected, got)
