"""Variable projection: least squares of a law that is linear in its amplitudes, searched over its exponents alone.

For given exponents the best amplitudes, none negative, are exact (Lawson and Hanson's NNLS), so a law with three
amplitudes and two exponents is a search in two dimensions; and a floor that the data do not want comes out as zero,
where a fit of its logarithm would run away.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import NamedTuple

import numpy as np
from scipy.optimize import least_squares, nnls

from pagnol_jax.errors import UserError
from pagnol_jax.scaling.laws import Law
from pagnol_jax.scaling.record import Array

GRID = np.geomspace(0.05, 1.5, 9)  # exponents from which the search sets out
FOLLOWED = 3  # of the grid's points, the best are
PRECISE = {"xtol": 1e-14, "ftol": 1e-14, "gtol": 1e-14}


class Projection(NamedTuple):
    """A least-squares fit of raw loss: parameters [K] as the law has them (log 0 is -inf), mean squared residual."""

    parameters: Array
    value: float


def project(law: Law, inputs: Mapping[str, Array], loss: Array, weights: Array | None = None) -> Projection:
    """Fits by variable projection. Raises UserError for a law that is not linear in its amplitudes."""
    columns = law.log_columns
    if columns is None:
        raise UserError(f"{law.formula} is not linear in its amplitudes: fit it without variable projection")
    weights = np.ones(loss.size) if weights is None else weights
    root = np.sqrt(weights / weights.mean())

    def solve(exponents: Array) -> tuple[Array, Array]:
        """Log amplitudes, and weighted residuals [P]; columns are scaled to 1 in the middle of the data."""
        logs = np.stack([np.broadcast_to(column, loss.shape) for column in columns(exponents, inputs)], axis=1)
        middle = logs.mean(0)
        matrix = np.exp(logs - middle) * root[:, None]
        amplitudes, _ = nnls(matrix, loss * root)
        with np.errstate(divide="ignore"):
            return np.log(amplitudes) - middle, matrix @ amplitudes - loss * root

    def residuals(log_exponents: Array) -> Array:
        return solve(np.exp(log_exponents))[1]

    count = sum(not name.startswith("log_") for name in law.parameters)
    grid = sorted((np.log(point) for point in product(GRID, repeat=count)), key=lambda x: np.linalg.norm(residuals(x)))
    ends = [least_squares(residuals, start, jac="3-point", **PRECISE) for start in grid[:FOLLOWED]]
    exponents = np.exp(min(ends, key=lambda end: end.cost).x)
    amplitudes, rest = solve(exponents)
    return Projection(np.concatenate([amplitudes, exponents]), float(rest @ rest) / loss.size)
