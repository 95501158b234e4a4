"""The files of a training run: one run writes them at a time, and a new run keeps those of the run before."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from engines.core.errors import SinkError, TrainingError
from engines.core.file_lock import lock

# What a run writes, as suffixes of the path of its best checkpoint.
SUFFIXES = (".pt", ".last.pt", ".csv", ".tensorboard", ".report.html")
# What the log in the CSV file begins with.
LOG_START = b"epoch,step,"


def run_files(output: Path) -> list[Path]:
    """Return the paths of all that a run writes.

    Examples:
        >>> [path.name for path in run_files(Path("model.pt"))]
        ['model.pt', 'model.last.pt', 'model.csv', 'model.tensorboard', 'model.report.html']
    """
    return [output.with_suffix(suffix) for suffix in SUFFIXES]


def last_path(output: Path) -> Path:
    """Return the path of the latest state, which ``--resume`` reads.

    Examples:
        >>> last_path(Path("model.pt")).name
        'model.last.pt'
    """
    return output.with_suffix(".last.pt")


def report_path(output: Path) -> Path:
    """Return the path of the report.

    Examples:
        >>> report_path(Path("model.pt")).name
        'model.report.html'
    """
    return output.with_suffix(".report.html")


def seed_paths(output: Path, first: int, count: int) -> dict[int, Path]:
    """Return the paths of the best checkpoints of several runs that differ in their seed, by seed.

    Args:
        output: path of the copy of the best of them.
        first: the first seed.
        count: number of runs.

    Examples:
        >>> {seed: path.name for seed, path in seed_paths(Path("model.pt"), 2, 2).items()}
        {2: 'model.seed2.pt', 3: 'model.seed3.pt'}
    """
    return {seed: output.with_name(f"{output.stem}.seed{seed}{output.suffix}") for seed in range(first, first + count)}


def earlier_seed_paths(output: Path) -> list[Path]:
    """Return the paths of the best checkpoints of all earlier runs with a seed that have a checkpoint or a state.

    Args:
        output: path of the copy of the best of them.
    """
    name = re.compile(rf"({re.escape(output.stem)}\.seed\d+)(\.last)?{re.escape(output.suffix)}")
    files = output.parent.iterdir() if output.parent.is_dir() else ()
    found = {match[1] for path in files if (match := name.fullmatch(path.name))}
    return [output.with_name(f"{stem}{output.suffix}") for stem in sorted(found)]


def kept_path(output: Path) -> Path:
    """Return the path that the best checkpoint of the run before is kept under.

    Examples:
        >>> kept_path(Path("model.pt")).name
        'model.previous.pt'
    """
    return output.with_name(f"{output.stem}.previous{output.suffix}")


def check_resumable(output: Path) -> None:
    """Check that there is a state to resume from.

    Args:
        output: path of the best checkpoint.

    Raises:
        TrainingError: if there is none.
    """
    last = last_path(output)
    if not last.is_file():
        raise TrainingError(f"{last}: expected a checkpoint to resume, found no file; start without resuming")


def check_log(output: Path) -> None:
    """Check that the CSV file beside the best checkpoint, if there is one, is the log of a training.

    Args:
        output: path of the best checkpoint.

    Raises:
        SinkError: if it is another file, which a run would overwrite.
        OSError: if it cannot be read.
    """
    log = output.with_suffix(".csv")
    if not log.is_file():
        return
    with log.open("rb") as file:
        if not LOG_START.startswith(file.read(len(LOG_START))):
            raise SinkError(
                f"{log}: expected the log of an earlier training, got another file, which the log of this one would "
                "overwrite; move it, or use another name with -o"
            )


@contextmanager
def claim_run_files(output: Path, *, resume: bool) -> Iterator[list[str]]:
    """Keep other runs from writing the same files, and keep or remove the files of an earlier run.

    They are kept if the run has a checkpoint, or a state that replaces no kept checkpoint.

    Args:
        output: path of the best checkpoint.
        resume: True if the earlier run goes on.

    Returns:
        A context manager that yields what has happened to files of an earlier run, as lines for the user.

    Raises:
        SinkError: on entering, if another run writes these files.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    log = output.with_suffix(".csv")
    lines: list[str] = []
    with ExitStack() as stack:
        _lock(stack, log)
        if not resume and _worth_keeping(output):
            kept = kept_path(output)
            for source, target in zip(run_files(output), run_files(kept), strict=True):
                _move(source, target)
            _lock(stack, log)
            name = f"{kept.with_suffix('')}.*"
            lines.append(f"the files of the last run are kept as {name}; earlier ones of this name are replaced")
        elif not resume:
            if last_path(output).exists():
                lines.append(
                    f"{last_path(output)} is removed: that run was stopped before its first evaluation, and the files "
                    f"of an earlier one are kept as {kept_path(output).with_suffix('')}.*"
                )
            for path in run_files(output):
                if path != log:
                    _remove(path)
            os.truncate(log, 0)  # it holds the lock
        yield lines


def set_aside(output: Path) -> list[str]:
    """Keep or remove the files of an earlier run, as the start of a new one does.

    Args:
        output: path of the best checkpoint.

    Returns:
        What has happened, as lines for the user.

    Raises:
        SinkError: if another run writes these files.
    """
    if not any(path.exists() for path in run_files(output)):
        return []
    with claim_run_files(output, resume=False) as lines:
        pass
    output.with_suffix(".csv").unlink()  # it only held the lock
    return lines


def _worth_keeping(output: Path) -> bool:
    """True for a run with a checkpoint, or with a state alone that replaces no kept checkpoint."""
    return output.is_file() or (last_path(output).is_file() and not kept_path(output).is_file())


def _lock(stack: ExitStack, path: Path) -> None:
    if lock(stack.enter_context(path.open("ab")).fileno()) is False:
        raise SinkError(f"{path}: another training run writes this file; end it, or use another name with -o")


def _move(source: Path, target: Path) -> None:
    """Replace a file or folder by another one. If that is missing, the target is removed, so that runs do not mix."""
    _remove(target)
    if source.exists():
        os.replace(source, target)


def _remove(path: Path) -> None:
    """Remove a file or a folder, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
