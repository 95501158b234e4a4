"""The verb ``train`` as users run it: as a separate process, under torchrun, interrupted by signals."""

from __future__ import annotations

import csv
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from retina_edge.data.anchor_fit import input_boxes, suggest_anchors
from retina_edge.data.load import load_dataset
from retina_edge.model.checkpoint import load_checkpoint
from retina_edge.train import main
from retina_edge.training.train_options import TrainOptions
from tests.interruption import interrupt_at
from tests.training_command import ON_STEP, assert_same_training, train_in_two_processes, training_data

pytestmark = pytest.mark.start_first

SMALL = (
    "--backbone resnet18 --backbone-levels 3 --backbone-norm frozen --fpn-channels 32 --head-depth 1 "
    "--head-norm group --anchors 32 64 128 --input 96x128 --lr 0.002 --warmup 2 --amp off --seed 3 --recipe paper"
).split()
# Largest difference of weights between one process and two, which add the same gradients in another order. Weights are
# about 0.01 to 1, and SGD changes them by 1e-4 or more in these steps.
SAME_WEIGHTS = 2e-6


def arguments(tiny_coco: Path, treecrowns: Path, output: Path, *more: str) -> list[str]:
    return [*training_data(tiny_coco, treecrowns, output), *SMALL, *more]


