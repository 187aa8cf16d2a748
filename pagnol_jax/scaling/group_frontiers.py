"""The efficient frontiers of one group of runs, by power laws and by Chinchilla's law, each with a bootstrap over runs.

All are of the form L = E + K C^-gamma, so that groups compare by them alike. Losses are nats per token; another unit
multiplies a group's frontiers by a number, which leaves exponents alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from pagnol_jax.errors import UserError
from pagnol_jax.scaling.estimate import Estimate, estimate
from pagnol_jax.scaling.fit import check_fittable
from pagnol_jax.scaling.frontier import (
    Indices,
    LineFit,
    efficient,
    efficient_line,
    least_squares,
    least_squares_under,
    power_line,
)
from pagnol_jax.scaling.laws import CHINCHILLA, log_scale
from pagnol_jax.scaling.objectives import Objective, huber
from pagnol_jax.scaling.objectives import least_squares as squares
from pagnol_jax.scaling.parametric import LawFit, fit_law
from pagnol_jax.scaling.points import Points, final_points
from pagnol_jax.scaling.record import Array, RunRecord, bits_per_byte, check_comparable

BITS, NATS = "bits per byte", "nats per token"
POWER, PAGNOL = "power law", "PAGnol's line"
LINES: dict[str, LineFit] = {POWER: least_squares, PAGNOL: least_squares_under}
OBJECTIVES: tuple[Objective, ...] = (squares(), huber())
LEAST_RUNS, LEAST_LEVELS, LEAST_SPREAD = 6, 3, 0.2  # for Chinchilla's law; the last is of log D around a line in log N
HELD_OUT = 0.1  # share of efficient runs, those of most compute, that a hold-out leaves out
SAME = 0.005  # what differs by less, relatively, is one N, one D or one budget


class Group(NamedTuple):
    """Finished runs of one kind, their last checkpoints [P], and the names of unfinished ones that were left out."""

    name: str
    runs: tuple[RunRecord, ...]
    points: Points
    left_out: tuple[str, ...]

    @property
    def efficient(self) -> Indices:
        """Rows of the runs that no other beats with less compute, in order of compute."""
        return efficient(self.points.compute_flops, self.points.loss_nats_per_token)

    def factor(self, unit: str) -> float:
        """By which a loss in nats per token is multiplied to be in `unit`; NaN for bits of bytes that nobody states."""
        return 1.0 if unit == NATS else bits_per_byte(1.0, self.runs[0].bytes_per_token or math.nan)


class Frontier(NamedTuple):
    """Least loss at compute C, L = E + K C^-gamma: (E, log K, gamma) [3] in nats per token and FLOP, draws [R, 3].

    Draws are NaN where a resample did not determine the law. held_out_percent: relative error for the best of the runs
    of most compute, by the law fitted without these; NaN where that cannot be done. fit: of N and D, of Chinchilla's.
    """

    law: str
    parameters: Array
    draws: Array
    held_out_percent: float
    fit: LawFit | None = None

    @property
    def exponent(self) -> Estimate:
        """Of compute (above the floor), negative where loss falls."""
        return estimate(-self.parameters[2], -self.draws[:, 2])

    def scaled(self, factor: float) -> Frontier:
        """The same in a unit of loss of which a nat per token is `factor`."""
        times, plus = np.array([factor, 1, 1]), np.array([0, math.log(factor), 0])
        return self._replace(parameters=self.parameters * times + plus, draws=self.draws * times + plus)


def least_loss(parameters: Array, compute_flops: Array | float) -> Array:
    """Loss of frontiers [..., 3] at compute [...]."""
    floor, log_k, gamma = np.moveaxis(parameters, -1, 0)
    return floor + np.exp(log_k - gamma * np.log(compute_flops))


def log_least_compute(parameters: Array, loss: float) -> Array:
    """log of the compute [...] at which frontiers [..., 3] reach a loss; infinite at or below the floor."""
    floor, log_k, gamma = np.moveaxis(parameters, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        log_compute = (log_k - np.log(np.maximum(loss - floor, 0))) / gamma
    return np.where(gamma > 0, log_compute, np.nan)


def chinchilla_frontier(parameters: Array) -> Array:
    """Frontiers [..., 3] of Chinchilla's laws [..., 5], C = 6 N D (Hoffmann et al. 2022, eq. 4); NaN where none."""
    log_a, log_b, log_e, alpha, beta = np.moveaxis(parameters, -1, 0)
    alpha, beta = (np.where(exponent > 0, exponent, np.nan) for exponent in (alpha, beta))
    gamma = alpha * beta / (alpha + beta)
    log_g = log_scale(log_a, log_b, alpha, beta)
    with np.errstate(invalid="ignore"):  # NaN where a loss does not fall
        log_k = np.logaddexp(log_a - alpha * log_g, log_b + beta * log_g) + gamma * np.log(6)
    return np.stack([np.exp(log_e) + 0 * gamma, log_k, gamma], -1)


def make_group(name: str, runs: Sequence[RunRecord]) -> Group:
    """Comparable runs as a group, less those known to be unfinished.

    Raises UserError where fewer than two are left or their bytes per token differ.
    """
    finished = tuple(run for run in runs if run.annealed is not False)
    left_out = tuple(run.name for run in runs if run.annealed is False)
    if len(finished) < 2:
        raise UserError(f"{name}: a comparison takes two finished runs or more of each group, not {len(finished)}")
    stated = [run.bytes_per_token for run in finished if run.bytes_per_token]
    if stated and max(stated) > min(stated) * (1 + 1e-6):
        between = f"{min(stated):.5g} to {max(stated):.5g}"
        raise UserError(f"{name}: bytes per token differ between runs ({between}): choose one text with --corpus")
    return Group(name, finished, final_points(finished), left_out)


