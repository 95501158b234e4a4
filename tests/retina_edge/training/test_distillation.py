"""Distillation: only the student learns, a run resumes bit for bit, and teachers that do not fit are refused."""

from __future__ import annotations

import csv
import dataclasses
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engines.core.contract import DetectorContract
from engines.core.errors import ContractError, ModelFileError, TrainingError
from export.preprocess import Preprocess
from retina_edge import api
from retina_edge.api.given_options import GivenOptions
from retina_edge.data.augment_options import AugmentOptions
from retina_edge.data.dataset import DetectionDataset
from retina_edge.data.load import load_dataset
from retina_edge.data.summary import DataSummary
from retina_edge.export import main as export
from retina_edge.model.checkpoint import Checkpoint, load_checkpoint
from retina_edge.model.config import ModelConfig, octave_sizes
from retina_edge.model.retinanet import RetinaNet
from retina_edge.train import main
from retina_edge.training.distillation import Distillation, attach
from retina_edge.training.load_teacher import load_teacher
from retina_edge.training.teacher import Teacher, introduce
from retina_edge.training.trainer import Trainer
from tests.interruption import interrupt_at
from tests.models import TINY, contract_of, lively
from tests.retina_edge.training.test_trainer import CPU, SIZE, assert_equal, make_trainer
from tests.training_command import ON_STEP, assert_same_training, train_in_two_processes, training_data

pytestmark = pytest.mark.start_first

# Another number of channels, so that the student needs an adaptation, and another depth.
BIG = dataclasses.replace(TINY, fpn_channels=64, head_depth=2)
SQUARE = DataSummary(10, 0, (400, 400), {"tree": 9}, (20.0, 40.0, 60.0))
# bfloat16 has 8 significant bits, and a loss is a sum of many rounded outputs of twenty layers.
BF16_LOSS = 0.1


@pytest.fixture(scope="module")
def data(tiny_coco: Path, treecrowns: Path) -> DetectionDataset:
    return load_dataset(tiny_coco, treecrowns / "images")


def save_model(path: Path, config: ModelConfig, *, seed: int = 5, **changes: Any) -> Path:
    """Write the checkpoint of a lively model for inputs of ``SIZE``, with changes of its contract."""
    torch.manual_seed(seed)
    model = lively(RetinaNet(config))
    contract = dataclasses.replace(contract_of(model, SIZE), **changes)
    Checkpoint(contract, config, dict(model.state_dict())).save(path)
    return path


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("teacher") / "big.pt", BIG)


@pytest.fixture(scope="module")
def big_onnx(big: Path) -> Path:
    """The teacher as an ONNX for two images at once."""
    path = big.with_suffix(".onnx")
    assert export([str(big), "-o", str(path), "--batch", "2"]) == 0
    return path


def distilling(data: DetectionDataset, output: Path, teacher: Path, **changes: Any) -> Trainer:
    trainer = make_trainer(data, output, **changes)
    attach(trainer, load_teacher(teacher, CPU.device))
    return trainer


def batch_of(trainer: Trainer) -> tuple[Tensor, list[dict[str, Tensor]]]:
    images, targets = next(iter(trainer.loader))
    return images, targets


@pytest.mark.parametrize("amp", [None, torch.bfloat16])
def test_a_student_that_equals_its_teacher_has_no_loss(tmp_path: Path, amp: torch.dtype | None) -> None:
    path = save_model(tmp_path / "same.pt", TINY)
    student = load_checkpoint(path).build_model()
    teacher = load_teacher(path, CPU.device)
    distillation = Distillation(teacher, student, weight=1.0, amp=amp, group=CPU, seed=0)
    assert distillation.parameters() == []
    images = torch.randint(0, 256, (2, *SIZE, 3), dtype=torch.uint8)
    targets = [{"boxes": torch.tensor([[8.0, 8, 70, 60]])}, {"boxes": torch.zeros(0, 4)}]
    x = Preprocess(teacher.contract)(images).contiguous(memory_format=torch.channels_last)
    student.to(memory_format=torch.channels_last)
    with torch.autocast("cpu", amp, enabled=amp is not None):
        heads = student(x)
    losses = distillation(images, heads, targets)
    assert {name: loss.item() for name, loss in losses.items()} == {
        "distill_logits": 0,
        "distill_boxes": 0,
        "distill_features": 0,
    }


