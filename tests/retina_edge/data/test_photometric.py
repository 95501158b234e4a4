"""Strong changes of light and color keep what shows an object: its place, and its contrast to the ground."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F

from engines.core.errors import ContractError
from retina_edge.data import photometric
from retina_edge.data.augment_options import AugmentOptions
from retina_edge.data.photometric import LUMA, StrongPhotometric, hue_rotation, random_color_matrix, random_shadows

OCCASIONAL = ("GRAY", "HAZE", "SHADOWS", "BLUR", "NOISE", "JPEG")


@pytest.fixture
def image(frames: list[npt.NDArray[np.uint8]]) -> tv_tensors.Image:
    """A real frame, RGB uint8 [3, 200, 300]."""
    return tv_tensors.Image(torch.from_numpy(frames[0][:200, :300, ::-1].transpose(2, 0, 1).copy()))


def only(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Leave out all that happens occasionally, and make what is named happen always."""
    for name in OCCASIONAL:
        monkeypatch.setattr(photometric, name, 1.0 if name in names else 0.0)


def without_factors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out all that happens always."""
    for name in ("MAX_GAMMA", "MAX_EXPOSURE", "MAX_CONTRAST", "MAX_SATURATION", "MAX_TEMPERATURE", "MAX_TINT"):
        monkeypatch.setattr(photometric, name, 1.0)
    monkeypatch.setattr(photometric, "MAX_HUE", 0.0)


def test_without_changes_the_image_stays_as_it_is(image: tv_tensors.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch)
    without_factors(monkeypatch)
    changed, _ = StrongPhotometric()(image, {})
    assert torch.equal(changed, image)


@pytest.mark.parametrize("name", OCCASIONAL)
def test_each_occasional_change_changes_the_image(
    image: tv_tensors.Image, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    only(monkeypatch, name)
    without_factors(monkeypatch)
    torch.manual_seed(0)
    changed, _ = StrongPhotometric()(image, {})
    assert changed.shape == image.shape
    assert changed.dtype == torch.uint8
    before, after = image.float(), changed.float()
    assert (after - before).abs().mean() > 0.5
    if name == "GRAY":
        expected = F.rgb_to_grayscale(image, num_output_channels=3).float()
        assert (after - expected).abs().max() <= 1  # torchvision rounds down
    if name == "HAZE":
        assert after.std() < before.std()
        assert after.mean() > before.mean()
    if name == "SHADOWS":
        assert (after <= before).all()
        assert not torch.equal(after.amin(), after.amax())
    if name == "BLUR":  # less difference between neighbors, the same mean
        assert after.diff(dim=2).abs().mean() < 0.9 * before.diff(dim=2).abs().mean()
        assert after.mean() == pytest.approx(float(before.mean()), abs=0.5)
    if name == "JPEG":  # the same colors, apart from fine detail
        assert (after.mean((1, 2)) - before.mean((1, 2))).abs().max() < 2
    if name == "NOISE":
        assert (after - before).mean().abs() < 0.5
        assert 1 < (after - before).std() < 12


def test_a_hundred_changes_are_different_and_keep_the_picture_recognizable(
    image: tv_tensors.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Apart from shadows, the luma follows that of the image; nothing is black or white all over."""
    monkeypatch.setattr(photometric, "SHADOWS", 0.0)
    luma = F.rgb_to_grayscale(image).float().flatten()
    strong, correlations, means = StrongPhotometric(), [], []
    torch.manual_seed(0)
    for _ in range(100):
        changed, _ = strong(image, {})
        gray = F.rgb_to_grayscale(changed).float().flatten()
        correlations.append(float(torch.corrcoef(torch.stack((luma, gray)))[0, 1]))
        means.append(float(gray.mean()))
        assert gray.std() > 8
    assert min(correlations) > 0.5
    assert np.median(correlations) > 0.85
    assert 25 < min(means) < 0.7 * luma.mean()
    assert 1.3 * luma.mean() < max(means) < 235


