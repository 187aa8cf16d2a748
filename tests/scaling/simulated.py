"""Runs simulated from a known law."""

import numpy as np

from pagnol_jax.scaling.laws import CHINCHILLA, evaluate, from_constants

# Hoffmann et al. 2022, approach 3, as printed.
HOFFMANN = from_constants(CHINCHILLA, E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)


def grid(sizes: int = 8, tokens: int = 6) -> dict[str, np.ndarray]:
    """Sizes from 40M to 4B, each at 5 to 160 tokens per parameter."""
    size, ratio = np.meshgrid(np.geomspace(4e7, 4e9, sizes), np.geomspace(5, 160, tokens))
    return {"N": size.ravel(), "D": (size * ratio).ravel()}


def losses(inputs: dict[str, np.ndarray], noise: float = 0.0, seed: int = 0) -> np.ndarray:
    """Losses of Hoffmann's law with noise of that standard deviation on log loss."""
    random = np.random.default_rng(seed)
    clean = evaluate(CHINCHILLA, HOFFMANN, **inputs)
    return clean * np.exp(noise * random.normal(size=clean.shape))
