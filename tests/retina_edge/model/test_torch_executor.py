"""The torch executor: it post-processes as the contract says. tests/test_parity.py compares it with other executors."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import torch
from torchvision.ops import box_iou

from retina_edge.model.retinanet import RetinaNet
from retina_edge.model.torch_executor import TorchExecutor
from tests.models import TINY, contract_of, lively


def test_with_class_agnostic_nms_no_two_boxes_overlap_more_than_the_threshold(
    frames: list[npt.NDArray[np.uint8]],
) -> None:
    torch.manual_seed(0)  # with other weights, one class may be absent
    model = lively(RetinaNet(dataclasses.replace(TINY, num_classes=3)))
    largest = {}
    for agnostic in (False, True):
        contract = dataclasses.replace(contract_of(model), iou_threshold=0.4, agnostic=agnostic)
        executor = TorchExecutor(model, contract, device=torch.device("cpu"))
        result = executor.result(executor.submit(frames[:1]))
        boxes = torch.from_numpy(result.boxes[0, : result.num_detections[0]])
        largest[agnostic] = float(box_iou(boxes, boxes).nan_to_num().fill_diagonal_(0).max())  # empty boxes: 0/0
        assert len(np.unique(result.labels[0])) == 3
    assert largest[True] <= 0.4
    assert largest[False] > 0.9
