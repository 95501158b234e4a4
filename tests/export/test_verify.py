"""What was exported is changed afterwards: the verification must notice, and nothing may be written."""

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
from export import torch_export as deployable
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
    """The real frames as the network takes them."""
    return letterbox_batch(frames, contract.input_size)[0]


def changed(model: onnx.ModelProto, initializer: str, index: int, add: float) -> onnx.ModelProto:
    """A copy with ``add`` added to one number of the initializer whose name ends so."""
    model = copy.deepcopy(model)
    (tensor,) = (t for t in model.graph.initializer if t.name.endswith(initializer))
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


def test_an_honest_export_agrees(
    network: Network, contract: DetectorContract, images: Images, exported: onnx.ModelProto
) -> None:
    agreement = verified(network, contract, images, exported)
    assert agreement.images == 4
    assert agreement.detections > 80
    assert 0 < agreement.logits < 1e-4
    assert agreement.boxes <= BOX_TOLERANCE
    assert agreement.scores <= SCORE_TOLERANCE


def test_half_weights_differ_from_torch_by_their_rounding(
    network: Network, contract: DetectorContract, images: Images, exported: onnx.ModelProto
) -> None:
    agreement = verified(network, contract, images, exported, store_half(exported))
    assert 1e-5 < agreement.logits < 2e-2
    assert agreement.detections > 80


def test_a_changed_weight_is_noticed(
    network: Network, contract: DetectorContract, images: Images, exported: onnx.ModelProto
) -> None:
    sabotaged = changed(exported, "bbox_reg.bias", 5, 1e-3)
    with pytest.raises(ExportError, match=r"raw head box_0: expected .* at most 0.0001, found 0.001"):
        verified(network, contract, images, sabotaged)


def test_a_weight_changed_in_storage_is_noticed(
    network: Network, contract: DetectorContract, images: Images, exported: onnx.ModelProto
) -> None:
    sabotaged = changed(store_half(exported), "bbox_reg.weight.half", 0, 0.1)
    with pytest.raises(ExportError, match=r"raw head box_0, half weights: expected .*, found"):
        verified(network, contract, images, exported, sabotaged)


@pytest.mark.parametrize(
    ("index", "add", "message"),
    [
        pytest.param(0, 4.4, r"num_detections at \[0\]: expected 300 by the specification, found \d+", id="threshold"),
        pytest.param(1, -0.3, r"expected .* by the specification, found", id="overlap"),
        pytest.param(3, -0.1, r"boxes: expected the ONNX within 0.02 of the specification, found 0.1", id="width"),
        pytest.param(12, 1.0, r"(labels|boxes).*: expected", id="anchor"),
        pytest.param(-1, 1.0, r"(labels|boxes).*: expected", id="stride"),
    ],
)
def test_a_changed_parameter_is_noticed(
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


def test_changed_scores_are_noticed(
    network: Network, contract: DetectorContract, images: Images, exported: onnx.ModelProto
) -> None:
    """A sigmoid that is only nearly one: boxes, labels and their number stay as they are."""
    sabotaged = attach(exported, contract)
    (sigmoid,) = (node for function in sabotaged.functions for node in function.node if node.op_type == "Sigmoid")
    sigmoid.op_type = "HardSigmoid"
    with pytest.raises(ExportError, match=r"scores: expected the ONNX within 1e-05 of the specification, found 0\.0"):
        verified(network, contract, images, exported, written=sabotaged)


def test_what_the_checker_refuses_is_not_written(
    model: RetinaNet,
    contract: DetectorContract,
    frames: list[Images],
    exported: onnx.ModelProto,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A node whose type disagrees with the graph's own shapes: only the full check sees it."""
    wrong = copy.deepcopy(exported)
    wrong.graph.output[0].type.tensor_type.shape.dim[1].dim_value += 1
    monkeypatch.setattr(deployable, "export_network", lambda *_, **__: wrong)
    with pytest.raises(onnx.shape_inference.InferenceError):
        export_onnx(model, contract, tmp_path / "model.onnx", batch=1, images=frames)
    assert not list(tmp_path.iterdir())


def test_a_model_that_gives_nan_is_noticed(
    network: Network, contract: DetectorContract, images: Images, exported: onnx.ModelProto
) -> None:
    broken = copy.deepcopy(network)
    assert isinstance(broken.model, RetinaNet)
    torch.nn.init.constant_(broken.model.head.regression_head.bbox_reg.bias, torch.nan)
    with pytest.raises(ExportError, match="box_0: expected finite numbers from the model in torch"):
        verified(broken, contract, images, exported)


def test_nothing_is_written_then(
    model: RetinaNet,
    contract: DetectorContract,
    frames: list[Images],
    exported: onnx.ModelProto,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The file that was there stays."""
    sabotaged = changed(exported, "bbox_reg.bias", 5, 1e-3)
    monkeypatch.setattr(deployable, "export_network", lambda *_, **__: sabotaged)
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
def test_batches_to_verify_with(count: int, batch: int | None, sizes: list[int]) -> None:
    batches = list(batches_of(np.arange(count, dtype=np.uint8).reshape(-1, 1, 1, 1), batch))
    assert [len(chunk) for chunk in batches] == sizes
    assert set(np.concatenate(batches).ravel().tolist()) == set(range(count))


def test_the_error_is_one_of_ours() -> None:
    assert issubclass(ExportError, RetinaEdgeError)
