"""What the three kernels are launched with: one plan, for the pycuda wrapper and for the TensorRT plugins alike.

    class logits, parameters        ─ Filter ▶ keys, index, count
    those, box deltas, parameters   ─ Select ▶ candidate logits, boxes, labels
    those, parameters               ─ NMS    ▶ num_detections, boxes, scores, labels

Tensors go from one launch to the next by their names.

The arguments of a kernel are its input pointers, then ``integers``, then its output pointers: TensorRT's order for
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

# Limits of the kernels' shared memory and of the entries compiled; see the head of filter.cu, select.cu, nms.cu.
MAX_TOP_K = 1024
MAX_DETECTIONS = 1024
LEVELS = range(2, 7)
FILTER_THREADS = 512
BLOCK_THREADS = 1024
# Logits a Filter block reads. Smaller tiles spread better over the multiprocessors, larger ones leave less scratch.
TILE = 32768
# What Filter leaves for Select: sortable logits, their flat indices, and how many there are.
FILTER_OUTPUTS = ("keys", "index", "count")


@dataclass(frozen=True)
class Tensor:
    """A tensor that a kernel reads or writes.

    Attributes:
        name: as every launch and the caller know it.
        shape: the batch first.
        dtype: NumPy's name for the type of its elements.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """Of the memory it takes."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Geometry:
    """The sizes that Decode and NMS work on.

    Attributes:
        num_classes: C.
        num_anchors: A, at one position.
        feature_sizes: (height, width) of each level's heads.
        top_k: candidates kept on each level.
        max_detections: K, detections kept in each image.
        half: the heads are float16; float32 otherwise.

    Raises:
        ValueError: beyond what the kernels can do.
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
            raise ValueError(f"kernels: expected less than 2^31 logits on a level, got {max(self.level_logits)}")

    @classmethod
    def of(cls, contract: DetectorContract, *, half: bool) -> Geometry:
        """The geometry of a contract whose heads are float16 or float32."""
        return cls(
            contract.num_classes,
            contract.num_anchors,
            tuple(level.feature_size for level in contract.levels),
            contract.top_k,
            contract.max_detections,
            half,
        )

    def inputs(self, batch: int) -> dict[str, Tensor]:
        """The raw heads of ``batch`` images, -1 for any number, and the parameters, by name."""
        levels, kind = len(self.feature_sizes), "float16" if self.half else "float32"
        shapes = [
            (batch, self.num_anchors * rows, *size) for rows in (self.num_classes, 4) for size in self.feature_sizes
        ]
        tensors = [Tensor(name, shape, kind) for name, shape in zip(head_names(levels), shapes, strict=True)]
        tensors.append(Tensor(PARAMETERS, (HEADER + levels * (4 * self.num_anchors + 2),), "float32"))
        return {tensor.name: tensor for tensor in tensors}

    @property
    def level_logits(self) -> tuple[int, ...]:
        """Class logits of one image on each level: A C H W."""
        return tuple(self.num_anchors * self.num_classes * height * width for height, width in self.feature_sizes)


@dataclass(frozen=True)
class Launch:
    """One kernel launch.

    Attributes:
        entry: name of the kernel; its code is ``ptx/{entry}.ptx``.
        grid: (x, y) blocks.
        block: threads of a block.
        inputs: names of the tensors it reads.
        integers: int32 arguments between the input and the output pointers.
        outputs: the tensors it writes, every element of them.
    """

    entry: str
    grid: tuple[int, int]
    block: int
    inputs: tuple[str, ...]
    integers: tuple[int, ...]
    outputs: tuple[Tensor, ...]


@functools.cache
def postprocess_launches(geometry: Geometry, batch: int) -> tuple[Launch, Launch, Launch]:
    """Filter, Select and NMS for ``batch`` images."""
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
            block=BLOCK_THREADS,
            inputs=(*FILTER_OUTPUTS, *heads[levels:], PARAMETERS),
            integers=(*sizes, geometry.num_anchors, geometry.num_classes, TILE, top_k),
            outputs=_outputs(CANDIDATES, (rows, (*rows, 4), rows), "ffi"),
        ),
        Launch(
            entry="nms",
            grid=(batch, 1),
            block=BLOCK_THREADS,
            inputs=(*CANDIDATES, PARAMETERS),
            integers=(levels, top_k, kept),
            outputs=_outputs(OUTPUTS, ((batch,), (batch, kept, 4), (batch, kept), (batch, kept)), "iffi"),
        ),
    )


def _outputs(names: tuple[str, ...], shapes: tuple[tuple[int, ...], ...], types: str) -> tuple[Tensor, ...]:
    return tuple(map(Tensor, names, shapes, ({"i": "int32", "f": "float32"}[kind] for kind in types)))
