"""The preprocessing inside the graph, so that nobody outside it can get it wrong. Needs torch only."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from engines.core.contract import DetectorContract


class Preprocess(nn.Module):
    """uint8 [N, H, W, 3] BGR to the network's normalized float [N, 3, H, W]."""

    scale: Tensor
    offset: Tensor
    channels: Tensor

    def __init__(self, contract: DetectorContract) -> None:
        super().__init__()
        std = torch.tensor(contract.std, dtype=torch.float64)
        mean = torch.tensor(contract.mean, dtype=torch.float64)
        # Not in the state dict: they are the contract's, and a checkpoint holds nothing twice.
        self.register_buffer("scale", (1 / (255 * std)).float().view(3, 1, 1), persistent=False)
        self.register_buffer("offset", (mean / std).float().view(3, 1, 1), persistent=False)
        self.register_buffer("channels", torch.tensor([2, 1, 0]), persistent=False)
        self.flip = contract.color_order == "RGB"

    def forward(self, images: Tensor) -> Tensor:
        """``images``: uint8 [N, H, W, 3], BGR, letterboxed."""
        # First of all to float: the one thing TensorRT can do with uint8.
        x = images.to(self.scale.dtype).permute(0, 3, 1, 2)
        if self.flip:
            x = x.index_select(1, self.channels)
        return x * self.scale - self.offset