def test_each_teacher_gets_images_normalized_as_in_its_own_training(tmp_path: Path) -> None:
    """With BGR and another mean, the same weights give other outputs: those of the teacher's own contract."""
    torch.manual_seed(0)
    images = torch.randint(0, 256, (1, *SIZE, 3), dtype=torch.uint8)
    usual = load_teacher(save_model(tmp_path / "rgb.pt", TINY), CPU.device)(images)
    changes: dict[str, Any] = {"color_order": "BGR", "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    path = save_model(tmp_path / "bgr.pt", TINY, **changes)
    output = load_teacher(path, CPU.device)(images)
    with torch.no_grad():
        expected, _ = load_checkpoint(path).build_model()(images.permute(0, 3, 1, 2) / 255)
    for logits, wanted, other in zip(output.logits, expected, usual.logits, strict=True):
        torch.testing.assert_close(logits, wanted, atol=1e-4, rtol=0)
        assert (logits - other).abs().max() > 0.1


def test_only_the_student_and_its_adaptation_learn(data: DetectionDataset, tmp_path: Path, big: Path) -> None:
    trainer = distilling(data, tmp_path / "model.pt", big)
    assert trainer.distillation is not None
    teacher = trainer.distillation.teacher.model  # type: ignore[attr-defined]
    modules = {"teacher": teacher, "student": trainer.model, "adaptation": trainer.distillation.adaptation}
    before = {name: copied(module.state_dict()) for name, module in modules.items()}
    trainer.parallel.train()
    losses = trainer.train_step(*batch_of(trainer))
    assert list(losses) == [
        "classification",
        "bbox_regression",
        "distill_logits",
        "distill_boxes",
        "distill_features",
    ]
    assert min(losses.values()) > 0
    assert not teacher.training
    assert all(value.grad is None for value in teacher.parameters())
    changed = {
        name: [key for key, value in module.state_dict().items() if not torch.equal(value, before[name][key])]
        for name, module in modules.items()
    }
    assert changed["teacher"] == []
    assert changed["adaptation"] == ["conv.weight"]
    assert len(changed["student"]) == len(before["student"])


def copied(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in weights.items()}


def test_the_losses_of_the_labels_stay_and_those_of_the_teacher_follow_the_weight(
    data: DetectionDataset, tmp_path: Path, big: Path
) -> None:
    alone = make_trainer(data, tmp_path / "model.pt")
    batch = batch_of(alone)
    losses = []
    for trainer in (
        alone,
        distilling(data, tmp_path / "model.pt", big),
        distilling(data, tmp_path / "model.pt", big, distill_weight=0.5),
    ):
        trainer.parallel.train()
        losses.append(trainer.train_step(*batch))
    assert list(losses[0]) == ["classification", "bbox_regression"]
    for name, value in losses[0].items():
        assert losses[1][name] == losses[2][name] == value
    for name in losses[1].keys() - losses[0].keys():
        assert losses[2][name] == pytest.approx(losses[1][name] / 2, rel=1e-6)


def test_distilling_brings_a_student_closer_to_its_teacher(data: DetectionDataset, tmp_path: Path, big: Path) -> None:
    run = {"optimizer": "adamw", "learning_rate": 2e-3, "schedule": "constant", "ema": 0.0}
    trainer = distilling(data, tmp_path / "model.pt", big, **run)
    batch = batch_of(trainer)
    trainer.parallel.train()
    history = []
    for trainer.step in range(40):
        history.append(trainer.train_step(*batch))
    for name in ("distill_logits", "distill_boxes", "distill_features"):
        assert history[-1][name] < 0.6 * history[0][name]


def test_bfloat16_gives_about_the_same_losses(data: DetectionDataset, tmp_path: Path, big: Path) -> None:
    losses = []
    for amp in ("off", "bf16"):
        trainer = distilling(data, tmp_path / "model.pt", big, amp=amp)
        trainer.parallel.train()
        losses.append(trainer.train_step(*batch_of(trainer)))
    for name, value in losses[0].items():
        assert losses[1][name] == pytest.approx(value, rel=BF16_LOSS)
        assert losses[1][name] != value


@pytest.mark.parametrize("stop_after", [3, 4])  # inside an epoch, and at its end
def test_a_resumed_run_with_a_teacher_equals_an_uninterrupted_one(
    data: DetectionDataset, tmp_path: Path, big: Path, stop_after: int
) -> None:
    whole = distilling(data, tmp_path / "whole.pt", big, optimizer="adamw")
    whole.run()
    broken = distilling(data, tmp_path / "broken.pt", big, optimizer="adamw", on_step=interrupt_at(stop_after))
    with pytest.raises(KeyboardInterrupt):
        broken.run()
    renamed = tmp_path / "renamed.pt"
    shutil.copy(big, renamed)
    resumed = distilling(data, tmp_path / "broken.pt", renamed, optimizer="adamw")
    resumed.resume()
    resumed.run()
    actual, expected = load_checkpoint(resumed.last_path), load_checkpoint(whole.last_path)
    assert_equal(actual.training, expected.training)
    assert_equal(actual.weights, expected.weights)
    assert expected.training is not None
    assert expected.training["adaptation"]["conv.weight"].shape == (64, 32, 1, 1)
    (_, row) = csv.DictReader((tmp_path / "broken.csv").read_text().splitlines())
    assert float(row["distill_features"]) > 0


def test_a_long_forward_pass_of_the_teacher_is_abandoned_after_ctrl_c(
    data: DetectionDataset, tmp_path: Path, big: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retina_edge.training.step_guard.PATIENCE", 0.0)
    whole = distilling(data, tmp_path / "whole.pt", big)
    whole.run()
    broken = distilling(data, tmp_path / "broken.pt", big)
    assert broken.distillation is not None
    model = broken.distillation.teacher.model  # type: ignore[attr-defined]
    finished: list[int] = []

    def interrupt(*_: object) -> None:
        if broken.step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    model.backbone.body.conv1.register_forward_pre_hook(interrupt)
    model.head.regression_head.bbox_reg.register_forward_hook(lambda *_: finished.append(broken.step))
    with pytest.raises(KeyboardInterrupt):
        broken.run()
    assert broken.step == 2
    assert set(finished) == {0, 1}
    resumed = distilling(data, tmp_path / "broken.pt", big)
    resumed.resume()
    resumed.run()
    actual, expected = load_checkpoint(resumed.last_path), load_checkpoint(whole.last_path)
    assert_equal(actual.training, expected.training)


def test_a_run_without_a_teacher_has_the_former_files(data: DetectionDataset, tmp_path: Path) -> None:
    trainer = make_trainer(data, tmp_path / "model.pt")
    trainer.run()
    header = (tmp_path / "model.csv").read_text().splitlines()[0]
    assert header.startswith("epoch,step,learning_rate,classification,bbox_regression,images_per_second,AP,")
    assert "distill" not in header
    state = load_checkpoint(trainer.last_path).training
    assert state is not None
    # A state from before there were teachers.
    for part in (state, state["settings"]):
        for name in ("adaptation", "teacher", "teacher_sha256", "distill_weight"):
            part.pop(name, None)
    dataclasses.replace(trainer.checkpoint(), training=state).save(trainer.last_path)
    make_trainer(data, tmp_path / "model.pt").resume()


def test_the_state_of_the_adaptation_is_checked(data: DetectionDataset, tmp_path: Path, big: Path) -> None:
    trainer = distilling(data, tmp_path / "model.pt", big)
    trainer.save_last()
    state = load_checkpoint(trainer.last_path).training
    assert state is not None
    state["adaptation"]["conv.weight"] = torch.zeros(3)
    dataclasses.replace(trainer.checkpoint(), training=state).save(trainer.last_path)
    with pytest.raises(TrainingError, match=r"'adaptation.conv.weight': expected float32 \[64, 32, 1, 1\], got"):
        trainer.resume()


def test_an_onnx_gives_the_raw_heads_of_its_checkpoint(big: Path, big_onnx: Path) -> None:
    images = torch.randint(0, 256, (3, *SIZE, 3), dtype=torch.uint8)  # the ONNX takes two at once
    expected, actual = (load_teacher(path, CPU.device)(images) for path in (big, big_onnx))
    assert actual.features == []
    for one, other in zip([*actual.logits, *actual.deltas], [*expected.logits, *expected.deltas], strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_an_onnx_teaches_logits_and_boxes(data: DetectionDataset, tmp_path: Path, big: Path, big_onnx: Path) -> None:
    losses = []
    for path in (big, big_onnx):
        trainer = distilling(data, tmp_path / "model.pt", path)
        trainer.parallel.train()
        losses.append(trainer.train_step(*batch_of(trainer)))
    assert list(losses[1]) == ["classification", "bbox_regression", "distill_logits", "distill_boxes"]
    for name, value in losses[1].items():
        assert value == pytest.approx(losses[0][name], rel=1e-3)
    trainer.run()
    assert load_checkpoint(trainer.last_path).training is not None


def two_classes(contract: DetectorContract) -> DetectorContract:
    return dataclasses.replace(contract, class_names=("tree", "car"), category_ids=(1, 2))


@pytest.mark.parametrize(
    ("config", "changes", "student", "message"),
    [
        (
            TINY,
            {},
            two_classes,
            r"teacher t.pt: expected the classes of the data set in the same order, \('tree', 'car'\), got \('tree',\)",
        ),
        (
            dataclasses.replace(TINY, anchor_sizes=octave_sizes((16, 64, 128))),
            {},
            None,
            r"a student with the same anchors, 16/20/25, .*, got 32/40/50, .*; leave out --anchors",
        ),
        (
            dataclasses.replace(TINY, aspect_ratios=(0.5, 1.0, 3.0)),
            {},
            None,
            r"with ratios 0.5 1 3, got .* with ratios 0.5 1 2",
        ),
        (TINY, {"bit_depth": 12}, None, "the same bit depth, 12, got 16; give --bit-depth 12"),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused(
    tmp_path: Path,
    config: ModelConfig,
    changes: dict[str, Any],
    student: Callable[[DetectorContract], DetectorContract] | None,
    message: str,
) -> None:
    teacher = load_teacher(save_model(tmp_path / "t.pt", config, **changes), CPU.device)
    own = contract_of(RetinaNet(TINY), SIZE)
    with pytest.raises(ContractError, match=message) as refused:
        introduce(teacher, student(own) if student else own, AugmentOptions(SIZE, SIZE), SQUARE)
    assert "\n" not in str(refused.value)


def test_the_bound_of_the_gradients_holds_for_the_adaptation_too(
    data: DetectionDataset, tmp_path: Path, big: Path
) -> None:
    trainer = distilling(data, tmp_path / "m.pt", big, clip_norm=1e-3)
    trainer.train_step(*next(iter(trainer.loader)))
    assert trainer.distillation is not None
    gradients = [parameter.grad for parameter in (*trainer.model.parameters(), *trainer.distillation.parameters())]
    norms = [gradient.norm() for gradient in gradients if gradient is not None]
    assert len(norms) > 20
    assert float(torch.stack(norms).norm()) == pytest.approx(1e-3, rel=1e-3)


def test_a_weight_without_a_teacher_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="distill_weight: expected a teacher with it, got none"):
        api.train(tmp_path, tmp_path / "m.pt", {"distill_weight": 2.0})
    with pytest.raises(ContractError, match="init: not allowed with resume, which continues with its own weights"):
        api.train(tmp_path, tmp_path / "m.pt", init=tmp_path / "a.pt", resume=True)


def test_a_teacher_introduces_itself(big: Path, big_onnx: Path) -> None:
    contract, augment = contract_of(RetinaNet(TINY), SIZE), AugmentOptions(SIZE, SIZE)

    def lines(teacher: Teacher, own: DetectorContract = contract) -> list[str]:
        return introduce(teacher, own, augment, SQUARE)

    assert lines(load_teacher(big, CPU.device)) == ["learning logits, boxes and features from the teacher big.pt, tiny"]
    onnx = load_teacher(big_onnx, CPU.device)
    assert lines(onnx) == ["learning logits and boxes from the teacher big.onnx, tiny"]
    # Square images are scaled by the shorter side of the input.
    assert len(lines(onnx, contract_of(RetinaNet(TINY), (96, 160)))) == 1
    _, warning = lines(onnx, contract_of(RetinaNet(TINY), (64, 64)))
    assert warning.startswith("warning: in the student's input of 64x64 pixels, objects are 0.67 times as large")
    with pytest.raises(
        ContractError, match="crops of the one size that an ONNX takes, 96x128, got 64x96; give --crop 96"
    ):
        introduce(onnx, contract, AugmentOptions((64, 96), SIZE), SQUARE)


def test_other_files_are_refused(tmp_path: Path) -> None:
    for name in ("none.pt", "none.onnx"):
        with pytest.raises(ModelFileError, match="found no"):
            load_teacher(tmp_path / name, CPU.device)
    for name in ("text.pt", "text.onnx", "model.engine"):
        (tmp_path / name).write_text("no model")
        with pytest.raises(ModelFileError, match=f"{name}: expected") as refused:
            load_teacher(tmp_path / name, CPU.device)
        assert "\n" not in str(refused.value)


RUN = (
    "--backbone resnet18 --fpn-channels 32 --head-depth 1 --head-norm group --backbone-weights none --batch 2 "
    "--workers 0 --device cpu"
)


def command(tiny_coco: Path, treecrowns: Path, output: Path, *more: str) -> list[str]:
    run = [*RUN.split(), "--epochs", "2", "--epoch-samples", "4"]
    return [*training_data(tiny_coco, treecrowns, output), *run, *more]


def test_the_verb_distills_ships_the_student_alone_and_resumes(
    tiny_coco: Path, treecrowns: Path, tmp_path: Path, big: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "small.pt"
    arguments = command(tiny_coco, treecrowns, output)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ON_STEP, interrupt_at(3))
        assert main([*arguments, "--teacher", str(big), "--distill-weight", "0.5"]) == 130
    printed = capsys.readouterr().err
    for line in (
        "learning logits, boxes and features from the teacher big.pt, tiny",
        "  --input 96x128: objects have the size that the teacher knows",
        "  --anchors 32 64 128: the teacher's, because logits are compared anchor by anchor",
        "  --aspect-ratios 0.5 1 2: the teacher's",
        "  --backbone-levels 3: the teacher's",
        "distill_features",
        f"--teacher {big}",
    ):
        assert line in printed
    recipe = load_checkpoint(tmp_path / "small.last.pt").recipe
    assert recipe is not None
    assert (recipe["options"]["teacher"], recipe["options"]["distill_weight"]) == ("big.pt", 0.5)
    assert len(recipe["options"]["teacher_sha256"]) == 64
    assert str(big.parent) not in str(recipe)
    # The teacher is needed again, and no other one.
    assert main([*arguments, "--resume"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: teacher: expected that of the run, big.pt with SHA-256 ")
    assert error.endswith("got none; give the same file with --teacher")
    other = save_model(tmp_path / "other.pt", BIG, seed=6)
    assert main([*arguments, "--resume", "--teacher", str(other)]) == 1
    assert "got other.pt with " in capsys.readouterr().err
    assert main([*arguments, "--resume", "--teacher", str(big)]) == 0
    shipped = load_checkpoint(output)
    shipped.build_model()  # the names and shapes of the weights are those of the student
    assert shipped.training is None
    assert shipped.config == dataclasses.replace(TINY, box_loss="giou")
    assert export([str(output), "-o", str(tmp_path / "small.onnx")]) == 0


@pytest.mark.slow
def test_several_seeds_learn_from_a_teacher_with_a_recipe(
    tiny_coco: Path, treecrowns: Path, tmp_path: Path, big: Path
) -> None:
    """The teacher decides what has to agree with it, and the recipe the rest."""
    arguments = command(tiny_coco, treecrowns, tmp_path / "small.pt")
    assert main([*arguments, "--teacher", str(big), "--recipe", "small-data", "--seeds", "2"]) == 0
    for seed in (0, 1):
        recipe = load_checkpoint(tmp_path / f"small.seed{seed}.pt").recipe
        assert recipe is not None
        assert (recipe["options"]["teacher"], recipe["options"]["seed"]) == ("big.pt", seed)
        assert recipe["augment"]["copy_paste"] == 0.5
        reasons = {choice["option"]: choice["reason"] for choice in recipe["choices"]}
        assert (reasons["--copy-paste"], reasons["--input"]) == (
            "recipe small-data",
            "objects have the size that the teacher knows",
        )


def test_a_run_without_a_teacher_is_not_resumed_with_one(big: Path) -> None:
    teacher = load_teacher(big, torch.device("cpu"))
    of_run = GivenOptions({}, {}, {"teacher": "", "teacher_sha256": ""})
    assert of_run.with_teacher(teacher, resume=False).options["teacher"] == "big.pt"
    assert of_run.with_teacher(None, resume=True) is of_run
    with pytest.raises(ContractError, match=r"the run that is resumed has none, got big\.pt; leave --teacher out"):
        of_run.with_teacher(teacher, resume=True)


def test_the_crop_is_that_of_an_onnx(
    tiny_coco: Path, treecrowns: Path, tmp_path: Path, big_onnx: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*command(tiny_coco, treecrowns, tmp_path / "small.pt"), "--teacher", str(big_onnx)]
    assert main([*arguments, "--crop", "64x64"]) == 1
    assert "expected crops of the one size that an ONNX takes, 96x128, got 64x64" in capsys.readouterr().err
    assert main(arguments) == 0
    assert "  --crop 96x128: the size that the ONNX takes" in capsys.readouterr().err
    rows = list(csv.DictReader((tmp_path / "small.csv").read_text().splitlines()))
    assert float(rows[-1]["distill_logits"]) > 0
    assert "distill_features" not in rows[-1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--distill-weight", "2"], "--distill-weight: expected --teacher, whose losses it weights, got none"),
        (["--teacher", "a.pt", "--distill-weight", "0"], "--distill-weight: "),
        (["--qat", "b.pt", "--teacher", "a.pt"], "--teacher: not allowed with --qat"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    with pytest.raises(SystemExit):
        main(["train.json", "-o", str(tmp_path / "m.pt"), *options])
    assert message in capsys.readouterr().err


def test_the_teacher_is_not_overwritten(
    tiny_coco: Path, treecrowns: Path, tmp_path: Path, big: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = tmp_path / "model.pt"
    shutil.copy(big, teacher)
    assert main([*command(tiny_coco, treecrowns, teacher), "--teacher", str(teacher)]) == 1
    assert "model.pt" in capsys.readouterr().err
    assert teacher.read_bytes() == big.read_bytes()


WITNESS = """
import sys, torch
from retina_edge.train import main
from retina_edge.training.trainer import Trainer
run = Trainer.run
def witnessed(trainer):
    begin = trainer.distillation.adaptation.state_dict()["conv.weight"].clone()
    result = run(trainer)
    state = {"begin": begin, **trainer.distillation.adaptation.state_dict()}
    weights = {name: value for name, value in trainer.model.named_parameters()}
    torch.save({"adaptation": state, "student": weights}, f"{FOLDER}/{trainer.group.rank}.pt")
    return result
Trainer.run = witnessed
raise SystemExit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_two_processes_train_one_student_and_one_adaptation(
    tiny_coco: Path, treecrowns: Path, tmp_path: Path, big: Path
) -> None:
    """Each process has other crops, so equal weights come from gradients that were averaged."""
    (tmp_path / "witness.py").write_text(f"FOLDER = {str(tmp_path)!r}\n{WITNESS}")
    arguments = command(tiny_coco, treecrowns, tmp_path / "two.pt", "--teacher", str(big))
    train_in_two_processes(arguments, [str(tmp_path / "witness.py")])
    one, other = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert_equal(one, other)
    assert not torch.equal(one["adaptation"]["conv.weight"], one["adaptation"]["begin"])
    state = load_checkpoint(tmp_path / "two.last.pt").training
    assert state is not None
    assert_equal(state["adaptation"], {"conv.weight": one["adaptation"]["conv.weight"]})


@pytest.mark.slow
def test_two_processes_learn_the_same_logits_and_boxes_as_one(
    tiny_coco: Path, treecrowns: Path, tmp_path: Path, big_onnx: Path
) -> None:
    """As for the losses of the labels; the loss of features depends on the crops of a process."""
    fixed = [
        "--teacher",
        str(big_onnx),
        "--backbone-norm",
        "frozen",
        "--optimizer",
        "sgd",
        "--lr",
        "0.002",
        "--amp",
        "off",
    ]
    one = command(tiny_coco, treecrowns, tmp_path / "one.pt", *fixed)
    assert main(one) == 0
    two = command(tiny_coco, treecrowns, tmp_path / "two.pt", *fixed, "--batch", "1")
    train_in_two_processes(two)
    # SGD changes weights by 1e-4 or more in these steps.
    assert_same_training(tmp_path / "one.pt", tmp_path / "two.pt", steps=4, tolerance=2e-6)
