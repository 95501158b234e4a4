"""HOTA, IDF1 and MOTA of tracks against ground truth.

The trackers package computes them, as TrackEval does: HOTA, DetA and AssA (Luiten et al., 2021,
https://arxiv.org/abs/2009.07736), IDF1 (Ristani et al., 2016, https://arxiv.org/abs/1609.01775) and the CLEAR metrics
with MOTA (Bernardin and Stiefelhagen, 2008, https://doi.org/10.1155/2008/246309).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.core.errors import DataError, MissingDependencyError
from retina_edge.evaluation.mot_files import MotRow, read_ground_truth, read_tracks

# IoU from which a box and an object match in MOTA and IDF1. HOTA is a mean over IoU from 0.05 to 0.95.
MATCH_IOU = 0.5
TRUTH_FILE = Path("gt") / "gt.txt"
RESULT_SUFFIXES = (".txt", ".jsonl")


@dataclass(frozen=True)
class TrackMetrics:
    """The metrics of one sequence, or of several together.

    Attributes:
        hota: higher order tracking accuracy, 0 to 1: the geometric mean of detection and association, over IoU.
        deta: detection accuracy, 0 to 1.
        assa: association accuracy, 0 to 1.
        idf1: share of boxes and objects with the right identity, 0 to 1.
        mota: 1 less the missed objects, false boxes and switches per object; negative if there are more than objects.
        switches: number of times that an object's track changed its id.
        missed: number of objects, summed over frames, without a box.
        false_boxes: number of boxes without an object.
        objects: number of objects, summed over frames.
    """

    hota: float
    deta: float
    assa: float
    idf1: float
    mota: float
    switches: int
    missed: int
    false_boxes: int
    objects: int

    def to_dict(self) -> dict[str, float | int]:
        """Return plain values for JSON, by the names of the metrics."""
        return {
            "HOTA": self.hota,
            "DetA": self.deta,
            "AssA": self.assa,
            "IDF1": self.idf1,
            "MOTA": self.mota,
            "switches": self.switches,
            "missed": self.missed,
            "false_boxes": self.false_boxes,
            "objects": self.objects,
        }


@dataclass(frozen=True)
class TrackEvaluation:
    """The metrics of tracks.

    Attributes:
        sequences: metrics of each sequence, by its name.
        combined: metrics of all sequences together, each weighted as its metric demands.
    """

    sequences: Mapping[str, TrackMetrics]
    combined: TrackMetrics

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, as ``--json`` writes them."""
        return {
            "combined": self.combined.to_dict(),
            "sequences": {name: metrics.to_dict() for name, metrics in self.sequences.items()},
        }


