"""Training on a full disk: one line that names the file, and an earlier checkpoint that stays whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from retina_edge.model.checkpoint import load_checkpoint
from retina_edge.train import main
from retina_edge.training.training_progress import TrainingProgress
from tests.small_disk import small_disk

TINY = (
    "--backbone resnet18 --backbone-weights none --fpn-channels 32 --head-depth 1 --head-norm group --input 96x128 "
    "--crop 96x128"
)
RUN = "--epochs 6 --epoch-samples 2 --batch 2 --workers 0 --backbone-levels 3 --device cpu"


def fill(disk: Path, left: int) -> None:
    """Fill a disk, except for a number of bytes."""
    with (disk / "filler").open("wb") as file:
        try:
            while True:
                file.write(b"x" * 2**16)
                file.flush()
        except OSError:
            pass
    size = (disk / "filler").stat().st_size
    with (disk / "filler").open("r+b") as file:
        file.truncate(max(0, size - left))


def check_full(disk: Path, printed: str) -> None:
    """Check that one line names the file and that nothing half written is left."""
    assert "Traceback" not in printed
    (error,) = [line for line in printed.splitlines() if line.startswith("error:")]
    assert "No space left on device: '" in error
    assert f"{disk}/m." in error
    assert not [path for path in disk.iterdir() if path.name.startswith(".")]


@pytest.mark.slow
@pytest.mark.parametrize("left", [0, 2_000_000])
def test_a_disk_that_fills_up_ends_training_with_the_file_and_the_way_on(
    left: int,
    tiny_coco: Path,
    treecrowns: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    command = [str(tiny_coco), "--images", str(treecrowns / "images"), "--val", str(tiny_coco), *TINY.split()]
    with small_disk(tmp_path / "disk", 700 * 2**20) as disk:
        monkeypatch.setattr(TrainingProgress, "on_epoch", lambda *_: fill(disk, left))
        assert main([*command, "-o", str(disk / "m.pt"), *RUN.split()]) == 1
        printed = capfd.readouterr().err
        check_full(disk, printed)
        assert f"an earlier state is whole in {disk / 'm.last.pt'}; free some space, then go on with" in printed
        assert load_checkpoint(disk / "m.last.pt").training is not None
        assert load_checkpoint(disk / "m.pt").training is None


@pytest.mark.slow
@pytest.mark.parametrize("left", [0, 2_000_000])
def test_a_run_on_a_full_disk_keeps_the_model_of_the_run_before(
    left: int, tiny_coco: Path, treecrowns: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = [str(tiny_coco), "--images", str(treecrowns / "images"), "--val", str(tiny_coco), *TINY.split()]
    with small_disk(tmp_path / "disk", 700 * 2**20) as disk:
        run = [*command, "-o", str(disk / "m.pt"), *RUN.split()]
        assert main(run) == 0
        capfd.readouterr()
        before = load_checkpoint(disk / "m.pt")
        fill(disk, left)
        for _ in range(2):  # a second try must not replace the kept files by nothing
            assert main(run) == 1
            printed = capfd.readouterr().err
            check_full(disk, printed)
            assert f"the model of the run before is whole in {disk / 'm.previous.pt'}; free some space" in printed
            assert load_checkpoint(disk / "m.previous.pt").recipe == before.recipe
            assert load_checkpoint(disk / "m.previous.last.pt").training is not None
