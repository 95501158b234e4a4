"""Batch normalization for convolutions that several pyramid levels share, with statistics of its own for each level."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

MOMENTUM = 0.1


class LevelBatchNorm(nn.Module):
    """Batch normalization (Ioffe and Szegedy, arXiv 1502.03167) with separate statistics for each pyramid level.

    The levels of a pyramid differ in their statistics, so that one mean for all of them would fit none. Scale and shift
    are shared, as the convolutions are. In evaluation mode the statistics are constants, which export folds into the
    convolution before: it costs nothing on the device. Over several processes the statistics are those of all images.

    Args:
        channels: number of channels, C.
        levels: number of pyramid levels, L.
        eps: added to the variance.
        fixed: True to use the running statistics in training, too, which then stay as they are: for batches that are
            too small to have statistics of their own.

    Attributes:
        weight, bias: scale and shift, float32 [C].
        running_mean, running_var: statistics that are used in evaluation mode, float32 [L, C].

    Examples:
        >>> norm = LevelBatchNorm(2, levels=3)
        >>> ordinary = nn.BatchNorm2d(2)
        >>> images = torch.rand(4, 2, 8, 8)
        >>> bool(torch.equal(norm(images, 1), ordinary(images)))
        True
        >>> [bool(mean.any()) for mean in norm.running_mean]
        [False, True, False]
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, *, levels: int, eps: float = 1e-5, fixed: bool = False) -> None:
        super().__init__()
        self.eps, self.fixed = eps, fixed
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(levels, channels))
        self.register_buffer("running_var", torch.ones(levels, channels))

    def forward(self, x: Tensor, level: int) -> Tensor:
        """Normalize the features of one level.

        Args:
            x: features, float [N, C, h, w].
            level: index of the level, 0 for the finest.
        """
        mean, variance = self.running_mean[level], self.running_var[level]
        own = self.training and not self.fixed
        processes = distributed.get_world_size() if own and distributed.is_initialized() else 1
        if processes > 1:
            return self._normalize_over_processes(x, level, processes)
        # A single position, as on the coarsest level of a small crop, has no variance.
        own = own and x.numel() > x.shape[1]
        return F.batch_norm(x, mean, variance, self.weight, self.bias, own, MOMENTUM, self.eps)

    def _normalize_over_processes(self, x: Tensor, level: int, processes: int) -> Tensor:
        # torch's SyncBatchNorm does the same on GPUs only.
        values = x.float()
        moments = torch.stack([values.mean((0, 2, 3)), values.square().mean((0, 2, 3))])
        moments = _SumOverProcesses.apply(moments) / processes
        mean, variance = moments[0], (moments[1] - moments[0].square()).clamp_min(0)
        with torch.no_grad():
            count = processes * x.numel() // x.shape[1]
            self.running_mean[level].lerp_(mean, MOMENTUM)
            self.running_var[level].lerp_(variance * (count / (count - 1)), MOMENTUM)
        factor = self.weight * (variance + self.eps).rsqrt()
        normalized = values * factor[:, None, None] + (self.bias - mean * factor)[:, None, None]
        output: Tensor = normalized.to(x.dtype)
        return output


class _SumOverProcesses(torch.autograd.Function):
    """The sum of a tensor over all processes. Its gradient is the sum of those of all processes.

    The function of ``torch.distributed.nn`` for it is deprecated.
    """

    @staticmethod
    def forward(_context: Any, values: Tensor) -> Tensor:
        total = values.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(_context: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        distributed.all_reduce(total)
        return total
