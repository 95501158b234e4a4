"""A deployable ONNX as a teacher, run by ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from engines.core.contract import TENSORRT
from engines.core.errors import MissingDependencyError, ModelFileError
from engines.core.tensor_names import INPUT, QUANTIZATION_KEY
from retina_edge.training.teacher import Teacher, TeacherOutput

try:
    import onnxruntime

    from engines.onnx.deployable import batch_of, contract_of, heads_only, read_deployable, record_of
    from engines.onnx.providers import open_on_gpu, provider_of
    from engines.onnx.session import open_session, run_session
except ImportError as error:
    raise MissingDependencyError(
        f"an ONNX as the teacher needs onnx ({error}): pip install 'retina-edge[train,export]'"
    ) from error


class OnnxTeacher(Teacher):
    """A deployable ONNX as a teacher, which gives raw heads, for crops of the size of its input.

    It runs in the precision of the file: on a GPU if the student trains on one and ONNX Runtime has CUDA's provider,
    else on the CPU.

    Args:
        path: path of a file from ``retina-edge export``.
        device: device that the student trains on.

    Raises:
        ModelFileError: if the file is missing, or was not written by ``retina-edge export``.
        DeviceError: if CUDA's provider is installed, but cannot be loaded.

    Examples:
        >>> from retina_edge.assets import MODEL
        >>> output = OnnxTeacher(MODEL, torch.device("cpu"))(torch.zeros(2, 416, 736, 3, dtype=torch.uint8))
        >>> output.logits[0].shape, output.features
        (torch.Size([2, 9, 52, 92]), [])
    """

    def __init__(self, path: Path, device: torch.device) -> None:
        if not path.is_file():
            raise ModelFileError(f"{path}: expected an ONNX file, found none; make it with retina-edge export")
        try:
            model = read_deployable(path.read_bytes())
            contract = contract_of(model)
            for_tensorrt = (record_of(model, QUANTIZATION_KEY) or {}).get("layout") == TENSORRT
            network = heads_only(model)
        except ModelFileError as error:
            raise ModelFileError(f"{path}: {error}") from error
        super().__init__(path, contract)
        self.crop = contract.input_size
        self._batch, self._device = batch_of(model), device
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        if for_tensorrt:  # ``engines.onnx.onnx_executor`` says why
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        content = network.SerializeToString()
        provider, gpu = provider_of(f"cuda:{device.index or 0}" if device.type == "cuda" else "cpu")
        if provider and provider.name in onnxruntime.get_available_providers():
            self._session = open_on_gpu(content, options, provider, gpu, precision=contract.precision)
        else:
            self._session = open_session(content, options)

    def __call__(self, images: Tensor) -> TeacherOutput:
        frames, count = images.cpu().numpy(), len(images)
        size = self._batch or count  # a file with a fixed batch takes no other, so its last one is filled up
        frames = np.concatenate([frames, np.zeros((-count % size, *frames.shape[1:]), np.uint8)])
        parts = [run_session(self._session, None, {INPUT: frames[n : n + size]}) for n in range(0, len(frames), size)]
        heads = [torch.from_numpy(np.concatenate(head)[:count]).to(self._device) for head in zip(*parts, strict=True)]
        levels = len(self.contract.levels)
        return TeacherOutput(heads[:levels], heads[levels:], [])
