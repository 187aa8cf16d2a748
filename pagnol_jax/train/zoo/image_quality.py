"""How near a picture is to the truth: PSNR, and SSIM (Wang, Bovik, Sheikh and Simoncelli 2004)."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from scipy.ndimage import correlate1d

WINDOW, SIGMA = 11, 1.5  # the Gaussian window of section III.C
C1, C2 = 0.01**2, 0.03**2  # for values in [0, 1]


def psnr(error: Any) -> Any:
    """Peak signal-to-noise ratio, in dB, of a mean squared error of values in [0, 1]."""
    return -10 * jnp.log10(error)


def ssim(image: np.ndarray, truth: np.ndarray) -> float:
    """Mean structural similarity of pictures [H, W, C] in [0, 1], a mean over channels and whole windows too."""
    x, y = image.astype(np.float64), truth.astype(np.float64)
    mean_x, mean_y = _local_mean(x), _local_mean(y)
    var_x, var_y = _local_mean(x * x) - mean_x**2, _local_mean(y * y) - mean_y**2
    cov = _local_mean(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
    structure = (2 * cov + C2) / (var_x + var_y + C2)
    return float((luminance * structure).mean())


def _local_mean(x: np.ndarray) -> np.ndarray:
    """[H, W, C] -> [H - 10, W - 10, C], weighted by the window."""
    half = WINDOW // 2
    weights = np.exp(-0.5 * (np.arange(-half, half + 1) / SIGMA) ** 2)
    weights /= weights.sum()
    for axis in (0, 1):
        x = correlate1d(x, weights, axis=axis, mode="constant")
    return x[half:-half, half:-half]
