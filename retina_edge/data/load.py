"""Read a data set of any format from one path, and check it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from engines.core.errors import DataError
from retina_edge.data.build_dataset import build_dataset
from retina_edge.data.coco import coco_images, read_coco
from retina_edge.data.dataset import DetectionDataset
from retina_edge.data.image_scan import look_at
from retina_edge.data.records import Records
from retina_edge.data.voc import find_annotation, find_voc, read_voc
from retina_edge.data.yolo import is_yolo_file, read_yolo
from retina_edge.data.yolo_folder import check_names, find_yolo

TRAIN, VAL = "train", "val"
COCO, YOLO, VOC = "COCO", "YOLO", "Pascal VOC"
# Names of COCO files by part, relative to the folder of the data set: our own, COCO's, and those of Roboflow, CVAT and
# Label Studio.
COCO_FILES = {
    TRAIN: (
        "train.json",
        "annotations/train.json",
        "annotations/instances_train2017.json",
        "annotations/instances_train.json",
        "train/_annotations.coco.json",
    ),
    VAL: (
        "val.json",
        "valid.json",
        "annotations/val.json",
        "annotations/instances_val2017.json",
        "annotations/instances_val.json",
        "valid/_annotations.coco.json",
        "test/_annotations.coco.json",
    ),
}
# The same of data sets without parts.
WHOLE_FILES = ("annotations/instances_default.json", "result.json", "_annotations.coco.json")
EXPECTED = (
    "a COCO file (.json), a YOLO description (data.yaml or obj.data), or a folder with train.json, data.yaml, "
    "obj.data, classes.txt or the XML files of Pascal VOC"
)


def load_dataset(
    path: Path | str,
    images: Path | str | None = None,
    *,
    part: str = TRAIN,
    skip_invalid: bool = False,
    need_images: bool = True,
    bit_depth: int | None = None,
    on_message: Callable[[str], None] = lambda _line: None,
) -> DetectionDataset:
    """Read and check a data set in the format of COCO, YOLO or Pascal VOC.

    Args:
        path: COCO file, ``data.yaml``, ``obj.data`` or ``classes.txt`` of a YOLO data set, or folder of a data set of
            any of the three formats.
        images: folder of the images; None to look for it near the annotations.
        part: ``train`` or ``val``, for a folder or description that has both.
        skip_invalid: leave out images that cannot be used, and skip boxes that have no area or lie outside their image,
            instead of raising an error.
        need_images: look at each image. Otherwise only the boxes are needed, and the files of COCO and VOC need not
            exist.
        bit_depth: bits that image files of 16 bits use; None if it is not known yet.
        on_message: called with a line of text about the progress of a long look.

    Raises:
        DataError: for annotations, images or boxes that cannot be used. The message names the file, the record and the
            fix.
        MissingDependencyError: if YOLO or VOC is read without supervision.

    Examples:
        >>> dataset = load_dataset("tests/data/treecrowns/val.json", "tests/data/treecrowns/images")
        >>> len(dataset), dataset.class_names, dataset.images[0].size
        (16, ('tree',), (400, 400))
    """
    dataset = load_part(
        path,
        images,
        part=part,
        whole=True,
        skip_invalid=skip_invalid,
        need_images=need_images,
        bit_depth=bit_depth,
        on_message=on_message,
    )
    if dataset is None:
        purpose = "to learn from" if part == TRAIN else "to validate on"
        raise DataError(f"{path}: expected {EXPECTED}, found no part {purpose}; name the file itself")
    return dataset


def load_part(
    path: Path | str,
    images: Path | str | None = None,
    *,
    part: str,
    whole: bool = False,
    skip_invalid: bool = False,
    need_images: bool = True,
    bit_depth: int | None = None,
    on_message: Callable[[str], None] = lambda _line: None,
) -> DetectionDataset | None:
    """Read and check a part of a data set, as ``load_dataset`` does; return None if there is no such part.

    Args:
        whole: if the data set has no parts, take all of it.

    Examples:
        >>> load_part("tests/data/treecrowns", part="train") is None
        True
    """
    records = _read(Path(path), None if images is None else Path(images), part, whole=whole, need_images=need_images)
    if records is None:
        return None
    looks = None
    if need_images or records.relative:
        looks = look_at(
            [image.path for image in records.images], name=records.source, bit_depth=bit_depth, on_message=on_message
        )
    return build_dataset(records, looks, skip_invalid=skip_invalid)


def listed_images(path: Path) -> list[Path]:
    """Return the images that a COCO file or a YOLO description lists, in its order.

    Raises:
        DataError: as in ``load_dataset``.

    Examples:
        >>> len(listed_images(Path("tests/data/treecrowns/val.json")))
        16
    """
    if path.suffix.lower() == ".json":
        return coco_images(path)
    records = _read(path, None, TRAIN, whole=True, need_images=True)
    return [] if records is None else [image.path for image in records.images]


def is_coco_file(path: Path) -> bool:
    """True for a file that does not belong to a YOLO data set. It holds one part of a data set.

    Examples:
        >>> is_coco_file(Path("tests/data/treecrowns/val.json")), is_coco_file(Path("tests/data/treecrowns"))
        (True, False)
    """
    return path.is_file() and not is_yolo_file(path)


def _read(path: Path, images: Path | None, part: str, *, whole: bool, need_images: bool) -> Records | None:
    """Return the records of a part; None if there is no such part."""
    if not path.exists():
        raise DataError(f"{path}: expected {EXPECTED}, found no file or folder; correct the path")
    if images is not None and not images.is_dir():
        raise DataError(f"{images}: expected the folder with the images of {path}, found no folder; correct the path")
    kind = _format(path)
    if kind == YOLO:
        return read_yolo(path, part, images, whole=whole)
    if kind == COCO:
        file = _coco_file(path, part, whole=whole)
        return None if file is None else read_coco(file, images or (None if need_images else file.parent))
    found = find_voc(path, part, whole=whole)
    return None if found is None else read_voc(*found, images)


def _format(path: Path) -> str:
    """Return the format of a file or of a folder, the same for all its parts."""
    if path.is_file():
        return COCO if is_coco_file(path) else YOLO
    coco = (path / name for names in (*COCO_FILES.values(), WHOLE_FILES) for name in names)
    files = {
        COCO: next((file for file in coco if file.is_file()), None),
        YOLO: find_yolo(path),
        VOC: find_annotation(path),
    }
    found = {kind: file.relative_to(path) for kind, file in files.items() if file is not None}
    if len(found) > 1:
        names = " and ".join(f"{kind} ({file})" for kind, file in found.items())
        raise DataError(
            f"{path}: expected a data set of one format, found {names}; name the file that counts, or move the others "
            "to another folder"
        )
    if not found:
        check_names(path)
        return VOC
    return next(iter(found))


def _coco_file(path: Path, part: str, *, whole: bool) -> Path | None:
    """Return a COCO file: the path itself, or one in the folder."""
    if path.is_file():
        return path
    has_parts = any((path / name).is_file() for names in COCO_FILES.values() for name in names)
    names = (*COCO_FILES[part], *(WHOLE_FILES if part == TRAIN or (whole and not has_parts) else ()))
    return next((path / name for name in names if (path / name).is_file()), None)
