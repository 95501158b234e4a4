"""A folder for NVIDIA DeepStream: configurations of Gst-nvdspreprocess and Gst-nvinfer, and a library for both.

Gst-nvinfer's own preprocessing always writes floats into the network's input, so it cannot feed an engine that takes
uint8. What it can do is take a tensor as it is from Gst-nvdspreprocess (``input-tensor-from-meta``), whose default
library writes floats too, but which loads one of one's own. Both were read in DeepStream 9.1's public source. Older
Gst-nvinfer has no UINT8 among its types and refuses such an engine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

from engines.core.contract import DetectorContract
from engines.core.errors import DeploymentError
from engines.core.tensor_names import INPUT, OUTPUTS
from retina_edge.deployment.deployable_model import LABELS, DeployableModel, copy_model, write_label_files, write_text

SOURCE, LIBRARY = "retina_edge_deepstream.cu", "libretina_edge_deepstream.so"
ENGINE, INFER, PREPROCESS = "model.engine", "config_infer_retina_edge.txt", "config_preprocess_retina_edge.txt"
MIN_VERSION = "9.1"
# Where the packages of DeepStream put themselves; the interface of nvdspreprocess has moved between versions.
SDK = "/opt/nvidia/deepstream/deepstream"
COMPILE = (
    f"nvcc -O2 -shared -Xcompiler -fPIC -o {LIBRARY} {SOURCE} -I{SDK}/sources/includes "
    f"-I{SDK}/sources/gst-plugins/gst-nvdspreprocess/include $(pkg-config --cflags-only-I gstreamer-1.0) "
    f"-L{SDK}/lib -lnvbufsurface -lnvbufsurftransform -Xlinker -rpath,{SDK}/lib"
)
NETWORK_MODES = {"fp32": 0, "int8": 1, "fp16": 2}


def write_folder(model: DeployableModel, folder: Path, *, streams: int | None = None) -> Path:
    """Writes everything DeepStream needs into a folder, and gives that.

    Args:
        model: an engine of TensorRT that gives boxes.
        folder: made where it is missing.
        streams: how many streams there are; the engine's batch where None.

    Raises:
        DeploymentError: an ONNX, or an engine that ends at the raw heads.
        OSError: it cannot be written.
    """
    if model.passport is None or model.ends_at_heads:
        found = "an ONNX" if model.passport is None else "an engine that ends at the raw heads"
        raise DeploymentError(
            f"{model.path}: expected an engine that gives boxes, found {found}; DeepStream has no decode and NMS of "
            "ours; build it with --backend tensorrt --postprocess plugin (TensorRT 10.9 or newer)"
        )
    copy_model(model, folder / ENGINE)
    write_label_files(folder, model.contract)
    source = resources.files("retina_edge.deployment").joinpath(SOURCE).read_text(encoding="utf-8")
    write_text(folder / SOURCE, source)
    batch = model.passport.batch[2]
    write_text(folder / PREPROCESS, preprocess_config(model.contract, batch=batch, streams=streams or batch))
    write_text(folder / INFER, infer_config(model.contract, batch=batch))
    write_text(folder / "README.md", readme(model))
    return folder


def infer_config(contract: DetectorContract, *, batch: int) -> str:
    """Configuration of Gst-nvinfer."""
    height, width = contract.input_size
    properties = {
        "gpu-id": 0,
        "gie-unique-id": 1,
        "process-mode": 1,
        "network-type": 0,
        "network-mode": NETWORK_MODES[contract.precision],
        "batch-size": batch,
        "model-engine-file": ENGINE,
        "labelfile-path": LABELS,
        "num-detected-classes": contract.num_classes,
        "input-tensor-from-meta": 1,
        "network-input-order": 1,
        "infer-dims": f"3;{height};{width}",
        "model-color-format": 1,
        "maintain-aspect-ratio": 1,
        "symmetric-padding": 0,
        "output-blob-names": ";".join(OUTPUTS),
        "custom-lib-path": LIBRARY,
        "parse-bbox-func-name": "NvDsInferParseRetinaEdge",
        "cluster-mode": 4,
    }
    notes = [
        "Gst-nvinfer, behind Gst-nvdspreprocess, which makes its input: the engine takes uint8, NHWC, BGR.",
        "No clustering (cluster-mode=4): the boxes have been through NMS.",
    ]
    classes = {"pre-cluster-threshold": contract.score_threshold, "topk": contract.max_detections}
    return _file(notes, {"property": properties, "class-attrs-all": classes})


def preprocess_config(contract: DetectorContract, *, batch: int, streams: int) -> str:
    """Configuration of Gst-nvdspreprocess."""
    height, width = contract.input_size
    properties = {
        "enable": 1,
        "gpu-id": 0,
        "unique-id": 5,
        "target-unique-ids": 1,
        "process-on-frame": 1,
        "network-input-order": 1,
        "network-input-shape": f"{batch};{height};{width};3",
        "network-color-format": 1,
        "tensor-data-type": 1,
        "tensor-name": INPUT,
        "processing-width": width,
        "processing-height": height,
        "maintain-aspect-ratio": 1,
        "symmetric-padding": 0,
        "scaling-filter": 1,
        "scaling-buf-pool-size": 6,
        "tensor-buf-pool-size": 6,
        "scaling-pool-memory-type": 0,
        "scaling-pool-compute-hw": 0,
        "custom-lib-path": f"./{LIBRARY}",
        "custom-tensor-preparation-function": "RetinaEdgeTensor",
    }
    group = {
        "src-ids": ";".join(map(str, range(streams))),
        "custom-input-transformation-function": "RetinaEdgeTransformation",
        "process-on-roi": 0,
    }
    notes = [
        "Gst-nvdspreprocess: whole frames, aspect kept, at the top left, zeros at the right and the bottom.",
        "custom-lib-path is looked for from where the application runs; src-ids names every stream.",
    ]
    return _file(
        notes, {"property": properties, "user-configs": {"pixel-normalization-factor": "1.0"}, "group-0": group}
    )


def readme(model: DeployableModel) -> str:
    """What to do with the folder, in Markdown."""
    return f"""# {model.contract.architecture} in DeepStream

