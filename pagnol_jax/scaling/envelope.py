"""Approach 1 of Chinchilla: the size of least loss along whole loss curves, and its power law N* = k C^a.

Hoffmann et al. 2022 (arXiv 2203.15556), section 3.1, with the lower convex hull in (log C, log L) as envelope. Every
size on the hull supports its tangents over a stretch of compute, whose middle in log C is taken as the budget for which
that size is best; sizes in geometric progression move all middles alike, which leaves the exponent. What bends the hull
is the floor of the law: the nearer the frontier is to a straight line, the more noise decides which sizes touch it.

A hull is the Legendre transform of its curves, run by run: that of a replica, in which every run is moved by an offset,
takes no more than the offsets added to the intercepts of the tangents.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pagnol_jax.errors import UserError
from pagnol_jax.scaling.frontier import lower_hull
from pagnol_jax.scaling.isoflop import SizeLaw, weighted_lines
from pagnol_jax.scaling.points import Points
from pagnol_jax.scaling.record import Array
from pagnol_jax.scaling.valleys import Noise

TANGENTS = 256  # slopes at which the hull is taken: stretches are told to a few hundredths of log C


class EnvelopeFit(NamedTuple):
    """Sizes [S], ascending, the compute for which each is best [S] (NaN where the curves do not tell), and the law."""

    parameters: Array
    compute_flops: Array
    law: SizeLaw


class _Tangents(NamedTuple):
    """Of each run, its size (an index) [M] and, at each slope, intercept and log C of its tangent [M, G].

    log C is NaN where the tangent rests on an end of the size's curves: there data end, not the stretch.
    """

    size: NDArray[np.intp]
    intercept: Array
    log_compute: Array


def fit_envelope(points: Points, noise: Noise, draws: int = 1000, seed: int = 0) -> EnvelopeFit:
    """N* = k C^a by the sizes on the lower hull, strictly between the first and the last.

    Args:
      points: whole loss curves, checkpoint by checkpoint, of at least three sizes.
      noise: between runs, at their last loss. All checkpoints of a run share it, since they share the seed. Where it
        exceeds the gain from one size to the next, the hull keeps the lucky runs only and a comes out too low.
      draws, seed: of the replicas.

    Raises:
      UserError: fewer than three sizes, loss that does not fall, or fewer than two sizes with a budget of their own.
    """
    sizes = np.unique(points.parameters)
    if not (np.isfinite(sizes) & (sizes > 0)).all() or sizes.size < 3:
        raise UserError(f"an envelope needs curves of three known sizes or more; these have {sizes.size}")
    tangents, stds = _tangents(points), _offset_stds(points, noise)
    offsets = stds * np.random.default_rng(seed).normal(size=(draws, stds.size))
    found = _best_compute(tangents, np.vstack([0 * stds, offsets]))  # [1 + R, S]
    told = int(np.isfinite(found[0]).sum())
    if told < 2:
        raise UserError(
            f"{told} of {sizes.size} sizes are best at a compute inside their own curves, between a smaller and a "
            "larger size, and an exponent needs two: add sizes, or train for longer"
        )
    line, *lines = weighted_lines(found.T, np.log(sizes)[:, None], np.ones(1))
    kept = [draw for draw in lines if np.isfinite(draw).all()]
    law = SizeLaw(line, np.reshape(kept, (-1, 2)), degrees_of_freedom=noise.degrees_of_freedom)
    return EnvelopeFit(sizes, np.exp(found[0]), law)


def _offset_stds(points: Points, noise: Noise) -> Array:
    """Std of log loss of each run [M], at its last checkpoint."""
    runs = [np.flatnonzero(points.run == run) for run in np.unique(points.run)]
    last = np.array([rows[points.compute_flops[rows].argmax()] for rows in runs])
    return noise.log_std(points.loss_nats_per_token[last])


def _tangents(points: Points) -> _Tangents:
    x, y = np.log(points.compute_flops), np.log(points.loss_nats_per_token)
    slopes = _slopes(x, y)
    sizes, size_of = np.unique(points.parameters, return_inverse=True)
    ends = [(x[size_of == size].min(), x[size_of == size].max()) for size in range(sizes.size)]
    rows = []
    for run in np.unique(points.run):
        own = np.flatnonzero(points.run == run)
        heights = y[own, None] - slopes * x[own, None]  # [P, G]
        at = x[own][heights.argmin(0)]
        size = size_of[own[0]]
        rows.append((size, heights.min(0), np.where(np.isin(at, ends[size]), np.nan, at)))
    size, intercept, log_compute = (np.array(column) for column in zip(*rows, strict=True))
    return _Tangents(size, intercept, log_compute)


def _slopes(x: Array, y: Array) -> Array:
    """Slopes from the steepest to the flattest falling edge of the hull [G], in geometric progression."""
    hull = lower_hull(x, y)
    edges = np.diff(y[hull]) / np.diff(x[hull])
    falling = edges[edges < 0]
    if falling.size < 2:
        raise UserError("the loss does not fall with compute along these curves: they have no envelope")
    return -np.geomspace(-falling[0], -falling[-1], TANGENTS)


def _best_compute(tangents: _Tangents, offsets: Array) -> Array:
    """log C in the middle of every size's stretch [R, S], log loss offset by run [R, M]; NaN where not to be told."""
    run = np.array([(tangents.intercept + offset[:, None]).argmin(0) for offset in offsets])  # [R, G] that support
    size, log_compute = tangents.size[run], tangents.log_compute[run, np.arange(run.shape[1])]
    first, last = size.min(1), size.max(1)
    best = []
    for between in range(tangents.size.max() + 1):
        held = size == between
        low = log_compute.min(1, where=held, initial=np.inf)
        high = log_compute.max(1, where=held, initial=-np.inf)
        with np.errstate(invalid="ignore"):  # a size off the hull: inf - inf is NaN
            best.append(np.where((first < between) & (between < last), (low + high) / 2, np.nan))
    return np.stack(best, 1)
