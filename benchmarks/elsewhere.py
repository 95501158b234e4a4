"""Accuracy of the sample model in forests that it was not trained on.

    pip download --no-deps deepforest==2.1.0
    python -m benchmarks.elsewhere --deepforest deepforest-2.1.0-py3-none-any.whl

The package contains a labeled image of each of two other forests, in Florida and in California. Neither takes part in
the training or in the choice of the model, and neither is in this repository.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from benchmarks.record import begin, save
from retina_edge.assets import MODEL
from retina_edge.data.load import load_dataset
from retina_edge.detector import Detector
from retina_edge.evaluation.coco_metrics import evaluate

# Names of the images in the package, and the forests.
FORESTS = {"OSBS_029": "Ordway-Swisher, Florida", "SOAP_061": "Soaproot Saddle, California"}
TREE = "tree"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--deepforest", type=Path, required=True, metavar="FILE", help="the wheel of the package deepforest 2.1.0"
    )
    parser.add_argument("--model", type=Path, default=MODEL, help="model to measure (default: the sample model)")
    args = parser.parse_args(argv)
    before, rows = begin(), []
    with tempfile.TemporaryDirectory() as name, Detector.load(args.model, device="cpu") as detector:
        folder = Path(name)
        with zipfile.ZipFile(args.deepforest) as package:
            parts = {forest: [image] for image, forest in FORESTS.items()}
            for forest, images in {**parts, "both": list(FORESTS)}.items():
                path = write_coco(package, images, folder)
                data = load_dataset(path, folder)
                metrics = evaluate(detector, data).metrics
                boxes = sum(len(image.boxes) for image in data.images)
                rows.append({"forest": forest, "trees": boxes, **{n: round(metrics[n], 4) for n in ("AP", "AP50")}})
                print(json.dumps(rows[-1]))
    print(f"written to {save('elsewhere', rows, before=before).name}")
    return 0


def write_coco(package: zipfile.ZipFile, names: Sequence[str], folder: Path) -> Path:
    """Write some of the package's images and a COCO file with their boxes, all of class ``tree``; return its path."""
    images: list[dict[str, Any]] = []
    boxes: list[dict[str, Any]] = []
    for name in names:
        (folder / f"{name}.png").write_bytes(package.read(f"deepforest/data/{name}.png"))
        root = ElementTree.fromstring(package.read(f"deepforest/data/{name}.xml"))
        width, height = (int(root.findtext(f"size/{side}", "0")) for side in ("width", "height"))
        images.append({"id": len(images), "file_name": f"{name}.png", "width": width, "height": height})
        for item in root.iter("bndbox"):  # counted from 0, as in the package's CSV files, not from 1 as in Pascal VOC
            x1, y1, x2, y2 = (float(item.findtext(side, "")) for side in ("xmin", "ymin", "xmax", "ymax"))
            box = {"image_id": images[-1]["id"], "category_id": 1, "bbox": [x1, y1, x2 - x1, y2 - y1]}
            boxes.append({"id": len(boxes) + 1, **box})
    path = folder / "forests.json"
    categories = [{"id": 1, "name": TREE}]
    path.write_text(json.dumps({"images": images, "annotations": boxes, "categories": categories}))
    return path


if __name__ == "__main__":
    raise SystemExit(main())