**Not run on DeepStream by the project that wrote it.** Keys, types and interfaces were read in the public source of
DeepStream {MIN_VERSION}; `{SOURCE}` has been compiled and run against stand-ins of its headers.

DeepStream {MIN_VERSION} or newer: older Gst-nvinfer has no UINT8 among its types and refuses the engine ("Unknown data
type for bound layer"). The TensorRT of that DeepStream and the GPU have to be those the engine was built for:
`retina-edge inspect {ENGINE}` says which.

1. Compile the library, in this folder; CUDA's nvcc and the headers of TensorRT and GStreamer have to be there:

       {COMPILE}

2. Run the pipeline from this folder, the elements in this order, `batch-size` of nvstreammux as in `{INFER}`:

       nvstreammux ! nvdspreprocess config-file={PREPROCESS} ! nvinfer config-file-path={INFER} input-tensor-meta=1

`src-ids` in `{PREPROCESS}` names the streams, 0 first: add those that are missing. Thresholds lie in `{INFER}`
under `[class-attrs-all]`; below {model.contract.score_threshold} the engine itself gives nothing. Boxes are mapped back
to the frame by DeepStream. Its scaler rounds differently from the one the model was trained with, so expect scores to
differ a little.
"""


def _file(notes: Sequence[str], groups: Mapping[str, Mapping[str, object]]) -> str:
    blocks = ["\n".join(f"# {note}" for note in notes)]
    for group, properties in groups.items():
        blocks.append("\n".join([f"[{group}]", *(f"{key}={value}" for key, value in properties.items())]))
    return "\n\n".join(blocks) + "\n"
