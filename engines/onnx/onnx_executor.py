"""Runs a deployable ONNX with ONNX Runtime, on any CPU."""

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
    text = session.get_modelmeta().custom_metadata_map.get(QUANTIZATION_KEY)
    return bool(text) and json.loads(text).get("layout") == TENSORRT


def _threads_asked_for() -> int:
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # one number for each level of nesting
    return int(first) if first.isdecimal() else 0


class OnnxExecutor(HostExecutor):
    """An ``Executor`` on ONNX Runtime.

    Args:
        path: a deployable ONNX, as ``retina-edge export`` writes it.
        threads: of ONNX Runtime; 0 for as many as ``OMP_NUM_THREADS`` says, which torch obeys too, or every core.

    Raises:
        ModelFileError: the file is missing, no ONNX model, or not a deployable one of ours.
    """

    def __init__(self, path: Path | str, *, threads: int = 0) -> None:
        path = Path(path)
        if not path.is_file():
            raise ModelFileError(f"{path}: expected an ONNX file, found none; make it with retina-edge export")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or _threads_asked_for()
        options.log_severity_level = 3
        # Spinning between the operators of a run saves a fifth of its time on two cores; after the run it would
        # only take the cores from decoding, drawing and encoding.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            if _is_for_tensorrt(self._session):
                # ONNX Runtime 1.32 makes something else of INT8 in float16 when it optimizes: the raw heads of the
                # sample model were 10 dB further off FP32 than without.
                options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
                self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises many kinds, of its own and plain ones
            said = str(error).replace(f"Load model from {path} failed:", "")  # our message begins with the path
            reason = f"{type(error).__name__} {said.partition(chr(10))[0][:200]}"
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
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        shape = [*self.contract.input_size, 3]
        found = [(item.name, item.type, item.shape[1:]) for item in inputs]
        if found != [(INPUT, "tensor(uint8)", shape)] or tuple(item.name for item in outputs) != OUTPUTS:
            raise ModelFileError(
                f"{path}: expected the input images uint8 [N, {', '.join(map(str, shape))}] and the outputs "
                f"{', '.join(OUTPUTS)}, found {found} and {[item.name for item in outputs]}; export the model again"
            )

    def infer(self, images: npt.NDArray[np.uint8]) -> RawDetections:
        if self._session is None:
            raise ValueError("the detector is closed; load it again")
        return RawDetections(*self._session.run(OUTPUTS, {INPUT: images}))

    def close(self) -> None:
        self._session = None
