"""A folder for NVIDIA DeepStream: configurations of Gst-nvdspreprocess and Gst-nvinfer, and a library for both.

The preprocessing of Gst-nvinfer always writes floats into the network's input, so it cannot feed an engine that takes
uint8. But Gst-nvinfer can take a tensor unchanged from Gst-nvdspreprocess (``input-tensor-from-meta``). The default
library of Gst-nvdspreprocess writes floats too, but it can load a custom library. Source: the public code of DeepStream
9.1. Older versions of Gst-nvinfer do not know the type UINT8 and refuse such an engine.
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
# Folder that the DeepStream packages install to. The headers of nvdspreprocess have moved between versions.
SDK = "/opt/nvidia/deepstream/deepstream"
COMPILE = (
    f"nvcc -O2 -shared -Xcompiler -fPIC -o {LIBRARY} {SOURCE} -I{SDK}/sources/includes "
    f"-I{SDK}/sources/gst-plugins/gst-nvdspreprocess/include $(pkg-config --cflags-only-I gstreamer-1.0) "
    f"-L{SDK}/lib -lnvbufsurface -lnvbufsurftransform -Xlinker -rpath,{SDK}/lib"
)
NETWORK_MODES = {"fp32": 0, "int8": 1, "fp16": 2}


def write_folder(model: DeployableModel, folder: Path, *, streams: int | None = None) -> Path:
    """Write everything that DeepStream needs into a folder, and return its path.

    Args:
        model: an engine of TensorRT that outputs boxes.
        folder: folder to write; created if it does not exist.
        streams: number of streams; None for the engine's largest batch.

    Raises:
        DeploymentError: for an ONNX, or an engine that outputs raw heads.
        OSError: if a file cannot be written.
    """
    if model.passport is None or model.outputs_raw_heads:
        kind = "an ONNX" if model.passport is None else "an engine that outputs raw heads"
        raise DeploymentError(
            f"{model.path}: expected an engine that outputs boxes, got {kind}, and DeepStream lacks decode and NMS; "
            "build it with --backend tensorrt --postprocess plugin (TensorRT 10.9 or newer)"
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
    """Return the configuration of Gst-nvinfer.

    Examples:
        >>> from retina_edge.assets import MODEL
        >>> text = infer_config(DeployableModel.read(MODEL).contract, batch=4)
        >>> [line for line in text.splitlines() if line.startswith(("batch-size", "infer-dims"))]
        ['batch-size=4', 'infer-dims=3;416;736']
    """
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
        "Gst-nvinfer, after Gst-nvdspreprocess, which makes its input: the engine takes uint8, NHWC, BGR.",
        "No clustering (cluster-mode=4): the engine has already applied NMS.",
    ]
    classes = {"pre-cluster-threshold": contract.score_threshold, "topk": contract.max_detections}
    return _file(notes, {"property": properties, "class-attrs-all": classes})


def preprocess_config(contract: DetectorContract, *, batch: int, streams: int) -> str:
    """Return the configuration of Gst-nvdspreprocess.

    Examples:
        >>> from retina_edge.assets import MODEL
        >>> text = preprocess_config(DeployableModel.read(MODEL).contract, batch=4, streams=3)
        >>> [line for line in text.splitlines() if line.startswith(("network-input-shape", "src-ids"))]
        ['network-input-shape=4;416;736;3', 'src-ids=0;1;2']
    """
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
        "Gst-nvdspreprocess: whole frames, aspect ratio kept, at the top left, zeros at the right and the bottom.",
        "custom-lib-path is relative to the folder that the application runs in; src-ids lists every stream.",
    ]
    return _file(
        notes, {"property": properties, "user-configs": {"pixel-normalization-factor": "1.0"}, "group-0": group}
    )


def readme(model: DeployableModel) -> str:
    """Return the instructions for the folder, in Markdown."""
    return f"""# {model.contract.architecture} in DeepStream

**retina_edge has not been tested with DeepStream.** Keys, types and interfaces come from the public source of
DeepStream {MIN_VERSION}, and `{SOURCE}` has been compiled and run with stand-ins for its headers.

DeepStream {MIN_VERSION} or newer is required. Gst-nvinfer of older versions does not know the type UINT8 and refuses
the engine ("Unknown data type for bound layer"). The GPU, and the TensorRT version of DeepStream, must be those that
the engine was built for; `retina-edge inspect {ENGINE}` shows them.

1. Compile the library in this folder. This needs nvcc of CUDA, and the headers of TensorRT and GStreamer:

       {COMPILE}

2. Run the pipeline from this folder, with the elements in this order, and `batch-size` of nvstreammux as in `{INFER}`:

       nvstreammux ! nvdspreprocess config-file={PREPROCESS} ! nvinfer config-file-path={INFER} input-tensor-meta=1

`src-ids` in `{PREPROCESS}` lists the streams, from 0; add the missing ones. The thresholds are in `{INFER}`, under
`[class-attrs-all]`; the engine outputs nothing below {model.contract.score_threshold}. DeepStream maps the boxes back
to the frame. Its scaler rounds differently from the scaler that the model was trained with, so scores differ slightly.
"""


def _file(notes: Sequence[str], groups: Mapping[str, Mapping[str, object]]) -> str:
    blocks = ["\n".join(f"# {note}" for note in notes)]
    for group, properties in groups.items():
        blocks.append("\n".join([f"[{group}]", *(f"{key}={value}" for key, value in properties.items())]))
    return "\n\n".join(blocks) + "\n"