def evaluate_tracks(tracks: Path | str, ground_truth: Path | str) -> TrackEvaluation:
    """Compute HOTA, IDF1 and MOTA of tracks.

    Ground truth with confidence 0 or a class other than 1 is not counted, and boxes on the distractors of MOTChallenge
    (classes 2, 7, 8 and 12) are neither right nor wrong. Classes of results are not compared.

    Args:
        tracks: MOTChallenge text, or JSON lines of ``detect --track``; or a folder with such a file for each sequence,
            ``SEQUENCE.txt`` or ``SEQUENCE.jsonl``.
        ground_truth: MOTChallenge text; or a folder with ``SEQUENCE/gt/gt.txt`` or ``SEQUENCE.txt`` for each sequence.

    Raises:
        DataError: if a file is missing or invalid.
        MissingDependencyError: if the trackers package is not installed.

    Examples:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     truth, tracks = Path(folder) / "truth.txt", Path(folder) / "tracks.txt"
        ...     _ = truth.write_text("1,1,10,10,40,40\\n2,1,12,10,40,40\\n")
        ...     _ = tracks.write_text("1,7,10,10,40,40\\n2,8,12,10,40,40\\n")
        ...     metrics = evaluate_tracks(tracks, truth).combined
        >>> metrics.idf1, metrics.mota, metrics.switches
        (0.5, 0.5, 1)
    """
    try:
        from trackers.eval import evaluate_mot_sequences
    except ImportError as error:
        raise MissingDependencyError(
            f"metrics of tracks need the trackers package ({error}): pip install 'retina-edge[track]'"
        ) from error
    pairs = _sequences(Path(tracks), Path(ground_truth))
    # The package reads files: these are the checked rows of both kinds of files, in one form.
    with tempfile.TemporaryDirectory() as folder:
        truths, results = Path(folder, "truth"), Path(folder, "tracks")
        truths.mkdir()
        results.mkdir()
        for index, (track_file, truth_file) in enumerate(pairs.values()):
            truth_rows, track_rows = read_ground_truth(truth_file), read_tracks(track_file)
            _write(truths / f"{index}.txt", truth_rows)
            # The package refuses an empty file. It drops a row without a track.
            _write(results / f"{index}.txt", track_rows or [MotRow(1, -1, (0, 0, 1, 1))])
        measured = evaluate_mot_sequences(truths, results, metrics=["CLEAR", "HOTA", "Identity"], threshold=MATCH_IOU)
    sequences = {name: _metrics(measured.sequences[str(index)]) for index, name in enumerate(pairs)}
    return TrackEvaluation(sequences, _metrics(measured.aggregate))


def _sequences(tracks: Path, truth: Path) -> dict[str, tuple[Path, Path]]:
    """Return the files of tracks and of ground truth, by the name of the sequence."""
    for path in (tracks, truth):
        if not path.exists():
            raise DataError(f"{path}: expected a file or a folder, found nothing there")
    if truth.is_dir() and (truth / TRUTH_FILE).is_file():
        truth = truth / TRUTH_FILE
    if truth.is_file():
        name = truth.parent.parent.name if truth.parts[-2:] == TRUTH_FILE.parts else truth.stem
        return {name: (tracks if tracks.is_file() else _result(tracks, name), truth)}
    found = {path.parent.parent.name: path for path in sorted(truth.glob(f"*/{TRUTH_FILE.as_posix()}"))}
    found = found or {path.stem: path for path in sorted(truth.glob("*.txt"))}
    if not found:
        raise DataError(f"{truth}: expected SEQUENCE/{TRUTH_FILE.as_posix()} or SEQUENCE.txt in the folder, found none")
    if tracks.is_file():
        raise DataError(
            f"{tracks}: expected a folder of tracks, because {truth} is a folder of {len(found)} sequences, got a file"
        )
    return {name: (_result(tracks, name), path) for name, path in found.items()}


def _result(folder: Path, name: str) -> Path:
    files = [path for suffix in RESULT_SUFFIXES if (path := folder / f"{name}{suffix}").is_file()]
    if len(files) != 1:
        raise DataError(
            f"{folder}: expected one of {' and '.join(name + suffix for suffix in RESULT_SUFFIXES)}, the tracks of "
            f"sequence {name}, got {'both' if files else 'none'}"
        )
    return files[0]


def _write(path: Path, rows: Iterable[MotRow]) -> None:
    with path.open("w") as file:
        for row in rows:
            sides = ",".join(map(repr, row.box))
            file.write(f"{row.frame},{row.track},{sides},{int(row.counts)},{row.label},1\n")


def _metrics(measured: Any) -> TrackMetrics:
    clear, hota, identity = measured.CLEAR, measured.HOTA, measured.Identity
    return TrackMetrics(
        hota=float(hota.HOTA),
        deta=float(hota.DetA),
        assa=float(hota.AssA),
        idf1=float(identity.IDF1),
        mota=float(clear.MOTA),
        switches=int(clear.IDSW),
        missed=int(clear.CLR_FN),
        false_boxes=int(clear.CLR_FP),
        objects=int(clear.CLR_TP + clear.CLR_FN),
    )
