"""The launches of the post-processing kernels: one plan, shared by the pycuda wrapper and the TensorRT plugins.

    class logits, parameters                    ─ Filter ▶ keys, index, count
    keys, index, count, box deltas, parameters  ─ Select ▶ candidate logits, boxes, labels
    candidate logits, boxes, labels, parameters ─ NMS    ▶ num_detections, boxes, scores, labels

A tensor that one launch writes and the next one reads has the same name in both.

The arguments of a kernel are its input pointers, then ``integers``, then its output pointers, as TensorRT requires of
ahead-of-time plugins.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from engines.core.contract import DetectorContract
from engines.core.tensor_names import CANDIDATES, OUTPUTS, PARAMETERS, head_names
from engines.plugins.parameters import HEADER

# Limits that follow from the kernels' shared memory and from the numbers of levels that they are compiled for. The
# constants at the top of filter.cu, select.cu and nms.cu must agree with them.
MAX_TOP_K = 1024
MAX_DETECTIONS = 1024
LEVELS = range(2, 7)
FILTER_THREADS = 512
SELECT_THREADS = 512
NMS_THREADS = 1024
# Number of logits that a Filter block reads. Smaller tiles spread better over the multiprocessors; larger tiles need
# less scratch memory. A power of two.
TILE = 32768
# Outputs of Filter, which Select reads: sortable logits, their flat indices, and the number of logits in each tile.
FILTER_OUTPUTS = ("keys", "index", "count")


@dataclass(frozen=True)
class Tensor:
    """A tensor that a kernel reads or writes.

    Attributes:
        name: name of the tensor, the same in every launch and for the caller.
        shape: shape of the tensor; the batch is the first dimension.
        dtype: NumPy's name for the type of the elements.

    Examples:
        >>> Tensor("boxes", (2, 300, 4), "float32").nbytes
        9600
    """

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """Size in memory, bytes."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Geometry:
    """The sizes that decode and NMS work on.

    Attributes:
        num_classes: number of classes C.
        num_anchors: number of anchors A at one position.
        feature_sizes: (height, width) of the raw heads of each level.
        top_k: largest number of candidates kept on each level.
        max_detections: largest number of detections K kept in each image.
        half: True for raw heads in float16, False for float32.

    Raises:
        ValueError: if a size exceeds a limit of the kernels.

    Examples:
        >>> geometry = Geometry(3, 9, ((8, 8), (4, 4)), top_k=100, max_detections=50, half=True)
        >>> geometry.level_logits
        (1728, 432)
        >>> geometry.inputs(2)["box_1"]
        Tensor(name='box_1', shape=(2, 36, 4, 4), dtype='float16')
    """

    num_classes: int
    num_anchors: int
    feature_sizes: tuple[tuple[int, int], ...]
    top_k: int
    max_detections: int
    half: bool

    def __post_init__(self) -> None:
        if len(self.feature_sizes) not in LEVELS:
            raise ValueError(f"kernels: expected {LEVELS[0]} to {LEVELS[-1]} levels, got {len(self.feature_sizes)}")
        for name, limit in (("top_k", MAX_TOP_K), ("max_detections", MAX_DETECTIONS)):
            if not 1 <= getattr(self, name) <= limit:
                raise ValueError(f"kernels: expected {name} from 1 to {limit}, got {getattr(self, name)}")
        if max(self.level_logits) >= 2**31:
            raise ValueError(f"kernels: expected fewer than 2^31 logits on a level, got {max(self.level_logits)}")

    @classmethod
    def of(cls, contract: DetectorContract, *, half: bool) -> Geometry:
        """Return the geometry of a contract, for raw heads in float16 (``half``) or float32."""
        return cls(
            contract.num_classes,
            contract.num_anchors,
            tuple(level.feature_size for level in contract.levels),
            contract.top_k,
            contract.max_detections,
            half,
        )

    def inputs(self, batch: int) -> dict[str, Tensor]:
        """Return the raw heads of ``batch`` images and the parameters, by name; a batch of -1 means any number."""
        levels, kind = len(self.feature_sizes), "float16" if self.half else "float32"
        shapes = [
            (batch, self.num_anchors * rows, *size) for rows in (self.num_classes, 4) for size in self.feature_sizes
        ]
        tensors = [Tensor(name, shape, kind) for name, shape in zip(head_names(levels), shapes, strict=True)]
        tensors.append(Tensor(PARAMETERS, (HEADER + levels * (4 * self.num_anchors + 2),), "float32"))
        return {tensor.name: tensor for tensor in tensors}

    @property
    def level_logits(self) -> tuple[int, ...]:
        """Number of class logits of one image on each level: A * C * height * width."""
        return tuple(self.num_anchors * self.num_classes * height * width for height, width in self.feature_sizes)


