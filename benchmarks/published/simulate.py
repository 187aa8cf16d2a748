"""Runs simulated from Hoffmann's law, for each approach the kind that it wants."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pagnol_jax.scaling.allocate import exponents, optimum
from pagnol_jax.scaling.laws import CHINCHILLA, evaluate, from_constants
from pagnol_jax.scaling.points import Points
from pagnol_jax.scaling.record import Array
from pagnol_jax.scaling.valleys import Valley

# Hoffmann et al. 2022 (arXiv 2203.15556), eq. 10.
HOFFMANN = from_constants(CHINCHILLA, E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)
NOISE = 0.003  # standard deviation of log loss from run to run
# Width and layers of the sizes of gin/ladders/matched_grid.gin, its vocabulary, and the sizes at each budget.
MATCHED = ((32, 2), (64, 2), (96, 3), (128, 3), (128, 5), (160, 6))
MATCHED_VOCABULARY = 2048
MATCHED_RUNGS = ((0, 1), (0, 1, 2), (0, 1, 2, 3, 4, 2, 2), (1, 2, 3, 4, 5), (2, 3, 4, 5))
# That far up, Hoffmann's optimum lies between the sizes of every budget.
SCALE, FIRST_BUDGET = 400, 3e17


def losses(inputs: Mapping[str, Array]) -> Array:
    """Of the law [P], without noise."""
    return evaluate(CHINCHILLA, HOFFMANN, **inputs)


def noisy_losses(inputs: Mapping[str, Array], seed: int) -> Array:
    """Each with noise of its own [P]."""
    return losses(inputs) * noise(len(inputs["N"]), seed)


def noise(count: int, seed: int) -> Array:
    """Factors [count]; a stream apart from those that fits draw from the same seed."""
    return np.exp(NOISE * np.random.default_rng([seed, 1]).normal(size=count))


def grid(sizes: int = 8, ratios: int = 6) -> dict[str, Array]:
    """48 runs: eight sizes from 40M to 4B, each at six ratios from 5 to 160 tokens per parameter."""
    size, ratio = np.meshgrid(np.geomspace(4e7, 4e9, sizes), np.geomspace(5, 160, ratios))
    return {"N": size.ravel(), "D": (size * ratio).ravel()}


def ladder() -> dict[str, Array]:
    """21 runs as those of gin/ladders/matched_grid.gin, larger: six sizes at five budgets, one run in three seeds."""
    sizes = SCALE * np.array([12 * layers * width**2 + MATCHED_VOCABULARY * width for width, layers in MATCHED])
    rungs = [(size, budget) for budget, own in enumerate(MATCHED_RUNGS) for size in own]
    size = np.array([sizes[s] for s, _ in rungs], np.float64)
    compute = FIRST_BUDGET * np.array([10 ** (budget / 2) for _, budget in rungs])
    return {"N": size, "D": compute / (6 * size)}


def scattered(count: int) -> dict[str, Array]:
    """Runs from 40M to 16B at 2 to 200 tokens per parameter, at random."""
    random = np.random.default_rng(0)
    size = np.exp(random.uniform(np.log(4e7), np.log(1.6e10), count))
    return {"N": size, "D": size * np.exp(random.uniform(np.log(2), np.log(200), count))}


def valleys() -> list[Valley]:
    """Six budgets from 1e18 to 1e20 FLOP, each of seven sizes a factor of two apart about the best."""
    found = []
    for compute in np.geomspace(1e18, 1e20, 6):
        best = np.log2(optimum(CHINCHILLA, HOFFMANN, compute).parameters)
        size = np.exp2(np.round(best) + np.arange(-3, 4), dtype=np.float64)
        found.append(Valley(float(compute), size, losses({"N": size, "D": compute / 6 / size})))
    return found


def curves() -> Points:
    """Seven sizes from 50M, a factor of three apart, each from 1/30 to 30 times the compute that it is best for."""
    sizes = np.array([5e7 * 3**k for k in range(7)])
    exponent, _ = exponents(CHINCHILLA, HOFFMANN)
    best = 6 * (sizes / optimum(CHINCHILLA, HOFFMANN, 6.0).parameters) ** (1 / exponent)
    size, run = np.repeat(sizes, 60), np.repeat(np.arange(7), 60)
    compute = np.repeat(best, 60) * np.tile(np.geomspace(1 / 30, 30, 60), 7)
    tokens = compute / 6 / size
    return Points(run, tokens, compute, losses({"N": size, "D": tokens}), size)
