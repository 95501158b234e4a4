"""The quality focal loss: scores learn how well their boxes fit.

Li et al., arXiv 2006.04388, section 3.2.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def quality_focal_loss(logits: Tensor, quality: Tensor) -> Tensor:
    """Return the sum of the losses, a scalar: the cross entropy, times the squared distance of score and quality.

    The exponent 2 is the paper's beta. Unlike the focal loss, it has no factor alpha.

    Args:
        logits: class logits, float32 [N, C].
        quality: for the class of the anchor's object the IoU of the predicted box and the object, for all others 0;
            float32 [N, C], without gradient.

    Examples:
        The cross entropy is log(2), and the distance of the score 0.5 to the quality 1 is 0.5.

        >>> import torch
        >>> quality_focal_loss(torch.zeros(1, 1), torch.ones(1, 1))  # 0.6931 / 4
        tensor(0.1733)
    """
    cross_entropy = F.binary_cross_entropy_with_logits(logits, quality, reduction="none")
    return (cross_entropy * (logits.sigmoid() - quality).square()).sum()
