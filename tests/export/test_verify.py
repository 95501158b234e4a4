"""Tests of the verification: an export that is changed afterwards is detected, and nothing is written."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnx.numpy_helper
import onnx.shape_inference
import pytest
import torch

from engines.core.contract import DetectorContract
from engines.core.errors import RetinaEdgeError
from engines.core.letterbox import letterbox_batch
from engines.core.tensor_names import PARAMETERS
from export import torch_export
from export.attach import attach
from export.errors import ExportError
from export.half_weights import store_half
from export.network import Network, torch_heads
from export.torch_export import export_onnx
from export.verify import BOX_TOLERANCE, SCORE_TOLERANCE, Agreement, batches_of, verify
from retina_edge.model.retinanet import RetinaNet

Images = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def images(frames: list[Images], contract: DetectorContract) -> Images:
    """The real frames, letterboxed."""
    return letterbox_batch(frames, contract.input_size)[0]


def changed(model: onnx.ModelProto, suffix: str, index: int, add: float) -> onnx.ModelProto:
    """Return a copy with ``add`` added to one value of the initializer whose name ends in ``suffix``."""
    model = copy.deepcopy(model)
    (tensor,) = (t for t in model.graph.initializer if t.name.endswith(suffix))
    values = onnx.numpy_helper.to_array(tensor).copy()
    values.reshape(-1)[index] += add
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    return model


def verified(
    network: Network,
    contract: DetectorContract,
    images: Images,
    exported: onnx.ModelProto,
    stored: onnx.ModelProto | None = None,
    written: onnx.ModelProto | None = None,
) -> Agreement:
    """Verify a network; by default the stored network and the written file are unchanged."""
    stored = stored or exported
    written = written or attach(stored, contract)
    return verify(
        lambda chunk: torch_heads(network, chunk),
        exported,
        stored,
        written.SerializeToString(),
        contract,
        images,
        batch=1,
    )


def test_an_unchanged_export_agrees_with_torch(
    network: Network, contract: DetectorContract, images: Images, exported: onnx.ModelProto
) -> None:
    agreement = verified(network, contract, images, exported)
    assert agreement.images == 4
    assert agreement.detections > 80
    assert 0 < agreement.logits < 1e-4
    assert agreement.boxes <= BOX_TOLERANCE
    assert agreement.scores <= SCORE_TOLERANCE


def test_half_weights_differ_from_torch_only_by_their_rounding(
    network: Network, contract: DetectorContract, images: Images, exported: onnx.ModelProto
) -> None:
    agreement = verified(network, contract, images, exported, store_half(exported))
    assert 1e-5 < agreement.logits < 2e-2
    assert agreement.detections > 80


def test_a_changed_weight_is_detected(
    network: Network, contract: DetectorContract, images: Images, exported: onnx.ModelProto
) -> None:
    sabotaged = changed(exported, "bbox_reg.bias", 5, 1e-3)
    with pytest.raises(ExportError, match=r"raw head box_0: expected .* at most 0.0001, got 0.001"):
        verified(network, contract, images, sabotaged)


def test_a_weight_changed_in_storage_is_detected(
    network: Network, contract: DetectorContract, images: Images, exported: onnx.ModelProto
) -> None:
    sabotaged = changed(store_half(exported), "bbox_reg.weight.half", 0, 0.1)
    with pytest.raises(ExportError, match=r"raw head box_0, half weights: expected .*, got"):
        verified(network, contract, images, exported, sabotaged)


@pytest.mark.parametrize(
    ("index", "add", "message"),
    [
        pytest.param(
            0, 4.4, r"num_detections at \[0\]: expected 300 as in the specification, got \d+ from", id="score threshold"
        ),
        pytest.param(1, -0.3, r"expected .* as in the specification, got", id="IoU threshold"),
        pytest.param(3, -0.1, r"boxes: expected the ONNX within 0.02 of .*, got a difference of 0.1", id="input width"),
        pytest.param(12, 1.0, r"(labels|boxes).*: expected", id="anchor"),
        pytest.param(-1, 1.0, r"(labels|boxes).*: expected", id="stride"),
    ],
)
def test_a_changed_parameter_is_detected(
    network: Network,
    contract: DetectorContract,
    images: Images,
    exported: onnx.ModelProto,
    index: int,
    add: float,
    message: str,
) -> None:
    sabotaged = changed(attach(exported, contract), PARAMETERS, index, add)
    with pytest.raises(ExportError, match=message):
        verified(network, contract, images[:1], exported, written=sabotaged)


def test_changed_scores_are_detected(
    network: Network, contract: DetectorContract, images: Images, exported: onnx.ModelProto
) -> None:
    """An approximation of the sigmoid changes only the scores, not boxes, labels or counts."""
    sabotaged = attach(exported, contract)
    (sigmoid,) = (node for function in sabotaged.functions for node in function.node if node.op_type == "Sigmoid")
    sigmoid.op_type = "HardSigmoid"
    with pytest.raises(ExportError, match=r"scores: expected the ONNX within 1e-05 of .*, got a difference of 0\.0"):
        verified(network, contract, images, exported, written=sabotaged)


def test_a_model_that_the_checker_refuses_is_not_written(
    model: RetinaNet,
    contract: DetectorContract,
    frames: list[Images],
    exported: onnx.ModelProto,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A node disagrees with the shapes of the graph, which only the full check detects."""
    wrong = copy.deepcopy(exported)
    wrong.graph.output[0].type.tensor_type.shape.dim[1].dim_value += 1
    monkeypatch.setattr(torch_export, "export_network", lambda *_, **__: wrong)
    with pytest.raises(onnx.shape_inference.InferenceError):
        export_onnx(model, contract, tmp_path / "model.onnx", batch=1, images=frames)
    assert not list(tmp_path.iterdir())