@dataclass(frozen=True)
class Launch:
    """One kernel launch.

    Attributes:
        entry: name of the kernel, whose code is ``ptx/{entry}.ptx``.
        grid: number of blocks, (x, y).
        block: number of threads in a block.
        inputs: names of the tensors that the kernel reads.
        integers: int32 arguments between the input and the output pointers.
        outputs: tensors that the kernel writes completely.
    """

    entry: str
    grid: tuple[int, int]
    block: int
    inputs: tuple[str, ...]
    integers: tuple[int, ...]
    outputs: tuple[Tensor, ...]


@functools.cache
def postprocess_launches(geometry: Geometry, batch: int) -> tuple[Launch, Launch, Launch]:
    """Return the launches of Filter, Select and NMS for ``batch`` images.

    Examples:
        >>> geometry = Geometry(3, 9, ((8, 8), (4, 4)), top_k=100, max_detections=50, half=True)
        >>> for launch in postprocess_launches(geometry, 1):
        ...     print(launch.entry, launch.grid, [tensor.name for tensor in launch.outputs])
        filter_f16_2 (2, 1) ['keys', 'index', 'count']
        select_f16_2 (2, 1) ['candidate_logits', 'candidate_boxes', 'candidate_labels']
        nms (1, 1) ['num_detections', 'boxes', 'scores', 'labels']
    """
    levels, top_k, kept = len(geometry.feature_sizes), geometry.top_k, geometry.max_detections
    suffix = f"{'f16' if geometry.half else 'f32'}_{levels}"
    tiles = sum(math.ceil(count / TILE) for count in geometry.level_logits)
    sizes = tuple(side for size in geometry.feature_sizes for side in size)
    heads = head_names(levels)
    rows = (batch, levels * top_k)
    return (
        Launch(
            entry=f"filter_{suffix}",
            grid=(tiles, batch),
            block=FILTER_THREADS,
            inputs=(*heads[:levels], PARAMETERS),
            integers=(*geometry.level_logits, TILE, top_k),
            outputs=_outputs(FILTER_OUTPUTS, ((batch, tiles, top_k), (batch, tiles, top_k), (batch, tiles)), "iii"),
        ),
        Launch(
            entry=f"select_{suffix}",
            grid=(levels, batch),
            block=SELECT_THREADS,
            inputs=(*FILTER_OUTPUTS, *heads[levels:], PARAMETERS),
            integers=(*sizes, geometry.num_anchors, geometry.num_classes, TILE, top_k),
            outputs=_outputs(CANDIDATES, (rows, (*rows, 4), rows), "ffi"),
        ),
        Launch(
            entry="nms",
            grid=(batch, 1),
            block=NMS_THREADS,
            inputs=(*CANDIDATES, PARAMETERS),
            integers=(levels, top_k, kept),
            outputs=_outputs(OUTPUTS, ((batch,), (batch, kept, 4), (batch, kept), (batch, kept)), "iffi"),
        ),
    )


def _outputs(names: tuple[str, ...], shapes: tuple[tuple[int, ...], ...], types: str) -> tuple[Tensor, ...]:
    return tuple(map(Tensor, names, shapes, ({"i": "int32", "f": "float32"}[kind] for kind in types)))
