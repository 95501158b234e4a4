"""Fixtures shared by all tests: real labeled images and small models."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from filelock import FileLock

from benchmarks.forest_windows import write_windows
from engines.tensorrt.builder import build_engine
from export.precision.calibration import audit
from export.precision.conversion import Calibration, convert_file
from export.torch_export import export_onnx
from retina_edge.assets import MODEL
from retina_edge.imaging.image_file import read_image
from retina_edge.model.checkpoint import load_checkpoint
from tests.engines.plugins.emulated import compile_into
from tests.engines.runner.world import OPTIONS

DATA = Path(__file__).parent / "data"
SMALL_INPUT = (128, 128)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run files marked ``start_first`` first, so that parallel workers end at about the same time."""
    items.sort(key=lambda item: item.get_closest_marker("start_first") is None)


def pytest_configure() -> None:
    """Let Ctrl-C interrupt the tests and their processes, also if a shell has started pytest in the background."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the caches of retina_edge, such as that of looked-at images, out of the user's folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def treecrowns() -> Path:
    """The folder of the validation tiles: ``val.json`` and ``images/``, 16 tiles of 400×400 pixels, 296 boxes."""
    return DATA / "treecrowns"


@pytest.fixture(scope="session")
def frames(treecrowns: Path) -> list[npt.NDArray[np.uint8]]:
    """Four real frames, BGR uint8 [400, 400, 3]."""
    paths = sorted((treecrowns / "images").glob("*.jpg"))[:4]
    return [np.asarray(cv2.imread(str(path)), np.uint8) for path in paths]


@pytest.fixture(scope="session")
def tiny_coco(treecrowns: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A COCO file with the four validation tiles that have the most boxes; the images are in ``treecrowns/images``."""
    content = json.loads((treecrowns / "val.json").read_text())
    counts = Counter(annotation["image_id"] for annotation in content["annotations"])
    ids = {image_id for image_id, _ in counts.most_common(4)}
    content["images"] = [image for image in content["images"] if image["id"] in ids]
    content["annotations"] = [item for item in content["annotations"] if item["image_id"] in ids]
    path = tmp_path_factory.mktemp("coco") / "tiny.json"
    path.write_text(json.dumps(content))
    return path


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """Return a folder that ``make`` fills, once for all workers of a run."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            partial = folder.with_name(f"{name}.partial")
            partial.mkdir()
            make(partial)
            partial.rename(folder)
    return folder


@pytest.fixture(scope="session", autouse=True)
def _kernels(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> None:
    # There is no cache with the option -p no:cacheprovider.
    cache: pytest.Cache | None = getattr(pytestconfig, "cache", None)
    compile_into(cache.mkdir("kernels") if cache else made_once(tmp_path_factory, "kernels", lambda _folder: None))


@pytest.fixture(scope="session")
def calibration_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 64 windows of the sample image, as large as the sample model's input."""
    return made_once(tmp_path_factory, "calibration", write_windows)


@pytest.fixture(scope="session")
def sample_models(
    calibration_folder: Path, frames: list[npt.NDArray[np.uint8]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """The sample model in every precision: fp32, fp16, int8-tensorrt, int8-cpu."""

    def make(folder: Path) -> None:
        images = audit(list(calibration_folder.iterdir()), read_image)
        convert_file(MODEL, folder / "fp16.onnx", "fp16", images=frames)
        for layout in ("tensorrt", "cpu"):
            # Minmax is the fastest calibrator, and both layouts share its ranges.
            calibration = Calibration(images, layout, "minmax", folder / "ranges")
            convert_file(MODEL, folder / f"int8-{layout}.onnx", "int8", images=frames, calibration=calibration)

    folder = made_once(tmp_path_factory, "precisions", make)
    return {"fp32": MODEL, **{name: folder / f"{name}.onnx" for name in ("fp16", "int8-tensorrt", "int8-cpu")}}


@pytest.fixture(scope="session")
def small_frames(frames: list[npt.NDArray[np.uint8]]) -> list[npt.NDArray[np.uint8]]:
    """Parts of the real frames, uint8 [188, 168, 3], in each of which the sample model is sure of at least 4 trees."""
    corners = ((96, 192), (192, 216), (24, 216), (0, 120))
    return [
        np.ascontiguousarray(frame[top : top + 188, left : left + 168])
        for frame, (top, left) in zip(frames, corners, strict=True)
    ]


@pytest.fixture(scope="session")
def engine(frames: list[npt.NDArray[np.uint8]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engine of the sample model for up to 3 images of 128×128, small because the emulator is slow.

    ``model.onnx`` lies beside it. Its score threshold is 0.2, because NMS takes the emulator longest, a round for each
    detection.
    """

    def make(folder: Path) -> None:
        checkpoint = load_checkpoint(MODEL.with_suffix(".pt"))
        model = checkpoint.build_model()
        contract = dataclasses.replace(
            checkpoint.contract, input_size=SMALL_INPUT, levels=model.pyramid(SMALL_INPUT), score_threshold=0.2
        )
        export_onnx(model, contract, folder / "model.onnx", batch=None, images=frames[:1])
        build_engine(folder / "model.onnx", folder / "model.engine", OPTIONS)

    return made_once(tmp_path_factory, "runner", make) / "model.engine"
