"""The executor that runs a deployable ONNX with ONNX Runtime, on any CPU, or on a GPU with another provider."""

from __future__ import annotations

import logging
import os
from collections import Counter
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from engines.core.contract import TENSORRT, DetectorContract
from engines.core.errors import ContractError, ModelFileError, RetinaEdgeError, reason_of
from engines.core.executor import HostExecutor, RawDetections
from engines.core.json_form import read_json, short
from engines.core.records import QUANTIZATION
from engines.core.tensor_names import INPUT, OUTPUTS, QUANTIZATION_KEY
from engines.onnx.onnx_check import check_onnx_file
from engines.onnx.providers import BoundRun, Provider, nodes_on_cpu, open_on_gpu, provider_of
from engines.onnx.session import open_session, run_error, run_session

CONTRACT_KEY = "retina_edge.contract"
log = logging.getLogger(__name__)
_OUTPUT_TYPES = ("tensor(int32)", "tensor(float)", "tensor(float)", "tensor(int32)")


def _is_for_tensorrt(session: onnxruntime.InferenceSession) -> bool:
    """True if the model is in INT8 with TensorRT's layout."""
    text = session.get_modelmeta().custom_metadata_map.get(QUANTIZATION_KEY)
    return bool(text) and read_json(text, QUANTIZATION, what="quantization").get("layout") == TENSORRT


def _requested_threads() -> int:
    """Return the number of threads in ``OMP_NUM_THREADS``, or 0 if the variable contains none."""
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # one number for each level of nesting
    return int(first) if first.isdecimal() else 0


def _session_options(threads: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or _requested_threads()
    # Spinning threads between the operators of a run save a fifth of its time on two cores. After the run, they would
    # only take time from decoding, drawing and encoding.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


class OnnxExecutor(HostExecutor):
    """An ``Executor`` on ONNX Runtime.

    Args:
        path: path of a deployable ONNX from ``retina-edge export``.
        threads: number of threads of ONNX Runtime. 0 takes the number in ``OMP_NUM_THREADS``, which torch uses too; if
            that is not set, one thread for each core.
        device: ``auto`` or ``cpu``; or ``cuda``, ``tensorrt`` or ``tensorrt-rtx``, the providers for NVIDIA GPUs, with
            ``:N`` for another GPU than 0.

    Attributes:
        contract: contract of the model.
        batch: batch size of the model, or None if it takes any batch size.
        nodes_on_cpu: operators of the nodes that a provider for GPUs leaves to the CPU, one for each node; None on the
            CPU, and if ONNX Runtime is older than 1.24, which does not tell.

    Raises:
        ModelFileError: if the file is missing, is not an ONNX model, or was not written by ``retina-edge export``.
        MissingDependencyError: if the provider is not installed.
        DeviceError: if the device is unknown, or its provider cannot be loaded.

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

    library = "ONNX Runtime"

    def __init__(self, path: Path | str, *, threads: int = 0, device: str = "auto") -> None:
        path = Path(path)
        provider, self._gpu = provider_of(device)
        if not path.is_file():
            raise ModelFileError(f"{path}: expected an ONNX file, found none; make it with retina-edge export")
        check_onnx_file(path)
        options = _session_options(threads)
        try:
            self._session = open_session(path, options)
            if _is_for_tensorrt(self._session):
                # The optimizer of ONNX Runtime 1.32 changes the results of INT8 in float16. With the optimizer, the
                # raw heads of the sample model drifted from FP32 by 10 dB more.
                options = _session_options(threads)  # new ones, because each entry can be added only once
                options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
                self._session = open_session(path, options)
        except ContractError as error:
            raise ModelFileError(f"{path}: {error}; export the model again") from error
        except Exception as error:  # ONNX Runtime raises its own and built-in exceptions
            reason = reason_of(error, without=f"Load model from {path} failed:")  # our message begins with the path
            raise ModelFileError(f"{path}: expected a deployable ONNX model; ONNX Runtime says: {reason}") from error
        self._read_contract(path)
        self._check_signature(path)
        batch = self._session.get_inputs()[0].shape[0]
        self.batch: int | None = batch if isinstance(batch, int) else None
        self.nodes_on_cpu: tuple[str, ...] | None = None
        self._runs: dict[int, BoundRun] | None = None
        self._lock = Lock()
        if provider:
            self._use(provider, path, options)

    def _read_contract(self, path: Path) -> None:
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

    def _use(self, provider: Provider, path: Path, options: onnxruntime.SessionOptions) -> None:
        """Open the model again with a provider for GPUs, and keep input and outputs in the GPU's memory."""
        try:
            self._session = open_on_gpu(path, options, provider, self._gpu, precision=self.contract.precision)
        except RetinaEdgeError:
            raise
        except Exception as error:  # ONNX Runtime raises its own and built-in exceptions
            raise ModelFileError(f"{path}: {provider.name} refuses the model: {reason_of(error)}") from error
        self._runs = {}
        self.nodes_on_cpu = nodes_on_cpu(self._session)
        if self.nodes_on_cpu:
            kinds = ", ".join(f"{count} {kind}" for kind, count in Counter(self.nodes_on_cpu).items())
            log.warning("%s: %s leaves nodes to the CPU: %s", path.name, provider.name, kinds)

    def _check_signature(self, path: Path) -> None:
        """Raise ModelFileError if the inputs or outputs are not those of a deployable ONNX."""
        rows = self.contract.max_detections
        expected = [
            (INPUT, "tensor(uint8)", [*self.contract.input_size, 3]),
            *zip(OUTPUTS, _OUTPUT_TYPES, ([], [rows, 4], [rows], [rows]), strict=True),
        ]
        tensors = (*self._session.get_inputs(), *self._session.get_outputs())
        if (found := [(item.name, item.type, item.shape[1:]) for item in tensors]) != expected:
            raise ModelFileError(
                f"{path}: expected inputs and outputs as in the contract, (name, type, shape of one image) {expected}, "
                f"got {short(found)}; export the model again"
            )

    def infer(self, images: npt.NDArray[np.uint8]) -> RawDetections:
        """Run the model and return its detections.

        Args:
            images: uint8 [N, height, width, 3], BGR, letterboxed to the contract's input size.

        Raises:
            ModelFileError: if the model cannot be run, or returns labels that are not in its contract.
            ValueError: if the executor is closed.
        """
        if self._session is None:
            raise ValueError("the detector is closed; load it again")
        raw = RawDetections(*self._run(images))
        # As unsigned numbers, labels below 0 are large.
        if raw.labels.view(np.uint32).max(initial=0) >= self.contract.num_classes:
            raise ModelFileError(
                f"the ONNX model: expected labels below {self.contract.num_classes}, the number of class names in its "
                f"contract, got {raw.labels.max()}; export it again"
            )
        return raw

    def _run(self, images: npt.NDArray[np.uint8]) -> list[npt.NDArray[Any]]:
        if self._runs is None:
            return run_session(self._session, OUTPUTS, {INPUT: images})
        with self._lock:  # a bound input serves one thread at a time
            try:
                if len(images) not in self._runs:
                    self._runs[len(images)] = BoundRun(self._session, images.shape, self._gpu)
                return self._runs[len(images)](images)
            except Exception as error:  # ONNX Runtime raises its own and built-in exceptions
                raise run_error(error) from error

    def close(self) -> None:
        """Release the ONNX Runtime session. The executor cannot be used afterwards."""
        self._session = self._runs = None
