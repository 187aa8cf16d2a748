"""Runs simulated from a known law."""

import numpy as np

from benchmarks.published import simulate
from benchmarks.published.simulate import HOFFMANN, grid

__all__ = ["HOFFMANN", "grid", "losses"]


def losses(inputs: dict[str, np.ndarray], noise: float = 0.0, seed: int = 0) -> np.ndarray:
    """Losses of Hoffmann's law with noise of that standard deviation on log loss."""
    clean = simulate.losses(inputs)
    return clean * np.exp(noise * np.random.default_rng(seed).normal(size=clean.shape))
