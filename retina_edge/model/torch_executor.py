"""The executor that runs a checkpoint with torch, on the CPU or a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

import numpy as np
import numpy.typing as npt

from engines.core.contract import DetectorContract
from engines.core.errors import DeviceError, MissingDependencyError
from engines.core.executor import NETWORK, POSTPROCESS, PREPROCESS, HostExecutor, RawDetections
from engines.plugins.parameters import pack_parameters, set_thresholds
from engines.plugins.specification import detections_of

try:
    import torch

    from export.preprocess import Preprocess
    from retina_edge.model.checkpoint import load_checkpoint
    from retina_edge.model.retinanet import RetinaNet
except ImportError as error:
    raise MissingDependencyError(
        f"a checkpoint needs torch and torchvision ({error}): pip install 'retina-edge[train,export]'"
    ) from error


class TorchExecutor(HostExecutor):
    """An ``Executor`` that runs the network with torch, and decode and NMS with the NumPy specification.

    Args:
        model: the network, which is moved to the device. Training mode is off during a call and restored afterwards.
        contract: contract of the model.
        device: device to run on.

    Examples:
        >>> from retina_edge.assets import CHECKPOINT
        >>> executor = TorchExecutor.load(CHECKPOINT, device="cpu")
        >>> executor.device, executor.contract.input_size
        ('cpu', (416, 736))
    """

    batch: int | None = None
    library = "torch"

    def __init__(self, model: RetinaNet, contract: DetectorContract, *, device: torch.device) -> None:
        self.contract = contract
        self._model: RetinaNet | None = model.to(device)
        self._device = device
        self._preprocess = Preprocess(contract).to(device)
        self._parameters = pack_parameters(contract)

    @property
    def device(self) -> str:
        """The device that the model runs on, such as ``cpu`` or ``cuda:0``."""
        return str(self._device)

    @classmethod
    def load(cls, path: Path | str, *, device: str = "auto") -> TorchExecutor:
        """Load a checkpoint onto a device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

        Raises:
            ModelFileError: if the file is missing, corrupt, or not a checkpoint of retina_edge.
            DeviceError: if the device does not exist.
        """
        checkpoint = load_checkpoint(path)
        return cls(checkpoint.build_model(), checkpoint.contract, device=select_device(device))

    def heads(self, images: npt.NDArray[np.uint8]) -> tuple[list[npt.NDArray[np.float32]], ...]:
        """Compute the raw heads of letterboxed images.

        Args:
            images: letterboxed images, BGR, uint8 [N, height, width, 3].

        Returns:
            Class logits [N, A * C, h, w] and box deltas [N, A * 4, h, w] of each level, float32, finest level first.

        Raises:
            ValueError: if the executor is closed.
        """
        if self._model is None:
            raise ValueError("the detector is closed; load it again")
        training = self._model.training
        self._model.eval()
        with torch.inference_mode():
            outputs = self._model(self._preprocess(torch.from_numpy(images).to(self._device)))
        self._model.train(training)
        return tuple([level.float().cpu().numpy() for level in head] for head in outputs)

    def infer(self, images: npt.NDArray[np.uint8]) -> RawDetections:
        return self._postprocess(*self.heads(images))

    def set_thresholds(self, *, score_threshold: float | None = None, iou_threshold: float | None = None) -> None:
        set_thresholds(self._parameters, score_threshold=score_threshold, iou_threshold=iou_threshold)

    def measure(self, frames: Sequence[npt.NDArray[np.uint8]]) -> dict[str, float]:
        clock = [perf_counter()]
        ticket = self.submit(frames)
        clock.append(perf_counter())
        heads = self.heads(ticket.images)
        clock.append(perf_counter())
        self._postprocess(*heads)
        clock.append(perf_counter())
        stages = (PREPROCESS, NETWORK, POSTPROCESS)
        return {name: 1000 * (clock[i + 1] - clock[i]) for i, name in enumerate(stages)}

    def _postprocess(
        self, cls_logits: list[npt.NDArray[np.float32]], box_deltas: list[npt.NDArray[np.float32]]
    ) -> RawDetections:
        return detections_of([*cls_logits, *box_deltas], self.contract, self._parameters)

    def close(self) -> None:
        self._model = None


def select_device(name: str) -> torch.device:
    """Return the torch device of a name; ``auto`` is the GPU if torch sees one, else the CPU.

    Raises:
        DeviceError: if the name is not ``auto``, ``cpu``, ``cuda`` or ``cuda:N``, or torch does not see that GPU.

    Examples:
        >>> select_device("cpu")
        device(type='cpu')
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(f"device: expected auto, cpu, cuda or cuda:N, got {name!r}") from error
    if device.type not in ("cpu", "cuda"):
        raise DeviceError(f"device: expected auto, cpu, cuda or cuda:N, got {name!r}")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise DeviceError(f"device {name}: torch {torch.__version__} sees no CUDA device; use cpu or auto")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceError(f"device {name}: expected cuda:0 to cuda:{torch.cuda.device_count() - 1}, which torch sees")
    return device
