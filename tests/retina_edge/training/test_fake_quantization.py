"""Quantization-aware training rounds where the exported INT8 model does, with the same scales, and nothing else."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.numpy_helper
import pytest
import torch

from engines.core.letterbox import letterbox_batch
from export.network import Network, export_network
from export.precision.convolutions import sensitive_convolutions
from export.precision.quantization import quantize
from export.precision.ranges import ranges_on
from export.preprocess import Preprocess
from export.verify import onnx_heads
from retina_edge.model.checkpoint import Checkpoint, load_checkpoint
from retina_edge.model.config import octave_sizes
from retina_edge.model.retinanet import RetinaNet
from retina_edge.train import main
from retina_edge.training.fake_quantization import (
    MAX_INT8,
    FakeQuantize,
    FixedBatchNorm2d,
    QuantizedConv2d,
    add_fake_quantization,
)
from retina_edge.training.trainer import Trainer
from tests.interruption import interrupt_at
from tests.models import TINY, contract_of, lively
from tests.training_command import ON_STEP, assert_same_training, train_in_two_processes, training_data

pytestmark = pytest.mark.start_first

RESNET18 = dataclasses.replace(
    TINY, num_classes=3, backbone_levels=(3, 4, 5), anchor_sizes=octave_sizes((16, 32, 64, 128, 256))
)
CONFIGS = {
    "resnet18": RESNET18,
    "resnet50, no norm in the heads": dataclasses.replace(RESNET18, backbone="resnet50", head_norm="none"),
    "batch norm in the heads": dataclasses.replace(RESNET18, head_norm="batch"),
    "mobilenet": dataclasses.replace(RESNET18, backbone="mobilenet_v3_large"),
}
# Relative error of a scale in float16, which has 11 significant bits.
HALF = 1e-3
# Blocks of MobileNetV3-large that add their input to their output.
SKIP_BRANCHES = 10
Frames = npt.NDArray[np.uint8]


def scales_of(model: onnx.ModelProto, kind: str) -> set[float]:
    """Return the scales of activations (``QuantizeLinear``), or the largest scale of each weight."""
    values = {item.name: onnx.numpy_helper.to_array(item) for item in model.graph.initializer}
    scales = [values[node.input[1]] for node in model.graph.node if node.op_type == kind]
    return {float(scale.max()) for scale in scales if (scale.ndim == 0) == (kind == "QuantizeLinear")}


def heads_of(model: RetinaNet, x: torch.Tensor) -> npt.NDArray[np.float32]:
    with torch.no_grad():
        return np.concatenate([level.numpy().reshape(-1) for head in model(x) for level in head])


def rms_difference(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    return float(np.sqrt(np.mean((one - other) ** 2)))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "resnet18" else pytest.mark.slow) for name in CONFIGS]
)
def test_it_rounds_the_same_tensors_as_the_export(name: str, frames: list[Frames]) -> None:
    torch.manual_seed(0)
    model = lively(RetinaNet(CONFIGS[name]))
    contract = contract_of(model)
    images, _ = letterbox_batch(frames[:1], contract.input_size)
    network = export_network(Network(model, contract).eval(), contract, batch=1)
    ranges = ranges_on(network, [images])
    int8 = quantize(network, ranges, "tensorrt", sensitive_convolutions(network, "tensorrt"))
    x = Preprocess(contract)(torch.from_numpy(images))
    plain = heads_of(model, x)
    add_fake_quantization(model, [x])

    exported = sorted(scales_of(int8, "QuantizeLinear"))
    rounded = [module for module in model.modules() if isinstance(module, FakeQuantize)]
    trained = sorted({float(value) / MAX_INT8 for module in rounded for value in module.greatest})
    # In training, a tensor with several readers is rounded once for each of them, with the same scale.
    trained = [value for value, before in zip(trained, [0.0, *trained], strict=False) if value > before * (1 + 1e-6)]
    if name == "mobilenet":
        # Training rounds only tensors that the export rounds, too, but not the skip branches of MobileNet.
        assert all(min(abs(value / scale - 1) for scale in exported) < HALF for value in trained)
        assert sum(min(abs(value / scale - 1) for value in trained) >= HALF for scale in exported) <= SKIP_BRANCHES
    else:
        assert len(trained) > 20
        np.testing.assert_allclose(trained, exported, rtol=HALF)
    convolutions = [module for module in model.modules() if isinstance(module, QuantizedConv2d)]
    quantized = [node for node in int8.graph.node if node.op_type == "DequantizeLinear" and len(node.attribute)]
    # Folded statistics give each level its own weights.
    own_weights = model.config.head_norm == "batch"
    assert sum(len(module.inputs.greatest) if own_weights else 1 for module in convolutions) == len(quantized)

    # Scales in float16 and float32 round some values differently, so only the size of the rounding noise can agree.
    int8_heads = np.concatenate([level.reshape(-1) for level in onnx_heads(int8, [images])[0]])
    assert rms_difference(heads_of(model, x), plain) == pytest.approx(rms_difference(int8_heads, plain), rel=0.25)
    assert rms_difference(heads_of(model, x), plain) > 0


def test_values_round_to_steps_of_the_range() -> None:
    rounding = FakeQuantize(uses=2)
    for greatest in (12.7, 127.0, 6.0):  # the ranges of two uses in turn; the third value is for the first use again
        rounding(torch.tensor([-greatest, 0.0]))
    rounding(torch.zeros(1))
    rounding.observing = False
    x = torch.tensor([0.04, 0.06, -3.14, 12.0, 13.0, -13.0], requires_grad=True)
    first, second = rounding(x), rounding(x)
    torch.testing.assert_close(first, torch.tensor([0.0, 0.1, -3.1, 12.0, 12.7, -12.8]))
    torch.testing.assert_close(second, torch.tensor([0.0, 0.0, -3.0, 12.0, 13.0, -13.0]))
    first.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [1, 1, 1, 1, 0, 0]  # straight through, except for clipped values


def test_weights_and_statistics_of_a_checkpoint_do_not_change() -> None:
    torch.manual_seed(0)
    model = lively(RetinaNet(RESNET18))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    x = torch.rand(2, 3, 64, 64)
    add_fake_quantization(model, [x])
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    fixed = [module for module in model.modules() if isinstance(module, FixedBatchNorm2d)]
    model.train()
    sum(level.sum() for head in model(x) for level in head).backward()
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())  # statistics are fixed
    assert not any(module.training for module in fixed)
    assert len(fixed) == 20
    assert all(parameter.grad is not None for parameter in model.parameters())
    twin = copy.deepcopy(model)  # as for the average of the weights
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert heads_of(twin.eval(), x).std() > 0


def test_no_batches_is_an_error() -> None:
    with pytest.raises(ValueError, match="batches: expected at least one"):
        add_fake_quantization(RetinaNet(TINY), [])


def arguments(tiny_coco: Path, treecrowns: Path, checkpoint: Path, output: Path, *more: str) -> list[str]:
    return [
        *training_data(tiny_coco, treecrowns, output),
        "--qat",
        str(checkpoint),
        *"--batch 2 --workers 0 --epoch-samples 4 --amp off".split(),
        *more,
    ]


def test_qat_fine_tunes_a_checkpoint_and_resumes(
    tiny_coco: Path,
    treecrowns: Path,
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = tmp_path / "qat.pt"
    given = arguments(tiny_coco, treecrowns, checkpoint, output)
    assert main([*given, "--epochs", "2"]) == 0
    assert "epoch 2/2" in capsys.readouterr().err
    source, tuned = load_checkpoint(checkpoint), load_checkpoint(output)
    assert tuned.contract == source.contract
    assert tuned.recipe is not None
    assert (tuned.recipe["options"]["qat"], tuned.recipe["options"]["epochs"]) == (True, 2)
    assert tuned.recipe["model"]["backbone"] == source.config.backbone
    moved = [name for name, value in source.weights.items() if not torch.equal(tuned.weights[name], value)]
    assert {name.rpartition(".")[2] for name in moved} == {"weight", "bias"}  # but not the statistics
    assert len(moved) > 20

    # A resumed run gives the same result, with the ranges from its start, even if --qat names another checkpoint.
    again = tmp_path / "again.pt"
    given = arguments(tiny_coco, treecrowns, checkpoint, again)
    with monkeypatch.context() as patch:
        patch.setattr(ON_STEP, interrupt_at(3))
        assert main([*given, "--epochs", "2"]) == 130
    given = arguments(tiny_coco, treecrowns, output, again)
    assert main([*given, "--epochs", "2", "--resume"]) == 0
    one, other = (load_checkpoint(path.with_suffix(".last.pt")).training for path in (output, again))
    assert one is not None
    assert other is not None
    assert one["step"] == other["step"] == 4
    for part in ("model", "ema"):
        assert all(torch.equal(other[part][name], value) for name, value in one[part].items()), part

    # Without --qat, the run cannot be resumed.
    without = [word for word in given if word not in ("--qat", str(output))]
    capsys.readouterr()
    tiny = "--backbone resnet18 --backbone-levels 3 --fpn-channels 32 --head-depth 1 --head-norm group".split()
    assert main([*without, *tiny, *"--anchors 32 64 128 --input 128x160 --resume".split()]) == 1
    assert "qat: expected True, got False" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_fine_tune_heads_with_batch_normalization_as_one(
    tiny_coco: Path, treecrowns: Path, tmp_path: Path
) -> None:
    """The statistics of each level are fixed, so the batch of a process does not matter."""
    model = lively(RetinaNet(dataclasses.replace(TINY, head_norm="batch")))
    source = tmp_path / "batch.pt"
    Checkpoint(contract_of(model), model.config, dict(model.state_dict())).save(source)
    fixed = "--epochs 2 --optimizer sgd --lr 0.002 --warmup 1".split()
    one, two = tmp_path / "one.pt", tmp_path / "two.pt"
    assert main(arguments(tiny_coco, treecrowns, source, one, *fixed)) == 0
    train_in_two_processes(arguments(tiny_coco, treecrowns, source, two, *fixed, "--batch", "1"))
    # SGD changes weights by 1e-4 or more in these steps.
    assert_same_training(one, two, steps=4, tolerance=2e-6)


def test_qat_names_the_checkpoint_whose_losses_are_unknown(
    tiny_coco: Path, treecrowns: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "later.pt"
    recipe = {"model": {}, "augment": {}, "options": {"assigner": "later"}, "choices": []}
    dataclasses.replace(load_checkpoint(checkpoint), recipe=recipe).save(source)
    assert main(arguments(tiny_coco, treecrowns, source, tmp_path / "qat.pt")) == 1
    assert (
        f"{source}: damaged recipe: assigner: expected one of iou, atss, free-anchor, got later"
        in capsys.readouterr().err
    )


def test_the_time_of_qat_includes_the_measurement_of_the_ranges(
    tiny_coco: Path, treecrowns: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spent: list[float] = []

    def stopped(trainer: Trainer) -> None:
        spent.append(trainer.budget.spent)
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "run", stopped)
    assert main(arguments(tiny_coco, treecrowns, checkpoint, tmp_path / "qat.pt", "--minutes", "5")) == 130
    assert 0.01 < spent[0] < 60


def test_qat_refuses_model_options_and_other_classes(
    tiny_coco: Path, treecrowns: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "qat.pt"
    for more, option in (
        (("--backbone", "resnet18"), "--backbone"),
        (("--backbone", "resnet50"), "--backbone"),  # the default value, too
        (("--fpn-channels", "64"), "--fpn-channels"),
        (("--init", str(checkpoint)), "--init"),
        (("--recipe", "v2"), "--recipe"),
    ):
        with pytest.raises(SystemExit):
            main(arguments(tiny_coco, treecrowns, checkpoint, output, *more))
        assert f"{option}: not allowed with --qat" in capsys.readouterr().err
    assert main(arguments(tiny_coco, treecrowns, checkpoint, checkpoint)) == 1
    assert f"would overwrite the checkpoint {checkpoint}" in capsys.readouterr().err
    content = json.loads(tiny_coco.read_text())
    content["categories"][0]["name"] = "bush"
    other = tmp_path / "bushes.json"
    other.write_text(json.dumps(content))
    assert main(arguments(other, treecrowns, checkpoint, output)) == 1
    assert "expected the classes and category ids of the model, tree (1), got bush (1)" in capsys.readouterr().err
    assert not output.exists()
