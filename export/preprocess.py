"""Preprocessing as part of the network, so that no caller can get it wrong."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from engines.core.contract import DetectorContract


class Preprocess(nn.Module):
    """A module that converts letterboxed images, uint8 [N, H, W, 3] BGR, to normalized images, float32 [N, 3, H, W].

    Args:
        contract: contract with the color order, mean and standard deviation.

    Examples:
        >>> from engines.core.contract import PyramidLevel
        >>> levels = (PyramidLevel((2, 2), (16, 16), (32.0,), (1.0,)),)
        >>> contract = DetectorContract("demo", (32, 32), ("tree",), (1,), levels, mean=(0, 0, 0), std=(1, 1, 1))
        >>> blue, green, red = 0, 51, 255
        >>> Preprocess(contract)(torch.tensor([[[[blue, green, red]]]], dtype=torch.uint8)).flatten()
        tensor([1.0000, 0.2000, 0.0000])
    """

    scale: Tensor
    offset: Tensor
    channels: Tensor

    def __init__(self, contract: DetectorContract) -> None:
        super().__init__()
        std = torch.tensor(contract.std, dtype=torch.float64)
        mean = torch.tensor(contract.mean, dtype=torch.float64)
        # The buffers are not in the state dict, because a checkpoint already holds these values in its contract.
        self.register_buffer("scale", (1 / (255 * std)).float().view(3, 1, 1), persistent=False)
        self.register_buffer("offset", (mean / std).float().view(3, 1, 1), persistent=False)
        self.register_buffer("channels", torch.tensor([2, 1, 0]), persistent=False)
        self.flip = contract.color_order == "RGB"

    def forward(self, images: Tensor) -> Tensor:
        """Normalize letterboxed images, uint8 [N, H, W, 3], BGR.

        Returns:
            Normalized images, float32 [N, 3, H, W], in the contract's color order.
        """
        # The cast to float comes first, because it is the only operation that TensorRT supports on uint8.
        x = images.to(self.scale.dtype).permute(0, 3, 1, 2)
        if self.flip:
            x = x.index_select(1, self.channels)
        return x * self.scale - self.offset
