"""The critical batch size: where more examples a step stop saving steps one for one. Float64 throughout.

To reach one loss takes at least S_min steps (at huge batches) and at least E_min tokens (at tiny ones), with
(S / S_min - 1) (E / E_min - 1) = 1 between (McCandlish et al. 2018, arXiv 1812.06162, eq. 2.11), which is the same as
S = S_min + E_min / B at batch B = E / S. The critical batch, B_crit = E_min / S_min, costs twice either minimum.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import least_squares
from scipy.special import expit

from pagnol_jax.errors import UserError
from pagnol_jax.scaling.estimate import PERCENTILES
from pagnol_jax.scaling.record import Array, RunRecord, check_comparable

KAPLAN_ALPHA_B = 0.21  # Kaplan et al. 2020 (arXiv 2001.08361), Table 5
UNSEEN = 0.02  # share of the steps, or tokens, that a minimum must have at some batch to be told


class CriticalBatch(NamedTuple):
    """A fit to pairs of steps and tokens [K] that reach one loss; `minima` are S_min (steps) and E_min (tokens).

    draws: minima [R, 2] of the bootstrap over pairs, empty with fewer than four; `draws_skipped` more had one batch.
    """

    steps: Array
    tokens: Array
    minima: Array
    draws: Array
    draws_skipped: int

    @property
    def batch_tokens(self) -> float:
        """B_crit in tokens (or in whatever E counts)."""
        return float(self.minima[1] / self.minima[0])

    @property
    def interval(self) -> Array | None:
        """95 % percentile interval of B_crit [2], None without draws."""
        return np.percentile(self.draws[:, 1] / self.draws[:, 0], PERCENTILES) if self.draws.size else None


def pairs_at_loss(runs: Sequence[RunRecord], loss_nats_per_token: float) -> tuple[Array, Array]:
    """Steps and tokens [K] at which comparable runs first reach a loss, interpolated in log tokens.

    The runs should differ in batch alone, each at its own best learning rate, and not be annealed before they reach
    the loss. Raises UserError where a run never reaches it, starts below it or does not state its batch or tokens.
    """
    check_comparable(runs)
    tokens = np.array([_tokens_at(run, loss_nats_per_token) for run in runs])
    batches = np.array([run.batch_tokens or np.nan for run in runs])
    if np.isnan(batches).any():
        raise UserError(f"run {runs[int(np.argmax(np.isnan(batches)))].name!r} does not state its batch_tokens")
    return tokens / batches, tokens


def _tokens_at(run: RunRecord, target: float) -> float:
    tokens, loss = run.known_tokens, run.curve.loss_nats_per_token
    if np.isnan(tokens).any():
        raise UserError(f"run {run.name!r} does not state its tokens")
    after = int(np.argmax(loss <= target))
    if after == 0 or loss[after] > target:
        reached = f"{loss[0]:g} to {loss.min():g}"
        raise UserError(f"run {run.name!r} goes from {reached}: it does not cross a loss of {target:g}")
    span = slice(after - 1, after + 1)
    return float(np.exp(np.interp(-target, -loss[span], np.log(tokens[span]))))


def fit_critical_batch(steps: ArrayLike, tokens: ArrayLike, draws: int = 500, seed: int = 0) -> CriticalBatch:
    """Least squares of the logs of S, or of E, which is the same: both are off by one factor at a given batch.

    Args:
      steps, tokens: S and E [K] that reach one loss, E in tokens or examples, at two batches or more.
      draws, seed: of the bootstrap over pairs.

    Raises:
      UserError: numbers that are not positive, one batch, or batches that show one of the minima only.
    """
    s, e = np.asarray(steps, np.float64), np.asarray(tokens, np.float64)
    bad = ~(np.isfinite([s, e]) & (np.array([s, e]) > 0))
    if bad.any():
        raise UserError(f"steps and tokens must be finite and positive, not {np.array([s, e])[bad][0]:g}")
    if not _several(e / s):
        raise UserError("a critical batch needs runs at two batch sizes or more")
    start = _start(s, e)
    minima = _fit(s, e, start)
    for least, unit, side, reached in zip(minima, ("steps", "tokens"), ("larger", "smaller"), (s, e), strict=True):
        if least < UNSEEN * reached.min():
            raise UserError(f"these batches do not show the least number of {unit}: add runs at {side} batches")
    picks = np.random.default_rng(seed).integers(s.size, size=(draws if s.size > 3 else 0, s.size))
    several = [rows for rows in picks if _several(e[rows] / s[rows])]
    refits = np.reshape([_fit(s[rows], e[rows], minima) for rows in several], (-1, 2))
    return CriticalBatch(s, e, minima, refits, len(picks) - len(refits))


def _several(batches: Array) -> bool:
    return bool(batches.size and np.ptp(np.log(batches)) > 1e-6)


def _start(s: Array, e: Array) -> Array:
    """The hyperbola is S_min / S + E_min / E = 1: linear in the minima, least squares clipped to be positive."""
    shares = np.stack([1 / s, 1 / e], -1) * [s.min(), e.min()]
    return np.clip(np.linalg.lstsq(shares, np.ones(s.size))[0], UNSEEN, 1) * [s.min(), e.min()]


def _fit(s: Array, e: Array, start: Array) -> Array:
    """Minima [2] of least squares of log S, fitted by their logs."""

    def residuals(logs: Array) -> Array:
        return np.logaddexp(logs[0], logs[1] - np.log(e / s)) - np.log(s)

    def jacobian(logs: Array) -> Array:
        share = expit(logs[0] - logs[1] + np.log(e / s))  # of S that is S_min
        return np.stack([share, 1 - share], -1)

    tight = 1e-14
    return np.exp(least_squares(residuals, np.log(start), jacobian, xtol=tight, ftol=tight, gtol=tight).x)


def critical_batch_at(loss_nats_per_token: ArrayLike, scale: float, alpha: float = KAPLAN_ALPHA_B) -> Array:
    """B_crit(L) = B* / L^(1 / alpha_B) (Kaplan et al. 2020, eq. 1.4) at losses [...], in the unit of `scale`, B*."""
    return scale / np.asarray(loss_nats_per_token, np.float64) ** (1 / alpha)


def least_compute(compute: ArrayLike, batch: ArrayLike, critical_batch: ArrayLike) -> Array:
    """C_min = C / (1 + B / B_crit) (Kaplan et al. 2020, eq. 5.5): what C at batch B would be at a tiny batch."""
    return np.asarray(compute, np.float64) / (1 + np.divide(batch, critical_batch))


def as_lines(fit: CriticalBatch) -> list[str]:
    """The fit told in lines of text."""
    between = "none: an interval needs at least four pairs"
    if fit.interval is not None:
        between = f"95 % [{fit.interval[0]:.4g}, {fit.interval[1]:.4g}] of {len(fit.draws):,} resamples of pairs"
    batches = fit.tokens / fit.steps
    predicted = fit.minima[0] + fit.minima[1] / batches
    lines = [
        f"pairs      {fit.steps.size} runs to one loss, batches of {batches.min():.4g} to {batches.max():.4g} tokens",
        f"S_min      {fit.minima[0]:.4g} steps",
        f"E_min      {fit.minima[1]:.4g} tokens",
        f"B_crit     {fit.batch_tokens:.4g} tokens   {between}",
        f"residual   {100 * np.sqrt(np.mean(np.log(predicted / fit.steps) ** 2)):.2f} % rms",
    ]
    if not batches.min() < fit.batch_tokens < batches.max():
        lines.append("note       no run on one side of B_crit: it is extrapolated")
    return lines
