"""The efficient frontier of a set of points, and the line fitted under it. Float64 throughout."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pagnol_jax.scaling.record import Array, ComputeUnit

Indices = NDArray[np.intp]
LineFit = Callable[[Array, Array], Array]
ONE_BUDGET = 0.02  # computes of whole runs that differ by less, relatively, are one budget
FORMULA = "L = A * C^alpha"
SOURCE = "Launay et al. 2022 (arXiv 2110.08554), Figure 1; Kaplan et al. 2020, eq. 1.3"


def power_line(parameters: Array, compute_flops: Array) -> Array:
    """Loss in nats per token [...] of lines [..., 2] (log prefactor, exponent); leading axes broadcast."""
    log_prefactor, exponent = np.moveaxis(np.asarray(parameters, np.float64), -1, 0)
    return np.exp(log_prefactor + exponent * np.log(compute_flops))


def prefactor(parameters: Array, unit: ComputeUnit) -> Array:
    """Prefactor of a line in nats per token [...]: the loss at one `unit` of compute."""
    return power_line(parameters, np.asarray(unit.flops))


def pareto_set(x: Array, y: Array, slack: float = 0.0) -> Indices:
    """Indices, in order of x, of the points that no other matches in y with as little x or less.

    slack: x up to so much larger, relatively, counts as equal: runs of one budget differ by a rounded last step.
    """
    order = np.lexsort((y, x))
    lowest = np.concatenate([[np.inf], np.minimum.accumulate(y[order])])  # of the first points
    within = np.searchsorted(x[order], x[order] * (1 + slack), side="right")
    return order[(y[order] < lowest[:-1]) & (y[order] <= lowest[within])]


def efficient(compute: Array, loss: Array) -> Indices:
    """Indices, in order of compute, of the whole runs that no other beats with less; those of one budget are equals."""
    return pareto_set(compute, loss, ONE_BUDGET)


def efficient_line(compute: Array, loss: Array, line: LineFit | None = None) -> Array:
    """The plain power law [2], as `power_line` takes it, through the efficient of whole runs; NaN where that is one.

    line: of log compute and log loss, `least_squares` by default.
    """
    rows = efficient(compute, loss)
    if rows.size < 2:
        return np.full(2, np.nan)
    return (line or least_squares)(np.log(compute[rows]), np.log(loss[rows]))


def lower_hull(x: Array, y: Array) -> Indices:
    """Indices, in order of x, of the vertices of the lower convex hull (Andrew's monotone chain).

    A line lies under all the points exactly when it lies under these.
    """
    hull: list[int] = []
    for point in np.lexsort((y, x)):
        if hull and x[hull[-1]] == x[point]:  # the same abscissa, no lower
            continue
        while len(hull) > 1 and _not_convex(x, y, hull[-2], hull[-1], point):
            hull.pop()
        hull.append(int(point))
    return np.array(hull, np.intp)


def _not_convex(x: Array, y: Array, a: int, b: int, c: int) -> bool:
    return bool((y[b] - y[a]) * (x[c] - x[b]) >= (y[c] - y[b]) * (x[b] - x[a]))


def least_squares(x: Array, y: Array) -> Array:
    """Intercept and slope [2] of the least-squares line; x must not be constant."""
    centre = x.mean()
    slope = np.dot(x - centre, y - y.mean()) / np.dot(x - centre, x - centre)
    return np.array([y.mean() - slope * centre, slope])


def least_squares_under(x: Array, y: Array) -> Array:
    """Intercept and slope [2] of the least-squares line among the lines that pass above no point.

    PAGnol's Figure 1 fit, with x = log C and y = log L. The problem is convex in two unknowns. Unless the
    free optimum is feasible, the answer touches the lower hull: it passes through a hull vertex, with a slope
    between those of the two edges that meet there. On each such segment of the boundary the objective is a
    parabola in the slope, so the best slope is its minimum clipped to the segment; the best segment wins.
    Exact, one pass over the hull.
    """
    free = least_squares(x, y)
    hull = lower_hull(x, y)
    hx, hy = x[hull], y[hull]
    if np.all(free[0] + free[1] * hx <= hy):
        return free
    edges = np.diff(hy) / np.diff(hx)
    lowest, highest = np.append(-np.inf, edges), np.append(edges, np.inf)
    dx, dy = x - hx[:, None], y - hy[:, None]  # [H, K]
    slopes = np.clip((dx * dy).sum(1) / (dx * dx).sum(1), lowest, highest)
    errors = ((dy - slopes[:, None] * dx) ** 2).sum(1)
    best = int(np.argmin(errors))
    return np.array([hy[best] - slopes[best] * hx[best], slopes[best]])
