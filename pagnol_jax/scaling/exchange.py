"""Choosing the observations that tell given quantities best under a budget, by exchanges."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pagnol_jax.scaling.record import Array

Rows = NDArray[np.intp]


def exchange(jacobian: Array, gradients: Array, cost: Array, count: int, starts: int, seed: int) -> Rows:
    """Rows of the candidates whose least-squares fit has the least product of the quantities' variances.

    From random choices that are affordable, one observation is exchanged for a better candidate, the best exchange
    first, until none helps. Which are best does not depend on the noise, as long as all have the same.

    Args:
      jacobian: of the candidates [m, K].
      gradients: of the quantities [g, K], in the same parameters.
      cost: of the candidates [m], at most 1 in all; the `count` cheapest must be affordable.
      count: how many to choose, all different.
      starts, seed: of the random choices.
    """
    # In coordinates in which the candidates' Jacobian is orthogonal, nothing is ill-conditioned.
    rows, triangle = np.linalg.qr(jacobian)
    wanted = np.linalg.solve(triangle.T, gradients.T).T
    random = np.random.default_rng(seed)
    found = [_improve(rows, wanted, cost, _affordable(cost, count, random)) for _ in range(starts)]
    return min(found, key=lambda chosen: _log_variances(rows, wanted, chosen))


def _affordable(cost: Array, count: int, random: np.random.Generator) -> Rows:
    """Different candidates at random: each of the cheapest gives way to one that the rest leaves room for."""
    chosen = np.argsort(cost)[:count]
    for place in range(count):
        others = np.delete(chosen, place)
        free = np.setdiff1d(np.flatnonzero(cost <= 1 - cost[others].sum()), others)
        chosen[place] = random.choice(free)
    return chosen


def _log_variances(rows: Array, gradients: Array, chosen: Rows) -> float:
    """Sum over gradients of the log of their variance."""
    inverse = _inverse_information(rows[chosen])
    return float(np.log(np.einsum("gi,ij,gj->g", gradients, inverse, gradients)).sum())


def _inverse_information(rows: Array) -> Array:
    # The ridge, far below what any observation tells, keeps starts that do not determine the law comparable.
    return np.asarray(np.linalg.inv(rows.T @ rows + 1e-12 * np.eye(rows.shape[1])), np.float64)


def _improve(rows: Array, gradients: Array, cost: Array, chosen: Rows) -> Rows:
    """Exchanges an observation for a candidate as long as that helps and is affordable, the best exchange first."""
    value = _log_variances(rows, gradients, chosen)
    while True:
        trials = [_best_entry(rows, gradients, cost, chosen, leaving) for leaving in range(chosen.size)]
        best, entering, leaving = min((trial, entry, leaving) for leaving, (trial, entry) in enumerate(trials))
        if best > value - 1e-9:
            return chosen
        chosen = chosen.copy()
        chosen[leaving], value = entering, best


def _best_entry(rows: Array, gradients: Array, cost: Array, chosen: Rows, leaving: int) -> tuple[float, int]:
    """The best candidate in place of another, and the log variances with it (by Sherman and Morrison's formula)."""
    stay = np.delete(chosen, leaving)
    inverse = _inverse_information(rows[stay])
    explained = (gradients @ inverse @ rows.T) ** 2 / (1 + np.einsum("mi,ij,mj->m", rows, inverse, rows))  # [g, m]
    variance = np.einsum("gi,ij,gj->g", gradients, inverse, gradients)[:, None] - explained
    values = np.log(np.maximum(variance, 1e-300)).sum(0)
    values[stay] = np.inf
    values[cost > 1 - cost[stay].sum() + 1e-12] = np.inf
    entry = int(np.argmin(values))
    return float(values[entry]), entry