def fit_group(group: Group, draws: int, seed: int) -> tuple[Frontier, ...]:
    """Lines through the efficient points and, where N and D determine them, the frontiers of Chinchilla's law.

    Raises UserError, which names the group, where there is no frontier.
    """
    try:
        if group.efficient.size < 2:
            best = group.runs[group.points.run[group.efficient[0]]].name
            raise UserError(f"no run of more compute has a lower loss than {best!r}: there is no frontier")
        check_comparable(group.runs)
        check_fittable(group.runs, group.points.take(group.efficient))
        lines = [_line(law, group.points, draws, seed) for law in LINES]
        objectives = () if undetermined(group.points) else OBJECTIVES
        return (*lines, *(_chinchilla(objective, group.points, draws, seed) for objective in objectives))
    except UserError as error:
        raise UserError(f"{group.name}: {error}") from None


def undetermined(points: Points) -> str:
    """Why points do not determine Chinchilla's law; "" where they do."""
    sizes, tokens = points.parameters, points.tokens
    if not np.isfinite(sizes + tokens).all():
        return "N or D is not stated"
    if sizes.size < LEAST_RUNS:
        return f"it takes {LEAST_RUNS} runs, these are {sizes.size}"
    for what, values in (("N", sizes), ("D", tokens)):
        levels = 1 + int((np.diff(np.sort(np.log(values))) > SAME).sum())
        if levels < LEAST_LEVELS:
            return f"it takes {LEAST_LEVELS} values of {what}, these are {levels}"
    line = least_squares(np.log(sizes), np.log(tokens))
    if np.std(np.log(tokens) - line[0] - line[1] * np.log(sizes)) < LEAST_SPREAD:
        return "D follows from N, so their parts in the loss cannot be told"
    return ""


def _line(law: str, points: Points, draws: int, seed: int) -> Frontier:
    """A power law through the efficient points, which are chosen once, before runs are resampled."""

    def predict(rest: Points, run: Points) -> float:
        line = efficient_line(rest.compute_flops, rest.loss_nats_per_token, LINES[law])
        return float(power_line(line, run.compute_flops)[0])

    rows = efficient(points.compute_flops, points.loss_nats_per_token)
    x, y = np.log(points.compute_flops[rows]), np.log(points.loss_nats_per_token[rows])
    line, refits = LINES[law](x, y), _refits(LINES[law], x, y, draws if x.size > 2 else 0, seed)
    # Resampled residuals lack the two degrees of freedom that the line took; n / (n - 2) of their variance makes up
    # for it. Without, intervals of a comparison of six runs with six cover 91 %; with it, 95 %.
    refits = line + math.sqrt(x.size / max(x.size - 2, 1)) * (refits - line)
    return Frontier(law, _without_floor(line), _without_floor(refits), _held_out(points, predict))


def _refits(solve: LineFit, x: Array, y: Array, draws: int, seed: int) -> Array:
    """Lines [R, 2] through points [K] drawn with replacement; NaN where a draw holds one compute only."""
    refits = np.full((draws, 2), np.nan)
    for row, picked in enumerate(np.random.default_rng(seed).integers(x.size, size=(draws, x.size))):
        if np.ptp(x[picked]) > 1e-6:
            refits[row] = solve(x[picked], y[picked])
    return refits


def _without_floor(lines: Array) -> Array:
    """Frontiers [..., 3] of the lines [..., 2] of `frontier.power_line`."""
    return np.stack([0 * lines[..., 0], lines[..., 0], -lines[..., 1]], -1)


def _chinchilla(objective: Objective, points: Points, draws: int, seed: int) -> Frontier:
    def fitted(some: Points, draws: int) -> LawFit:
        inputs = {"N": some.parameters, "D": some.tokens}
        return fit_law(CHINCHILLA, inputs, some.loss_nats_per_token, objective=objective, draws=draws, seed=seed)

    def predict(rest: Points, run: Points) -> float:
        if undetermined(rest):
            return math.nan
        return float(fitted(rest, 0).predict(N=run.parameters, D=run.tokens)[0])

    fit = fitted(points, draws)
    frontiers = chinchilla_frontier(fit.parameters), chinchilla_frontier(fit.draws)
    return Frontier(f"Chinchilla ({objective.name})", *frontiers, _held_out(points, predict), fit)


def split(points: Points) -> tuple[Indices, int]:
    """Rows with as much compute as the last tenth of the efficient points or more; the best of them."""
    best = efficient(points.compute_flops, points.loss_nats_per_token)
    least = points.compute_flops[best[-math.ceil(HELD_OUT * best.size)]]
    return np.flatnonzero(points.compute_flops >= least * (1 - SAME)), int(best[-1])


def _held_out(points: Points, predict: Callable[[Points, Points], float]) -> float:
    """Relative error in per cent of what `predict` says, given the other points, of the best one held out."""
    rows, best = split(points)
    rest, run = points.take(np.setdiff1d(np.arange(points.run.size), rows)), points.take(np.array([best]))
    return 100 * (predict(rest, run) / float(run.loss_nats_per_token[0]) - 1) if rest.run.size else math.nan
