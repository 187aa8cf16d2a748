"""Approach 2 of Chinchilla: the size of least loss at each compute budget, and its power law N* = k C^a.

Hoffmann et al. 2022 (arXiv 2203.15556), section 3.2, with the estimator of Porian et al. 2024 (arXiv 2406.19146):
the weighted line goes through the medians of noised minima, which scatter less than the minima themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from pagnol_jax.errors import UserError
from pagnol_jax.scaling.frontier import least_squares
from pagnol_jax.scaling.record import Array
from pagnol_jax.scaling.valleys import Minimum, Noise, Valley, akima, parabola, residual_noise

Flags = NDArray[np.bool_]
SPACING_FLOOR = 0.33  # the std of log N* is no less than this share of the mean spacing of log N (Porian et al.)
LEAST_INTERIOR = 0.5  # share of replicas with a minimum inside the sizes, below which a valley is left out (Porian)
FEW_SIZES, FEW_DECADES, MATERIAL_SHIFT = 6, 2, 0.05  # below or above which a reader is told


class SizeLaw(NamedTuple):
    """N* = k C^a: `line` and `draws` hold (log k, a), [2] and [R, 2] from noise replicas; C in FLOP, D* = C / (6 N*).

    Intervals are 95 %, `line` -+ Student's t times the std of the draws. Percentiles of the draws are no substitute:
    a replica adds noise to a minimum that noise has already moved, so its percentiles cover up to 98.5 %, not 95 %.
    """

    line: Array
    draws: Array
    degrees_of_freedom: float

    @property
    def exponent(self) -> float:
        """The exponent a of N*."""
        return float(self.line[1])

    @property
    def coefficient(self) -> float:
        """The coefficient k of N*, in parameters per FLOP^a."""
        return float(np.exp(self.line[0]))

    @property
    def exponent_se(self) -> float:
        """Standard error of a."""
        return float(self.draws[:, 1].std())

    @property
    def exponent_interval(self) -> Array:
        """Interval of a [2]."""
        return self._interval(np.array([0.0, 1.0]))

    @property
    def coefficient_interval(self) -> Array:
        """Interval of k [2]."""
        return np.exp(self._interval(np.array([1.0, 0.0])))

    @property
    def tokens_exponent(self) -> float:
        """The exponent of D*, 1 - a."""
        return 1 - self.exponent

    @property
    def tokens_exponent_interval(self) -> Array:
        """Interval of the exponent of D* [2]."""
        return 1 - self.exponent_interval[::-1]

    def sizes(self, compute_flops: Array) -> Array:
        """N* [P] at compute [P]."""
        return self.coefficient * compute_flops**self.exponent

    def band(self, compute_flops: Array) -> Array:
        """95 % band of N* [2, P] at compute [P]."""
        columns = np.stack([np.ones_like(compute_flops), np.log(compute_flops)])  # [2, P]
        reach = student.ppf(0.975, self.degrees_of_freedom) * (self.draws @ columns).std(0)
        return np.exp(self.line @ columns + np.array([[-1.0], [1.0]]) * reach)

    def _interval(self, weights: Array) -> Array:
        reach = student.ppf(0.975, self.degrees_of_freedom) * (self.draws @ weights).std()
        return self.line @ weights + reach * np.array([-1.0, 1.0])


class IsoflopFit(NamedTuple):
    """Minima of V valleys and the law through those that can be trusted.

    `parameters` [V] and `loss_nats_per_token` [V] are the minima, NaN at a border; `parameters_median` [V] and
    `log_std` [V], of log N*, come from the replicas of which `interior_share` [V] had a minimum. `trusted` [V] valleys
    carry `law` (through medians, weighted by 1 / log_std^2) and `line_unweighted` [2] (log k, a) (through minima).
    """

    valleys: tuple[Valley, ...]
    parameters: Array
    loss_nats_per_token: Array
    parameters_median: Array
    log_std: Array
    interior_share: Array
    law: SizeLaw
    line_unweighted: Array

    @property
    def compute_flops(self) -> Array:
        """Budgets [V]."""
        return np.array([valley.compute_flops for valley in self.valleys])

    @property
    def tokens(self) -> Array:
        """D* = C / (6 N*) [V], NaN where N* is."""
        return self.compute_flops / (6 * self.parameters)

    @property
    def trusted(self) -> Flags:
        """Valleys whose minimum, and that of half its replicas, lies inside their sizes: bool [V]."""
        return _trusted(self.parameters, self.interior_share)


def fit_isoflop(
    valleys: Sequence[Valley],
    minimum: Minimum = akima,
    noise: Noise | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> IsoflopFit:
    """Minima and N* = k C^a, with noise replicas of every valley (Porian et al. 2024).

    Args:
      valleys: at least two, as `group_valleys` gives them.
      minimum: `akima` or `parabola`.
      noise: of the loss in a valley, independent between its points; None tells it by `residual_noise`.
      draws, seed: of the replicas.

    Raises:
      UserError: fewer than two valleys with a minimum to be trusted.
    """
    noise = noise or residual_noise(valleys)
    random = np.random.default_rng(seed)
    measured = [_measure(valley, minimum, noise, draws, random) for valley in valleys]
    parameters, loss, medians, stds, share = np.array([numbers for numbers, _ in measured]).T
    trusted = _trusted(parameters, share)
    if trusted.sum() < 2:
        raise UserError(
            f"{trusted.sum()} of {len(valleys)} compute budgets have their least loss safely inside their sizes, "
            "and an exponent needs two: add smaller or larger sizes"
        )
    x = np.log([valley.compute_flops for valley in valleys])[trusted, None]
    weights = stds[trusted, None] ** -2
    replicas = np.array([values for _, values in measured])[trusted]
    lines = weighted_lines(x, replicas, weights)
    law = SizeLaw(
        line=weighted_lines(x, np.log(medians[trusted, None]), weights)[0],
        draws=lines[np.isfinite(lines).all(1)],
        degrees_of_freedom=noise.degrees_of_freedom,
    )
    straight = least_squares(x[:, 0], np.log(parameters[trusted]))
    return IsoflopFit(tuple(valleys), parameters, loss, medians, stds, share, law, straight)


def _measure(
    valley: Valley, minimum: Minimum, noise: Noise, draws: int, random: np.random.Generator
) -> tuple[tuple[float, ...], Array]:
    """N* and its loss, the replicas' median N*, std of log N* and interior share; the replicas' log N* [R]."""
    x, loss = np.log(valley.parameters), valley.loss_nats_per_token
    shaken = np.log(loss)[:, None] + noise.log_std(loss)[:, None] * random.normal(size=(loss.size, draws))
    lowest, replicas = minimum(x, np.log(loss)[:, None]), minimum(x, shaken).log_parameters
    inside = replicas[np.isfinite(replicas)]
    median, std, share = np.nan, np.nan, inside.size / draws
    if inside.size:
        median, std = np.exp(np.median(inside)), max(inside.std(), SPACING_FLOOR * np.diff(x).mean()) / share
    return (np.exp(lowest.log_parameters[0]), np.exp(lowest.log_loss[0]), median, std, share), replicas


def _trusted(parameters: Array, share: Array) -> Flags:
    return np.isfinite(parameters) & (share >= LEAST_INTERIOR)


def weighted_lines(x: Array, y: Array, weights: Array) -> Array:
    """Intercepts and slopes [R, 2] of weighted least squares on columns [V, R]; pairs with a NaN are left out.

    NaN where fewer than two pairs remain.
    """
    known = np.isfinite(x + y)
    w = np.where(known, weights, 0.0)
    x, y = np.where(known, x, 0.0), np.where(known, y, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        w = np.where(known.sum(0) > 1, w / w.sum(0), np.nan)
        centre_x, centre_y = (w * x).sum(0), (w * y).sum(0)
        slope = (w * (x - centre_x) * (y - centre_y)).sum(0) / (w * (x - centre_x) ** 2).sum(0)
    return np.stack([centre_y - slope * centre_x, slope], 1)


def parabola_shift(valleys: Sequence[Valley]) -> Array:
    """log of the N* of a parabola over that of an Akima spline [V], NaN where either has no minimum inside.

    A parabola is symmetric and a valley, in general, is not: over wide or off-centre sizes its vertex is biased.
    """
    pairs = [(np.log(valley.parameters), np.log(valley.loss_nats_per_token)[:, None]) for valley in valleys]
    return np.array([(parabola(*pair).log_parameters - akima(*pair).log_parameters)[0] for pair in pairs])


def reservations(fit: IsoflopFit) -> list[str]:
    """What a reader should hold against a fit, a line each."""
    return [*_about_valleys(fit), *_about_shift(parabola_shift(fit.valleys))]


def _about_valleys(fit: IsoflopFit) -> list[str]:
    lines = []
    if not fit.trusted.all():
        budgets = ", ".join(f"{compute:.3g}" for compute in fit.compute_flops[~fit.trusted])
        lines.append(f"least loss at or near the smallest or largest size, so left out: {budgets} FLOP")
    sparse = sum(valley.parameters.size < FEW_SIZES for valley in fit.valleys)
    if sparse:
        lines.append(f"{sparse} of {len(fit.valleys)} budgets have fewer than {FEW_SIZES} sizes")
    decades = np.ptp(np.log10(fit.compute_flops[fit.trusted]))
    if decades < FEW_DECADES:
        lines.append(f"budgets span {decades:.1f} decades: an exponent wants {FEW_DECADES} or more")
    return lines


def _about_shift(shift: Array) -> list[str]:
    """A line where the mean shift is material and exceeds two standard errors, so that it is no accident of noise."""
    shift = shift[np.isfinite(shift)]
    if shift.size < 3 or abs(shift.mean()) < max(MATERIAL_SHIFT, 2 * shift.std(ddof=1) / shift.size**0.5):
        return []
    percent = 100 * np.expm1(shift.mean())
    return [f"a parabola puts N* {percent:+.0f} % from where a spline does: valleys are wide, off centre or lopsided"]
