"""PSNR and SSIM against their definitions, window by window."""

import numpy as np
import pytest

from pagnol_jax.train.zoo.image_quality import psnr, ssim


def defined_ssim(x: np.ndarray, y: np.ndarray) -> float:
    """Equations 13 to 16 of Wang et al. 2004, each 11 x 11 window by itself, with K1 = 0.01, K2 = 0.03 and L = 1."""
    offsets = np.arange(11) - 5
    weights = np.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    weights /= weights.sum()
    found = []
    for channel in range(x.shape[2]):
        for row in range(x.shape[0] - 10):
            for column in range(x.shape[1] - 10):
                a, b = (image[row : row + 11, column : column + 11, channel] for image in (x, y))
                mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
                var_a, var_b = (weights * (a - mean_a) ** 2).sum(), (weights * (b - mean_b) ** 2).sum()
                cov = (weights * (a - mean_a) * (b - mean_b)).sum()
                top = (2 * mean_a * mean_b + 0.01**2) * (2 * cov + 0.03**2)
                found.append(top / ((mean_a**2 + mean_b**2 + 0.01**2) * (var_a + var_b + 0.03**2)))
    return float(np.mean(found))


@pytest.mark.parametrize("noise", [0.0, 0.02, 0.3])
def test_ssim_is_its_definition(noise: float) -> None:
    rng = np.random.default_rng(0)
    x = np.clip(np.linspace(0, 1, 20)[:, None, None] * np.linspace(0.2, 1, 17)[None, :, None] * [1, 0.5, 0.8], 0, 1)
    y = np.clip(x + noise * rng.normal(size=x.shape), 0, 1)
    assert ssim(x, y) == pytest.approx(defined_ssim(x, y), abs=1e-10)
    assert ssim(x, x) == pytest.approx(1.0)


def test_psnr_of_a_tenth_is_twenty_decibels() -> None:
    assert float(psnr(0.1**2)) == pytest.approx(20.0)
