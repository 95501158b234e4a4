"""A new run keeps the files of the run before it, and two runs never write the same files."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.core.errors import SinkError
from retina_edge import api
from retina_edge.training.run_files import (
    SUFFIXES,
    check_log,
    claim_run_files,
    earlier_seed_paths,
    run_files,
    set_aside,
)
from retina_edge.training.training_log import COLUMNS


def write_run(output: Path, text: str) -> None:
    """Write files as a run does."""
    for path in run_files(output):
        if path.suffix == ".tensorboard":
            path.mkdir(exist_ok=True)
            (path / f"events.{text}").touch()
        else:
            path.write_text(text)


def content(output: Path) -> list[str]:
    return [(next(path.iterdir()).suffix[1:] if path.is_dir() else path.read_text()) for path in run_files(output)]


def test_the_files_of_the_last_run_are_kept(tmp_path: Path) -> None:
    output, kept = tmp_path / "model.pt", tmp_path / "model.previous.pt"
    for number in range(3):
        with claim_run_files(output, resume=False) as lines:
            name = f"{tmp_path}/model.previous.*"
            line = f"the files of the last run are kept as {name}; earlier ones of this name are replaced"
            assert lines == ([line] if number else [])
            assert not output.exists()
            write_run(output, f"run{number}")
    assert content(output) == ["run2"] * len(SUFFIXES)
    assert content(kept) == ["run1"] * len(SUFFIXES)
    assert len(list(kept.with_suffix(".tensorboard").iterdir())) == 1


def test_a_run_that_goes_on_moves_nothing(tmp_path: Path) -> None:
    output = tmp_path / "model.pt"
    write_run(output, "run")
    with claim_run_files(output, resume=True) as lines:
        assert not lines
        assert content(output) == ["run"] * len(SUFFIXES)


def test_a_run_without_a_checkpoint_does_not_replace_the_kept_one(tmp_path: Path) -> None:
    output, kept = tmp_path / "model.pt", tmp_path / "model.previous.pt"
    write_run(kept, "good")
    output.with_suffix(".last.pt").write_text("stopped after a step")
    with claim_run_files(output, resume=False) as lines:
        assert "model.last.pt is removed: that run was stopped before its first evaluation" in lines[0]
    assert content(kept) == ["good"] * len(SUFFIXES)


def test_files_that_are_not_kept_do_not_mix_with_the_new_run(tmp_path: Path) -> None:
    output, kept = tmp_path / "model.pt", tmp_path / "model.previous.pt"
    write_run(kept, "good")
    write_run(output, "stopped")
    output.unlink()
    with claim_run_files(output, resume=False):
        assert not (tmp_path / "model.csv").stat().st_size
        assert [path.name for path in run_files(output) if path.exists()] == ["model.csv"]  # holds the lock
    write_run(output, "stopped")
    output.unlink()
    assert "model.last.pt is removed" in set_aside(output)[0]
    assert not [path for path in run_files(output) if path.exists()]
    write_run(output, "done")
    assert "are kept as" in set_aside(output)[0]
    assert content(kept) == ["done"] * len(SUFFIXES)
    assert not set_aside(output)


def test_a_state_without_a_checkpoint_is_kept_if_no_checkpoint_is(tmp_path: Path) -> None:
    output, kept = tmp_path / "model.pt", tmp_path / "model.previous.pt"
    output.with_suffix(".last.pt").write_text("hours of training")
    with claim_run_files(output, resume=False) as lines:
        assert "are kept as" in lines[0]
    assert kept.with_suffix(".last.pt").read_text() == "hours of training"
    assert not output.with_suffix(".last.pt").exists()


def test_parts_that_the_earlier_run_lacks_do_not_stay_from_a_run_before(tmp_path: Path) -> None:
    output, kept = tmp_path / "model.pt", tmp_path / "model.previous.pt"
    write_run(kept, "old")
    output.write_text("new")
    with claim_run_files(output, resume=False):
        pass
    assert [path.name for path in run_files(kept) if path.exists()] == ["model.previous.pt", "model.previous.csv"]


@pytest.mark.parametrize("resume", [False, True])
def test_a_second_run_into_the_same_files_is_refused(tmp_path: Path, resume: bool) -> None:
    output = tmp_path / "model.pt"
    write_run(output, "first")
    with claim_run_files(output, resume=False):
        output.write_text("better")
        with pytest.raises(SinkError, match=r"model\.csv: another training run writes this file; end it, or use"):
            claim_run_files(output, resume=resume).__enter__()
        assert output.read_text() == "better"
    with claim_run_files(output, resume=True):  # the claim ends with the run
        pass


def test_a_kept_checkpoint_that_a_run_starts_from_is_not_replaced(tmp_path: Path) -> None:
    kept = tmp_path / "model.previous.pt"
    kept.write_text("good")
    with pytest.raises(SinkError, match=r"model\.previous\.pt would overwrite the checkpoint .*model\.previous\.pt"):
        api.train(tmp_path / "train.json", tmp_path / "model.pt", init=kept)
    assert kept.read_text() == "good"


def test_a_table_of_the_user_is_not_overwritten_by_the_log(tmp_path: Path) -> None:
    table = tmp_path / "model.csv"
    table.write_text("tree,height\n")
    with pytest.raises(SinkError, match=r"model\.csv: expected the log of an earlier training, got another file"):
        api.train(tmp_path / "train.json", tmp_path / "model.pt")
    assert table.read_text() == "tree,height\n"


@pytest.mark.parametrize("text", ["", f"{','.join(COLUMNS)}\n1,6,0\n"])
def test_the_log_of_an_earlier_run_may_be_replaced(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.csv").write_text(text)
    check_log(tmp_path / "model.pt")


def test_all_earlier_runs_with_a_seed_are_found(tmp_path: Path) -> None:
    names = ("m.seed0.pt", "m.seed0.last.pt", "m.seed12.last.pt", "m.seed3.previous.pt", "m.seed4.csv", "n.seed5.pt")
    for name in (*names, "m.seed.pt", "m.pt"):
        (tmp_path / name).touch()
    assert [path.name for path in earlier_seed_paths(tmp_path / "m.pt")] == ["m.seed0.pt", "m.seed12.pt"]
    assert not earlier_seed_paths(tmp_path / "none" / "m.pt")
