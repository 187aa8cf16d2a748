"""IsoFLOP valleys: runs of one budget, their least loss, and the noise that they tell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.interpolate import Akima1DInterpolator
from scipy.linalg import null_space

from pagnol_jax.errors import UserError
from pagnol_jax.scaling.frontier import ONE_BUDGET
from pagnol_jax.scaling.points import Points
from pagnol_jax.scaling.record import Array

LEAST_SIZES = 4  # of a valley: a parabola and one degree of freedom
GRID = 25  # points that Porian et al. take between two sizes


class Valley(NamedTuple):
    """One compute budget: sizes [n], ascending, and the loss of each [n], a mean where seeds repeat a size."""

    compute_flops: float
    parameters: Array
    loss_nats_per_token: Array


class Minima(NamedTuple):
    """Minima of R curves: log N* and log loss [R], NaN where the minimum is not inside the sizes."""

    log_parameters: Array
    log_loss: Array


class Noise(NamedTuple):
    """Run-to-run noise: from losses [n] to the std of log loss [n], and on how many degrees of freedom it is known."""

    log_std: Callable[[Array], Array]
    degrees_of_freedom: float = np.inf


Minimum = Callable[[Array, Array], Minima]  # of log N [n] and log loss [n, R]


def group_valleys(points: Points) -> tuple[Valley, ...]:
    """Points by budget (equal to 2 %), in order of compute; budgets of fewer than four sizes are left out.

    Raises:
      UserError: values that are not finite and positive, no budget with enough sizes, or one with equal losses.
    """
    size, compute, loss = points.parameters, points.compute_flops, points.loss_nats_per_token
    for what, values in (("size", size), ("compute", compute), ("loss", loss)):
        if not (np.isfinite(values) & (values > 0)).all():
            raise UserError(f"IsoFLOP valleys need the {what} of every run, finite and positive")
    budgets = [_valley(size[rows], compute[rows], loss[rows]) for rows in _equal_budgets(compute)]
    valleys = tuple(valley for valley in budgets if valley.parameters.size >= LEAST_SIZES)
    if not valleys:
        most = max((valley.parameters.size for valley in budgets), default=0)
        raise UserError(f"no compute budget has runs of {LEAST_SIZES} sizes; the fullest has {most}")
    for valley in valleys:
        if np.ptp(valley.loss_nats_per_token) == 0:
            raise UserError(f"all sizes have one loss at {valley.compute_flops:.3g} FLOP: there is no valley")
    return valleys


def _equal_budgets(compute: Array) -> list[Array]:
    """Rows of each budget; a budget holds what is within the tolerance of its least compute."""
    groups: list[list[int]] = []
    for row in np.argsort(compute, kind="stable"):
        if groups and compute[row] <= compute[groups[-1][0]] * (1 + ONE_BUDGET):
            groups[-1].append(row)
        else:
            groups.append([row])
    return [np.array(group) for group in groups]


def _valley(size: Array, compute: Array, loss: Array) -> Valley:
    sizes, index = np.unique(size, return_inverse=True)
    mean = np.bincount(index, loss) / np.bincount(index)
    return Valley(float(np.exp(np.log(compute).mean())), sizes, mean)


def akima(log_size: Array, log_loss: Array) -> Minima:
    """Minima of Akima splines on 25 (n - 1) points (Porian et al. 2024); NaN where an end is the lowest."""
    grid = np.linspace(log_size[0], log_size[-1], GRID * (log_size.size - 1))
    values = Akima1DInterpolator(log_size, log_loss)(grid)  # [G, R]
    lowest = values.argmin(0)
    inside = (lowest > 0) & (lowest < grid.size - 1)
    return Minima(np.where(inside, grid[lowest], np.nan), np.where(inside, values.min(0), np.nan))


def parabola(log_size: Array, log_loss: Array) -> Minima:
    """Vertices of least-squares parabolas (Hoffmann et al. 2022, section 3.2); NaN where concave or at an end.

    Far less sensitive to noise than `akima`, but biased where valleys are wide and not symmetric: see `parabola_shift`.
    """
    centre = log_size.mean()
    (curvature, slope, constant), *_ = np.linalg.lstsq(np.vander(log_size - centre, 3), log_loss)
    with np.errstate(divide="ignore", invalid="ignore"):
        vertex = centre - slope / (2 * curvature)
        inside = (curvature > 0) & (vertex > log_size[0]) & (vertex < log_size[-1])
        lowest = constant - slope**2 / (4 * curvature)
    return Minima(np.where(inside, vertex, np.nan), np.where(inside, lowest, np.nan))


def constant_noise(std: float) -> Noise:
    """The same std of log loss at every loss."""
    return Noise(lambda loss: np.full_like(loss, std))


def absolute_noise(nats: float) -> Noise:
    """The same std of the loss, in nats per token, at every loss.

    Porian et al. 2024 publish what 0.002 nats (RefinedWeb) and 0.01 nats (OpenWebText2) give. Their code would let the
    noise grow with the loss, but compares log loss with a bound on the loss, so that the growth never sets in.
    """
    return Noise(lambda loss: nats / loss)


def residual_noise(valleys: Sequence[Valley]) -> Noise:
    """Noise told from the valleys alone, without seeds: how far every four neighbours are from a parabola in log N.

    Neighbours overlap, so the degrees of freedom of the mean square are Satterthwaite's.
    """
    squares, overlap, count = 0.0, 0.0, 0
    for valley in valleys:
        contrasts = _contrasts(np.log(valley.parameters))  # [n - 3, n]
        squares += float(((contrasts @ np.log(valley.loss_nats_per_token)) ** 2).sum())
        overlap += float(((contrasts @ contrasts.T) ** 2).sum())
        count += len(contrasts)
    return constant_noise((squares / count) ** 0.5)._replace(degrees_of_freedom=count**2 / overlap)


def _contrasts(x: Array) -> Array:
    """Rows of norm 1 [n - 3, n] over every four neighbours of x [n] that vanish on parabolas."""
    rows = np.zeros((x.size - 3, x.size))
    for start, row in enumerate(rows):
        window = slice(start, start + 4)
        row[window] = null_space(np.vander(x[window] - x[window].mean(), 3).T)[:, 0]
    return rows
