"""Tests of the launch plan, with sizes calculated by hand for torchvision's RetinaNet at 800 by 800 pixels."""

from __future__ import annotations

import dataclasses

import pytest

from engines.plugins.launch import MAX_DETECTIONS, MAX_TOP_K, Geometry, Tensor, postprocess_launches

COCO = Geometry(91, 9, ((100, 100), (50, 50), (25, 25), (13, 13), (7, 7)), 1000, 300, half=True)


def test_the_plan_for_torchvision_at_800() -> None:
    filter_, select, nms = postprocess_launches(COCO, 2)
    # 819 channels, so 250 + 63 + 16 + 5 + 2 tiles of 32,768 logits.
    assert filter_.entry == "filter_f16_5"
    assert (filter_.grid, filter_.block) == ((336, 2), 512)
    assert filter_.integers == (8190000, 2047500, 511875, 138411, 40131, 32768, 1000)
    assert filter_.inputs == ("cls_0", "cls_1", "cls_2", "cls_3", "cls_4", "parameters")
    assert filter_.outputs == (
        Tensor("keys", (2, 336, 1000), "int32"),
        Tensor("index", (2, 336, 1000), "int32"),
        Tensor("count", (2, 336), "int32"),
    )
    assert (select.entry, select.grid, select.block) == ("select_f16_5", (5, 2), 512)
    assert select.integers == (100, 100, 50, 50, 25, 25, 13, 13, 7, 7, 9, 91, 32768, 1000)
    assert select.inputs == ("keys", "index", "count", "box_0", "box_1", "box_2", "box_3", "box_4", "parameters")
    assert select.outputs == (
        Tensor("candidate_logits", (2, 5000), "float32"),
        Tensor("candidate_boxes", (2, 5000, 4), "float32"),
        Tensor("candidate_labels", (2, 5000), "int32"),
    )
    assert (nms.entry, nms.grid, nms.block, nms.integers) == ("nms", (2, 1), 1024, (5, 1000, 300))
    assert nms.inputs == ("candidate_logits", "candidate_boxes", "candidate_labels", "parameters")
    assert nms.outputs == (
        Tensor("num_detections", (2,), "int32"),
        Tensor("boxes", (2, 300, 4), "float32"),
        Tensor("scores", (2, 300), "float32"),
        Tensor("labels", (2, 300), "int32"),
    )
    assert postprocess_launches(dataclasses.replace(COCO, half=False), 1)[0].entry == "filter_f32_5"


def test_the_inputs_for_torchvision_at_800() -> None:
    inputs = COCO.inputs(2)
    assert list(inputs) == [*(f"{head}_{level}" for head in ("cls", "box") for level in range(5)), "parameters"]
    assert inputs["cls_3"] == Tensor("cls_3", (2, 819, 13, 13), "float16")
    assert inputs["box_0"] == Tensor("box_0", (2, 36, 100, 100), "float16")
    assert inputs["parameters"] == Tensor("parameters", (8 + 5 * 9 * 4 + 5 * 2,), "float32")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"top_k": MAX_TOP_K + 1}, "top_k from 1 to 1024, got 1025"),
        ({"max_detections": MAX_DETECTIONS + 1}, "max_detections from 1 to 1024"),
        ({"feature_sizes": ((8, 8),)}, "2 to 6 levels, got 1"),
        ({"num_classes": 30000}, "fewer than 2\\^31 logits"),
    ],
)
def test_sizes_beyond_the_limits_of_the_kernels_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(COCO, **change)  # type: ignore[arg-type]
