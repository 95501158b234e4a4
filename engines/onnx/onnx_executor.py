"""The executor that runs a deployable ONNX with ONNX Runtime, on any CPU."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from engines.core.contract import TENSORRT, DetectorContract
from engines.core.errors import ContractError, ModelFileError
from engines.core.executor import HostExecutor, RawDetections
from engines.core.tensor_names import INPUT, OUTPUTS, QUANTIZATION_KEY

CONTRACT_KEY = "retina_edge.contract"


def _is_for_tensorrt(session: onnxruntime.InferenceSession) -> bool:
    """True if the model is in INT8 with TensorRT's layout."""
    text = session.get_modelmeta().custom_metadata_map.get(QUANTIZATION_KEY)
    return bool(text) and json.loads(text).get("layout") == TENSORRT


def _requested_threads() -> int:
    """Return the number of threads in ``OMP_NUM_THREADS``, or 0 if the variable contains none."""
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # one number for each level of nesting
    return int(first) if first.isdecimal() else 0


class OnnxExecutor(HostExecutor):
    """An ``Executor`` on ONNX Runtime.

    Args:
        path: path of a deployable ONNX from ``retina-edge export``.
        threads: number of threads of ONNX Runtime. 0 takes the number in ``OMP_NUM_THREADS``, which torch uses too; if
            that is not set, one thread for each core.

    Attributes:
        contract: contract of the model.
        batch: batch size of the model, or None if it takes any batch size.

    Raises:
        ModelFileError: if the file is missing, is not an ONNX model, or was not written by ``retina-edge export``.

    Examples:
        >>> from retina_edge.assets import MODEL
        >>> executor = OnnxExecutor(MODEL)
        >>> executor.batch, executor.contract.input_size
        (1, (416, 736))
        >>> raw = executor.result(executor.submit([np.zeros((720, 1280, 3), np.uint8)]))
        >>> raw.num_detections.shape, raw.boxes.shape
        ((1,), (1, 300, 4))
        >>> executor.close()
    """

    def __init__(self, path: Path | str, *, threads: int = 0) -> None:
        path = Path(path)
        if not path.is_file():
            raise ModelFileError(f"{path}: expected an ONNX file, found none; make it with retina-edge export")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or _requested_threads()
        options.log_severity_level = 3
        # Spinning threads between the operators of a run save a fifth of its time on two cores. After the run, they
        # would only take time from decoding, drawing and encoding.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            if _is_for_tensorrt(self._session):
                # The optimizer of ONNX Runtime 1.32 changes the results of INT8 in float16. With the optimizer, the
                # raw heads of the sample model drifted from FP32 by 10 dB more.
                options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
                self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises its own and built-in exceptions
            text = str(error).replace(f"Load model from {path} failed:", "")  # our message begins with the path
            reason = f"{type(error).__name__} {text.partition(chr(10))[0][:200]}"
            raise ModelFileError(f"{path}: expected a deployable ONNX model; ONNX Runtime says: {reason}") from error
        metadata = self._session.get_modelmeta().custom_metadata_map
        if CONTRACT_KEY not in metadata:
            raise ModelFileError(
                f"{path}: expected the contract in the metadata under {CONTRACT_KEY!r}, found none; "
                "only models written by retina-edge export can be run"
            )
        try:
            self.contract = DetectorContract.from_json(metadata[CONTRACT_KEY])
        except ContractError as error:
            raise ModelFileError(f"{path}: {error}") from error
        self._check_signature(path)
        batch = self._session.get_inputs()[0].shape[0]
        self.batch: int | None = batch if isinstance(batch, int) else None

    def _check_signature(self, path: Path) -> None:
        """Raise ModelFileError if the inputs or outputs are not those of a deployable ONNX."""
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        shape = [*self.contract.input_size, 3]
        signature = [(item.name, item.type, item.shape[1:]) for item in inputs]
        if signature != [(INPUT, "tensor(uint8)", shape)] or tuple(item.name for item in outputs) != OUTPUTS:
            raise ModelFileError(
                f"{path}: expected the input images uint8 [N, {', '.join(map(str, shape))}] and the outputs "
                f"{', '.join(OUTPUTS)}, got {signature} and {[item.name for item in outputs]}; export the model again"
            )

    def infer(self, images: npt.NDArray[np.uint8]) -> RawDetections:
        """Run the model and return its detections.

        Args:
            images: uint8 [N, height, width, 3], BGR, letterboxed to the contract's input size.

        Raises:
            ValueError: if the executor is closed.
        """
        if self._session is None:
            raise ValueError("the detector is closed; load it again")
        return RawDetections(*self._session.run(OUTPUTS, {INPUT: images}))

    def close(self) -> None:
        """Release the ONNX Runtime session. The executor cannot be used afterwards."""
        self._session = None
