"""Strong changes of light and color: what other cameras, hours and weather do to the same scene.

``torchvision.transforms.v2`` has some of the parts, but its change of hue alone takes longer than reading an image. A
change of exposure, contrast, saturation, hue, white balance and haze is one matrix here, so all of them together take
less time than torchvision's ``ColorJitter``.
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torchvision import tv_tensors

# Ranges of the changes. A factor is drawn so that it and its inverse are equally likely.
MAX_GAMMA, MAX_EXPOSURE, MAX_CONTRAST, MAX_SATURATION = 1.5, 1.4, 1.3, 1.8
# Gains of red over blue (the color temperature of the light) and of green over both (the tint); turns of the hue.
MAX_TEMPERATURE, MAX_TINT, MAX_HUE = 1.3, 1.08, 0.04
# Mean luma, 0 to 255, that a change of the exposure does not leave, because cameras choose theirs by it.
LEVELS = (40.0, 150.0)
# Probabilities of what not every camera or hour has.
GRAY, HAZE, SHADOWS, BLUR, NOISE, JPEG = 0.05, 0.2, 0.5, 0.15, 0.15, 0.1
# Share of the light that haze adds, and its brightness, 0 to 255. Share of the light that a shadow takes.
HAZE_SHARE, HAZE_LIGHT, SHADOW_SHARE = (0.1, 0.5), (180.0, 235.0), (0.25, 0.65)
# Skylight fills shadows, so they lose less of blue than of red: factors of the share, for red, green and blue.
SHADOW_COLOR = (1.05, 1.0, 0.85)
# Standard deviations: of the blur in pixels, and of the noise in values of 0 to 255.
BLUR_SIGMA, NOISE_SIGMA = (0.4, 1.5), (2.0, 10.0)
JPEG_QUALITY = (25, 75)
# Pixels in a cell of the grid that shadows are painted on. They have soft edges, so a coarse grid is enough.
SHADOW_CELL = 4
# Luma of red, green and blue (ITU-R BT.601), as in torchvision's conversion to gray.
LUMA = torch.tensor([0.299, 0.587, 0.114])


class StrongPhotometric(nn.Module):
    """Random changes of light and color, of an image uint8 [3, h, w], RGB. Boxes and their labels stay as they are.

    Always: gamma, exposure, contrast, saturation, hue, and white balance. Sometimes: gray, haze, cast shadows with soft
    edges, blur, noise of the sensor, and artifacts of JPEG.

    Examples:
        >>> image = tv_tensors.Image(torch.full((3, 64, 96), 120, dtype=torch.uint8))
        >>> changed, _ = StrongPhotometric()(image, {})
        >>> changed.shape, changed.dtype, torch.equal(changed, image)
        (torch.Size([3, 64, 96]), torch.uint8, False)
    """

    def forward(self, image: Tensor, target: dict[str, Any]) -> tuple[Tensor, dict[str, Any]]:
        pixels = _with_gamma(image.as_subclass(Tensor), _factor(MAX_GAMMA))
        # NumPy's mean and sums written out, because torch's could depend on the number of threads.
        matrix, offset = random_color_matrix(torch.from_numpy(pixels.numpy().mean((1, 2))))
        red, green, blue = pixels
        pixels = torch.stack([red * row[0] + green * row[1] + blue * row[2] for row in matrix.tolist()])
        pixels += offset[:, None, None]
        if _happens(SHADOWS):
            pixels *= random_shadows(pixels.shape[1], pixels.shape[2])
        if _happens(BLUR):
            sigma = _between(*BLUR_SIGMA)
            pixels = torch.from_numpy(np.stack([cv2.GaussianBlur(plane, (0, 0), sigma) for plane in pixels.numpy()]))
        if _happens(NOISE):
            pixels += torch.randn(pixels.shape) * _between(*NOISE_SIGMA)
        changed = pixels.clamp_(0, 255).round_().to(torch.uint8)
        if _happens(JPEG):
            changed = _after_jpeg(changed, round(_between(*JPEG_QUALITY)))
        return tv_tensors.Image(changed), target


def random_color_matrix(mean: Tensor) -> tuple[Tensor, Tensor]:
    """Return a random change of color: matrix [3, 3] and offset [3], float32, so that new = matrix @ old + offset.

    Args:
        mean: mean of red, green and blue of the image, float32 [3], 0 to 255, which a change of contrast keeps.

    Examples:
        >>> matrix, offset = random_color_matrix(torch.full((3,), 100.0))
        >>> matrix.shape, offset.shape
        (torch.Size([3, 3]), torch.Size([3]))
    """
    gray = LUMA.expand(3, 3)
    saturation = 0.0 if _happens(GRAY) else _factor(MAX_SATURATION)
    matrix = gray + saturation * (hue_rotation(_between(-MAX_HUE, MAX_HUE)) - gray)
    temperature, tint = _factor(MAX_TEMPERATURE) ** 0.5, _factor(MAX_TINT)
    matrix = torch.tensor([temperature, tint, 1 / temperature])[:, None] * matrix
    least, most = (bound / max(1.0, float(LUMA @ matrix @ mean)) for bound in LEVELS)
    matrix = min(max(_factor(MAX_EXPOSURE), min(1.0, least)), max(1.0, most)) * matrix
    contrast, level = _factor(MAX_CONTRAST), LUMA @ matrix @ mean
    matrix, offset = contrast * matrix, ((1 - contrast) * level).expand(3)
    if _happens(HAZE):
        share = _between(*HAZE_SHARE)
        matrix, offset = (1 - share) * matrix, (1 - share) * offset + share * _between(*HAZE_LIGHT)
    return matrix, offset


def hue_rotation(turns: float) -> Tensor:
    """Return the matrix [3, 3] that turns the hue of RGB and keeps luma and gray: a rotation of the color differences.

    Examples:
        >>> torch.allclose(hue_rotation(0.25) @ torch.full((3,), 80.0), torch.full((3,), 80.0))
        True
        >>> torch.allclose(LUMA @ hue_rotation(0.25), LUMA)
        True
    """
    # Luma and the differences of blue and red from it, as in YUV.
    differences = torch.stack((LUMA, torch.tensor([0.0, 0, 1]) - LUMA, torch.tensor([1.0, 0, 0]) - LUMA))
    differences *= torch.tensor([1.0, 0.492, 0.877])[:, None]
    cos, sin = math.cos(2 * math.pi * turns), math.sin(2 * math.pi * turns)
    turn = torch.tensor([[1.0, 0, 0], [0, cos, -sin], [0, sin, cos]])
    rotation: Tensor = torch.linalg.inv(differences) @ turn @ differences
    return rotation


def random_shadows(height: int, width: int) -> Tensor:
    """Return the share of the light that random shadows leave, float32 [3, height, width], 0 to 1.

    One to three polygons are in the shade; or else all but them is, as on a glade. Their edges are soft.

    Examples:
        >>> light = random_shadows(64, 96)
        >>> light.shape, bool((light > 0).all() and (light <= 1).all())
        (torch.Size([3, 64, 96]), True)
    """
    rows, columns = -(-height // SHADOW_CELL), -(-width // SHADOW_CELL)
    mask = np.zeros((rows, columns), np.float32)
    extent = max(rows, columns)
    for _ in range(int(torch.randint(1, 4, ()))):
        corners = int(torch.randint(3, 7, ()))
        angles = torch.rand(corners).sort().values * (2 * math.pi)
        reach = (0.1 + 0.6 * torch.rand(corners)) * extent
        center = torch.rand(2) * torch.tensor([columns, rows])
        outline = center + reach[:, None] * torch.stack((angles.cos(), angles.sin()), 1)
        cv2.fillPoly(mask, [outline.round().int().numpy()], 1.0)
    if _happens(0.3):
        mask = 1 - mask
    mask = np.asarray(cv2.GaussianBlur(mask, (0, 0), _between(0.3, 0.04 * extent + 0.3)), np.float32)
    mask = np.asarray(cv2.resize(mask, (width, height)), np.float32)
    share = _between(*SHADOW_SHARE) * torch.tensor(SHADOW_COLOR)
    return 1 - share[:, None, None] * torch.from_numpy(mask)


def _with_gamma(image: Tensor, gamma: float) -> Tensor:
    """Return an image, uint8 [3, h, w], with a gamma, as float32, 0 to 255."""
    table = (255 * (np.arange(256) / 255) ** gamma).astype(np.float32)
    return torch.from_numpy(np.stack([cv2.LUT(plane, table) for plane in image.numpy()]))


def _after_jpeg(image: Tensor, quality: int) -> Tensor:
    """Return an image, uint8 [3, h, w], RGB, as a JPEG of a quality, 0 to 100, shows it."""
    # With OpenCV, because torchvision's own encoder will be removed.
    _, data = cv2.imencode(".jpg", image.flip(0).permute(1, 2, 0).numpy(), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return torch.from_numpy(cv2.imdecode(data, cv2.IMREAD_COLOR)).permute(2, 0, 1).flip(0)


def _between(low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(()))


def _factor(most: float) -> float:
    """Return a factor from 1 / most to most; its logarithm is uniform."""
    return math.exp(_between(-math.log(most), math.log(most)))


def _happens(probability: float) -> bool:
    return float(torch.rand(())) < probability