def test_a_model_that_returns_nan_is_detected(
    network: Network, contract: DetectorContract, images: Images, exported: onnx.ModelProto
) -> None:
    broken = copy.deepcopy(network)
    assert isinstance(broken.model, RetinaNet)
    torch.nn.init.constant_(broken.model.head.regression_head.bbox_reg.bias, torch.nan)
    with pytest.raises(ExportError, match="box_0: expected finite numbers from the model in torch"):
        verified(broken, contract, images, exported)


def test_a_failed_verification_keeps_the_old_file(
    model: RetinaNet,
    contract: DetectorContract,
    frames: list[Images],
    exported: onnx.ModelProto,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sabotaged = changed(exported, "bbox_reg.bias", 5, 1e-3)
    monkeypatch.setattr(torch_export, "export_network", lambda *_, **__: sabotaged)
    path = tmp_path / "model.onnx"
    path.write_bytes(b"the old file")
    with pytest.raises(ExportError, match="the ONNX was not written"):
        export_onnx(model, contract, path, batch=1, images=frames)
    assert [item.name for item in tmp_path.iterdir()] == ["model.onnx"]
    assert path.read_bytes() == b"the old file"


@pytest.mark.parametrize(
    ("count", "batch", "sizes"),
    [(1, 1, [1]), (5, 2, [2, 2, 2]), (1, 4, [4]), (5, None, [2, 1, 2]), (1, None, [2])],
)
def test_batches_hold_all_images_and_are_filled_up(count: int, batch: int | None, sizes: list[int]) -> None:
    batches = list(batches_of(np.arange(count, dtype=np.uint8).reshape(-1, 1, 1, 1), batch))
    assert [len(chunk) for chunk in batches] == sizes
    assert set(np.concatenate(batches).ravel().tolist()) == set(range(count))


def test_export_errors_are_errors_of_retina_edge() -> None:
    assert issubclass(ExportError, RetinaEdgeError)
