"""PAGnol's frontier fit, with what is needed to trust it: a bootstrap over runs and a hold-out error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pagnol_jax.errors import UserError
from pagnol_jax.scaling.estimate import PERCENTILES
from pagnol_jax.scaling.frontier import LineFit, least_squares, least_squares_under, power_line, prefactor
from pagnol_jax.scaling.points import Chooser, Points, final_points
from pagnol_jax.scaling.record import Array, ComputeUnit, RunRecord, check_comparable


class HoldOut(NamedTuple):
    """The run of most compute, and what laws fitted without it say of its last point (nats per token)."""

    run: int
    compute_flops: float
    loss_nats_per_token: float
    predicted: float
    predicted_unconstrained: float

    @property
    def error_percent(self) -> float:
        """Relative error of the constrained law; negative when it promised too low a loss."""
        return 100 * (self.predicted / self.loss_nats_per_token - 1)

    @property
    def error_percent_unconstrained(self) -> float:
        """Relative error of the unconstrained law."""
        return 100 * (self.predicted_unconstrained / self.loss_nats_per_token - 1)


class FrontierFit(NamedTuple):
    """A power law fitted to `points`; parameters are those of `frontier.power_line`, in FLOP.

    `draws` [R, 2] are the refits of the bootstrap; `draws_skipped` more held one run alone. Fewer than three
    runs have no draws, since resampling them says nothing, and no `hold_out`.
    """

    points: Points
    parameters: Array
    unconstrained: Array
    draws: Array
    draws_skipped: int
    hold_out: HoldOut | None

    @property
    def exponent(self) -> float:
        """Exponent of compute, negative for a law that falls."""
        return float(self.parameters[1])

    @property
    def exponent_interval(self) -> Array | None:
        """95 % percentile interval [2], None without draws."""
        return np.percentile(self.draws[:, 1], PERCENTILES) if self.draws.size else None

    def prefactor(self, unit: ComputeUnit) -> float:
        """Loss in nats per token at one `unit` of compute."""
        return float(prefactor(self.parameters, unit))

    def prefactor_interval(self, unit: ComputeUnit) -> Array | None:
        """95 % percentile interval [2], None without draws."""
        return np.percentile(prefactor(self.draws, unit), PERCENTILES) if self.draws.size else None

    def band(self, compute_flops: Array) -> Array | None:
        """95 % percentile band of the law at each compute [2, P], None without draws."""
        if not self.draws.size:
            return None
        return np.percentile(power_line(self.draws[:, None], compute_flops), PERCENTILES, axis=0)


def fit_frontier(
    runs: Sequence[RunRecord], choose: Chooser = final_points, draws: int = 2000, seed: int = 0
) -> FrontierFit:
    """Log-log least squares of L = A * C^alpha, held under the chosen points (PAGnol, Figure 1).

    Args:
      runs: comparable runs (one compute convention, tokenizer, corpus).
      choose: the points that enter the fit.
      draws, seed: of the bootstrap.

    Raises:
      UserError: runs that cannot be compared, or points through which no law can be fitted.
    """
    check_comparable(runs)
    points = choose(runs)
    check_fittable(runs, points)
    enough = np.unique(points.run).size > 2
    refits, skipped = bootstrap(points, draws, seed) if enough else (np.empty((0, 2)), 0)
    return FrontierFit(
        points=points,
        parameters=_fit(points, least_squares_under),
        unconstrained=_fit(points, least_squares),
        draws=refits,
        draws_skipped=skipped,
        hold_out=hold_out(points),
    )


def _fit(points: Points, line: LineFit) -> Array:
    return line(np.log(points.compute_flops), np.log(points.loss_nats_per_token))


def check_fittable(runs: Sequence[RunRecord], points: Points) -> None:
    """Raises UserError, in one line, for points through which no law of compute can be fitted."""
    used = [runs[index] for index in np.unique(points.run)]
    if len(used) < 2:
        raise UserError(f"a law needs the points of at least two runs; these are all of {used[0].name!r}")
    sizes = {run.parameters_non_embedding or run.parameters for run in used}
    if len(sizes) == 1 and None not in sizes:
        raise UserError(f"all runs have one size, {sizes.pop():,.0f} parameters: a frontier needs several")
    if _constant(points.compute_flops):
        raise UserError("all points have the same compute: no exponent can be told")
    if _constant(points.loss_nats_per_token):
        raise UserError("all points have the same loss: there is no law to fit")


def _constant(values: Array) -> bool:
    """Whether values agree to a millionth, which no two budgets or losses do by design."""
    return bool(np.ptp(np.log(values)) < 1e-6)


def bootstrap(points: Points, draws: int, seed: int) -> tuple[Array, int]:
    """Refits [R, 2] of the constrained law on runs drawn with replacement, and how many draws were skipped.

    Runs are resampled, each with all its chosen points, never the checkpoints of one run: those share a seed
    and a schedule, so they are no independent evidence. A draw of one run alone has no slope and is skipped.
    """
    members = [np.flatnonzero(points.run == run) for run in np.unique(points.run)]
    x, y = np.log(points.compute_flops), np.log(points.loss_nats_per_token)
    refits = []
    for picked in np.random.default_rng(seed).integers(len(members), size=(draws, len(members))):
        rows = np.concatenate([members[run] for run in picked])
        if len(set(picked)) > 1 and np.ptp(x[rows]) >= 1e-6:
            refits.append(least_squares_under(x[rows], y[rows]))
    return np.reshape(refits, (-1, 2)), draws - len(refits)


def hold_out(points: Points) -> HoldOut | None:
    """The run of most compute predicted from the others; None unless those are two, of unlike compute."""
    last = int(np.argmax(points.compute_flops))
    others = points.take(points.run != points.run[last])
    if np.unique(others.run).size < 2 or _constant(others.compute_flops):
        return None
    compute = points.compute_flops[last]
    return HoldOut(
        run=int(points.run[last]),
        compute_flops=float(compute),
        loss_nats_per_token=float(points.loss_nats_per_token[last]),
        predicted=float(power_line(_fit(others, least_squares_under), compute)),
        predicted_unconstrained=float(power_line(_fit(others, least_squares), compute)),
    )