@pytest.mark.parametrize(
    "options",
    [
        "--assigner iou",
        pytest.param("--assigner atss --class-loss quality-focal", marks=pytest.mark.slow),
        pytest.param("--assigner free-anchor", marks=pytest.mark.slow),
        pytest.param("--head-norm batch", marks=pytest.mark.slow),
    ],
)
def test_two_processes_compute_the_same_as_one(tiny_coco: Path, treecrowns: Path, tmp_path: Path, options: str) -> None:
    run = [*"--epochs 2 --epoch-samples 8 --workers 0 --ema 0.9".split(), *options.split()]
    one = arguments(tiny_coco, treecrowns, tmp_path / "one.pt", *run, "--batch", "2")
    assert main(one) == 0
    two = arguments(tiny_coco, treecrowns, tmp_path / "two.pt", *run, "--batch", "1")
    assert train_in_two_processes(two).count("epoch 2/2") == 1  # only one process prints
    assert_same_training(tmp_path / "one.pt", tmp_path / "two.pt", steps=8, tolerance=SAME_WEIGHTS)


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_saves_the_state_and_exits_with_130(
    tiny_coco: Path, treecrowns: Path, tmp_path: Path, number: signal.Signals
) -> None:
    output = tmp_path / "model.pt"
    command = [sys.executable, "-m", "retina_edge.train"]
    run = "--epochs 500 --epoch-samples 4 --batch 2 --workers 1".split()
    process = subprocess.Popen(
        [*command, *arguments(tiny_coco, treecrowns, output, *run)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "model.last.pt").exists() and time.monotonic() < deadline:
            time.sleep(0.2)
        # Signal the workers of the loader, too, as terminals, systemd and Slurm do.
        os.killpg(process.pid, number)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, errors
    assert "Traceback" not in errors
    state = load_checkpoint(tmp_path / "model.last.pt").training
    assert state is not None
    assert state["step"] >= 2
    rows = list(csv.DictReader((tmp_path / "model.csv").read_text().splitlines()))
    assert [int(row["epoch"]) for row in rows] == list(range(1, len(rows) + 1))


def test_training_then_fine_tuning_then_resuming(
    tiny_coco: Path, treecrowns: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = arguments(tiny_coco, treecrowns, tmp_path / "a.pt", *"--epochs 1 --batch 2 --workers 0".split())
    assert main([*first, "--half-weights"]) == 0
    output = capsys.readouterr().err
    assert "epoch 1/1" in output
    assert "AP50" in output
    assert (tmp_path / "a.tensorboard").is_dir()
    again = arguments(tiny_coco, treecrowns, tmp_path / "b.pt", *"--epochs 1 --batch 2 --workers 0".split())
    assert main([*again, "--init", str(tmp_path / "a.pt"), "--head-depth", "2"]) == 0
    output = capsys.readouterr().err
    assert "keep their new values" in output
    assert "starting from the weights of a.pt" in output
    assert main([*first, "--resume", "--half-weights"]) == 0  # nothing left to do
    output = capsys.readouterr().err
    assert "resuming a.last.pt after step 2 of 2" in output
    assert f"this run has ended; to train longer, start another one with --init {tmp_path / 'a.pt'} and" in output
    assert load_checkpoint(tmp_path / "a.pt").training is None


def test_anchors_auto_chooses_anchors_that_fit_the_data(
    tiny_coco: Path, treecrowns: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = "--epochs 1 --batch 2 --workers 0 --anchors auto".split()
    assert main(arguments(tiny_coco, treecrowns, tmp_path / "model.pt", *run)) == 0
    boxes = input_boxes(load_dataset(tiny_coco, need_images=False), (96, 128))
    fit = suggest_anchors(boxes, (96, 128), (32.0, 64.0, 128.0), (0.5, 1.0, 2.0))
    assert fit.anchor_sizes[0] < 16  # trees are small in so small an input
    sizes = " ".join(f"{size:g}" for size in fit.anchor_sizes)
    assert f"  --anchors {sizes}: they match {fit.recall:.1%} of the objects at IoU 0.5" in capsys.readouterr().err
    contract = load_checkpoint(tmp_path / "model.pt").contract
    assert tuple(level.anchor_sizes[0] for level in contract.levels) == fit.anchor_sizes
    assert contract.levels[0].aspect_ratios == fit.aspect_ratios


def test_errors_are_reported_without_a_traceback(
    tiny_coco: Path, treecrowns: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = arguments(tiny_coco, treecrowns, tmp_path / "c.pt", "--workers", "0")
    assert main([*good, "--resume"]) == 1
    assert "expected a checkpoint to resume, found no file" in capsys.readouterr().err
    assert main([*good, "--init", str(tmp_path / "none.pt")]) == 1
    assert "found no file" in capsys.readouterr().err
    assert main([*good, "--device", "teapot"]) == 1
    assert "expected auto, cpu, cuda or cuda:N, got 'teapot'" in capsys.readouterr().err
    assert main([str(tmp_path / "none.json"), *good[1:]]) == 1
    assert capsys.readouterr().err.startswith("error: ")
    for options, message in (
        (["--fpn-channels", "33"], "multiple of 32"),
        (["--anchors", "32"], "expected sizes for 3 levels"),
        (["--anchors", "auto", "32"], "anchors: expected sizes in pixels or auto, got auto 32"),
        (["--input", "100x100"], "multiples of 32"),
        (["--epochs", "0"], "epochs: expected 1 to 1000000"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main([*good, *options])
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err


def test_training_without_options_chooses_them_and_says_why(
    treecrowns: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", fail)
    monkeypatch.setattr("retina_edge.training.speed.SECONDS", 0.2)
    output = tmp_path / "model.pt"
    command = [str(treecrowns / "val.json"), "-o", str(output), "--device", "cpu"]
    with monkeypatch.context() as patch:
        patch.setattr(ON_STEP, interrupt_at(1))
        assert main([*command, "--minutes", "0.1"]) == 130
    printed = capsys.readouterr().err
    for line in (
        "no validation set was given: 3 of 16 images are held out of training to validate on",
        "13 images, typically 400x400 pixels",
        "cannot be downloaded from https://download.pytorch.org/models/resnet18-f37072fd.pth (no network)",
        "  --backbone-weights none: random weights, which need more steps",
        "starting from random weights",
        "  --input 416x416: the images are typically 400x400",
        "  --backbone resnet18: a small network, for a CPU",
    ):
        assert line in printed
    # Without options, a resumed run takes those of the checkpoint.
    assert main([*command, "--resume"]) == 0
    resumed = capsys.readouterr().err
    assert "resuming model.last.pt after step 1 of" in resumed
    assert "measuring" not in resumed
    assert f"wrote {output}, {tmp_path / 'model.last.pt'}, {tmp_path / 'model.csv'}" in resumed
    assert f"next: retina-edge export {output} -o {tmp_path / 'model.onnx'}" in resumed
    recipe = load_checkpoint(output).recipe
    assert recipe is not None
    assert recipe["model"]["input_size"] == (416, 416)
    assert recipe["options"]["minutes"] == 0.1
    assert f"  --lr {recipe['options']['learning_rate']:g}: " in printed


def test_the_recipe_of_the_paper_has_the_defaults_of_the_options(
    tiny_coco: Path, treecrowns: Path, tmp_path: Path
) -> None:
    run = "--epochs 1 --batch 2 --workers 0".split()
    assert main(arguments(tiny_coco, treecrowns, tmp_path / "model.pt", *run)) == 0
    recipe = load_checkpoint(tmp_path / "model.pt").recipe
    assert recipe is not None
    choices = {choice["option"]: choice for choice in recipe["choices"]}
    assert choices["--optimizer"] == {"option": "--optimizer", "value": "sgd", "reason": "recipe paper"}
    assert not {"--epochs", "--lr", "--input", "--crop"} & choices.keys()  # given, or left out
    given = {"epochs": 1, "batch": 2, "workers": 0, "learning_rate": 0.002, "warmup_steps": 2, "amp": "off", "seed": 3}
    assert recipe["options"] == {**vars(TrainOptions()), **given}


def test_the_losses_reach_the_checkpoint_and_the_fine_tuning_for_int8(
    tiny_coco: Path, treecrowns: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = "--epochs 1 --epoch-samples 2 --batch 2 --workers 0".split()
    trained, tuned = tmp_path / "model.pt", tmp_path / "int8.pt"
    command = arguments(tiny_coco, treecrowns, trained, *run)
    losses = ["--assigner", "atss", "--class-loss", "quality-focal"]
    assert main([*command, *losses]) == 0
    recipe = load_checkpoint(trained).recipe
    assert recipe is not None
    assert (recipe["options"]["assigner"], recipe["options"]["class_loss"]) == ("atss", "quality-focal")
    assert main([*command, "--resume"]) == 0  # with the options of the run
    assert main([*command, "--assigner", "iou", "--resume"]) == 1
    assert "assigner: expected 'atss', got 'iou'" in capsys.readouterr().err

    data = [*command[:5], "-o", str(tuned), "--qat", str(trained), *run]
    assert main([*data, "--class-loss", "focal"]) == 0
    state = load_checkpoint(tuned.with_suffix(".last.pt")).training
    assert state is not None
    assert (state["settings"]["assigner"], state["settings"]["class_loss"]) == ("atss", "focal")

    with pytest.raises(SystemExit) as stopped:
        main([*command, "--assigner", "free-anchor", "--class-loss", "quality-focal"])
    assert stopped.value.code == 2
    assert "class_loss: expected focal with the assigner free-anchor" in capsys.readouterr().err


def test_ctrl_c_names_the_command_that_goes_on(
    tiny_coco: Path,
    treecrowns: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = arguments(tiny_coco, treecrowns, tmp_path / "a b.pt", *"--epochs 2 --batch 2 --workers 0".split())
    with monkeypatch.context() as patch:
        patch.setattr(ON_STEP, interrupt_at(1))
        assert main(command) == 130
    printed = capsys.readouterr().err
    assert "stopping after this step; again to stop now" in printed
    named = printed.partition("go on with: ")[2].splitlines()[0]
    assert main(shlex.split(named)[2:]) == 0
    assert "resuming a b.last.pt after step 1 of 4" in capsys.readouterr().err


def test_minutes_and_epochs_exclude_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([str(tmp_path), "-o", str(tmp_path / "m.pt"), "--minutes", "3", "--epochs", "2"])
    assert capsys.readouterr().err.startswith("error: --minutes: not allowed with --epochs")


@pytest.mark.slow
def test_ctrl_c_ends_a_step_of_a_large_network_on_a_cpu_within_ten_seconds(
    tiny_coco: Path, treecrowns: Path, tmp_path: Path
) -> None:
    """A step of the paper's network with eight images takes more than 20 s on two cores, and 7 GiB."""
    images = str(treecrowns / "images")
    command = [sys.executable, "-m", "retina_edge.train", str(tiny_coco), "--images", images, "--val", str(tiny_coco)]
    run = ["-o", str(tmp_path / "model.pt"), "--recipe", "paper", "--batch", "8", "--epoch-samples", "160"]
    with subprocess.Popen(
        [*command, *run, "--device", "cpu"], stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stderr is not None
        while "steps, 20 in an epoch" not in process.stderr.readline():
            assert process.poll() is None
        time.sleep(5)  # into the first step
        sent = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        errors = process.stderr.read()
    assert time.monotonic() - sent < 10
    assert process.returncode == 130
    assert "again to stop now" in errors
    assert "--resume" in errors
    state = load_checkpoint(tmp_path / "model.last.pt").training
    assert state is not None
    assert state["step"] == 0


@pytest.mark.slow
def test_two_processes_with_a_time_end_together(tiny_coco: Path, treecrowns: Path, tmp_path: Path) -> None:
    run = "--minutes 0.1 --epoch-samples 8 --batch 1 --workers 0".split()
    command = arguments(tiny_coco, treecrowns, tmp_path / "two.pt", *run)
    assert "best AP" in train_in_two_processes(command)
    assert (tmp_path / "two.pt").is_file()


@pytest.mark.slow
def test_the_command_after_ctrl_c_of_a_fine_tuning_goes_on_without_init(
    tiny_coco: Path,
    treecrowns: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = "--epochs 2 --batch 2 --workers 0".split()
    assert main(arguments(tiny_coco, treecrowns, tmp_path / "a.pt", *run)) == 0
    tuned = arguments(tiny_coco, treecrowns, tmp_path / "b.pt", *run)
    with monkeypatch.context() as patch:
        patch.setattr(ON_STEP, interrupt_at(1))
        assert main([*tuned, "--init", str(tmp_path / "a.pt")]) == 130
    named = capsys.readouterr().err.partition("go on with: ")[2].splitlines()[0]
    assert "--init" not in named
    assert main(shlex.split(named)[2:]) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param("--anchors 16 32 64 128 256", None, marks=pytest.mark.slow),  # five anchors mean five levels
        ("--anchors 16 32 64", None),
        ("--anchors 16 32 --backbone-levels 4", "expected sizes for 4 levels"),
    ],
)
def test_anchors_decide_the_levels_of_the_pyramid(
    treecrowns: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: str, message: str | None
) -> None:
    run = "--epochs 1 --epoch-samples 2 --batch 2 --workers 0 --input 96x128 --crop 96x96 --backbone-weights none"
    command = [str(treecrowns / "val.json"), "-o", str(tmp_path / "m.pt"), *run.split(), *options.split()]
    if message is None:
        assert main(command) == 0
        sizes = [float(word) for word in options.split()[1:]]
        levels = load_checkpoint(tmp_path / "m.pt").contract.levels
        assert [level.anchor_sizes[0] for level in levels] == sizes
    else:
        with pytest.raises(SystemExit):
            main(command)
        assert message in capsys.readouterr().err


def test_a_validation_set_without_objects_is_refused_before_training(
    tiny_coco: Path, treecrowns: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = json.loads(tiny_coco.read_text())
    labeled = {annotation["image_id"] for annotation in content["annotations"][:1]}
    content["annotations"] = [item for item in content["annotations"] if item["image_id"] in labeled]
    content["annotations"][0]["iscrowd"] = 1
    content["annotations"] = content["annotations"][:1]
    path = tmp_path / "crowds.json"
    path.write_text(json.dumps(content))
    images = str(treecrowns / "images")
    command = [str(tiny_coco), "--images", images, "--val", str(path), "-o", str(tmp_path / "m.pt")]
    assert main(command) == 1
    assert "expected objects to validate on, found none" in capsys.readouterr().err