def test_the_same_seed_changes_alike_with_any_number_of_threads(image: tv_tensors.Image) -> None:
    large = tv_tensors.Image(image.repeat(1, 3, 2))  # 360,000 pixels, enough for several threads
    threads, results = torch.get_num_threads(), []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            torch.manual_seed(3)
            results.append([StrongPhotometric()(large, {})[0] for _ in range(8)])
    finally:
        torch.set_num_threads(threads)
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("turns", [-0.04, 0.04, 0.2])
def test_a_turn_of_the_hue_agrees_with_opencv(turns: float) -> None:
    """In OpenCV's YUV, whose differences have the same factors, a turn of the hue turns (U, V)."""
    rgb = np.random.default_rng(0).uniform(0.2, 0.8, (50, 1, 3)).astype(np.float32)
    yuv = cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV)
    difference = (yuv[..., 1] - 0.5) + 1j * (yuv[..., 2] - 0.5)
    turned = difference * np.exp(2j * np.pi * turns)
    expected = cv2.cvtColor(
        np.stack((yuv[..., 0], turned.real + 0.5, turned.imag + 0.5), -1).astype(np.float32), cv2.COLOR_YUV2RGB
    )
    assert rgb[:, 0] @ hue_rotation(turns).numpy().T == pytest.approx(expected[:, 0], abs=2e-3)  # OpenCV's constants


def test_contrast_keeps_the_mean_luma(monkeypatch: pytest.MonkeyPatch) -> None:
    without_factors(monkeypatch)
    only(monkeypatch)
    monkeypatch.setattr(photometric, "MAX_CONTRAST", 2.0)
    mean = torch.tensor([90.0, 120.0, 60.0])
    torch.manual_seed(0)
    contrasts = []
    for _ in range(20):
        matrix, offset = random_color_matrix(mean)
        assert LUMA @ (matrix @ mean + offset) == pytest.approx(float(LUMA @ mean), rel=1e-5)
        contrasts.append(float(matrix[0, 0]))
    assert 0.5 < min(contrasts) < 0.7
    assert 1.5 < max(contrasts) < 2


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (100, (50, 150)),  # bounded by half and by the highest level
        (60, (40, 120)),  # by the lowest level and by double
        (200, (100, 200)),  # an image beyond the highest level is not made brighter
        (0, (0, 0)),
    ],
)
def test_the_exposure_keeps_the_mean_within_levels(
    monkeypatch: pytest.MonkeyPatch, level: float, expected: tuple[float, float]
) -> None:
    without_factors(monkeypatch)
    only(monkeypatch)
    monkeypatch.setattr(photometric, "MAX_EXPOSURE", 2.0)
    torch.manual_seed(0)
    mean = torch.full((3,), float(level))
    levels = [float((random_color_matrix(mean)[0] @ mean)[1]) for _ in range(300)]
    assert (min(levels), max(levels)) == pytest.approx(expected, rel=0.02)


def test_shadows_have_soft_edges_and_spare_blue() -> None:
    torch.manual_seed(0)
    dark, shares, steps = [], [], []
    for _ in range(60):
        light = random_shadows(96, 128)
        assert light.shape == (3, 96, 128)
        assert 1 - 1.06 * photometric.SHADOW_SHARE[1] < light.min() <= light.max() <= 1
        assert (light[2] >= light[0]).all()
        # Of its full depth, a shadow takes at most a quarter in one pixel, because a cell of the grid has four.
        if light.min() < 1:  # there may be no shade beside the glade
            steps.append(float(light.diff(dim=2).abs().max() / (1 - light.min())))
        dark.append(float((light[1] < 0.9).float().mean()))
        shares.append(float(light.min()))
    assert max(steps) <= 0.26
    assert np.median(steps) < 0.15  # and mostly less, because the mask is blurred
    assert min(dark) < 0.2
    assert max(dark) > 0.8
    assert max(shares) - min(shares) > 0.2


def test_the_level_is_checked_and_earlier_values_stand_for_levels() -> None:
    with pytest.raises(ContractError, match="photometric: expected one of none, usual, strong, got loud"):
        AugmentOptions(photometric="loud")
    earlier = {"photometric": True}, {"photometric": False}
    assert [AugmentOptions(**values).photometric for values in earlier] == ["usual", "none"]  # type: ignore[arg-type]
