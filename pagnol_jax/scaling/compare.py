"""Two groups of runs compared: exponents, loss at equal compute and compute at equal loss, each with an interval.

A comparison of losses is only as good as its unit: nats per token of two tokenizers do not compare, bits per byte do.
Exponents have no unit. Intervals are 95 %, of bootstraps over runs that are independent between the groups.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import t as student

from pagnol_jax.errors import UserError
from pagnol_jax.scaling.estimate import Estimate, estimate
from pagnol_jax.scaling.frontier import Indices, least_squares
from pagnol_jax.scaling.group_frontiers import (
    BITS,
    NATS,
    PAGNOL,
    SAME,
    Frontier,
    Group,
    fit_group,
    least_loss,
    log_least_compute,
    make_group,
    undetermined,
)
from pagnol_jax.scaling.record import NOT_STATED, Array, RunRecord, counted_alike

BEYOND = 1e6  # times the largest compute, up to which a crossing is looked for
LEAST_DESIGNS = 3  # that pairs of runs need for an interval

Pair = tuple[Frontier, Frontier]


class Crossing(NamedTuple):
    """The compute (FLOP) from which the groups change places, infinite where they do not below `limit`.

    share: of draws, those that cross below it; NaN without draws.
    """

    compute_flops: Estimate
    share: float
    limit: float


class LawDifference(NamedTuple):
    """B against A by one law: B's loss over A's at equal compute, B's compute over A's at equal loss.

    A ratio of compute is infinite where no compute takes B to that loss, 0 where none takes A there, NaN for neither.
    """

    frontiers: Pair
    exponent: Estimate
    loss: tuple[Estimate, ...]
    compute: tuple[Estimate, ...]
    crossing: Crossing

    @property
    def law(self) -> str:
        """Its name."""
        return self.frontiers[0].law

    @property
    def held_out_percent(self) -> float:
        """The larger of both groups' hold-out errors; infinite where one has none."""
        errors = [abs(frontier.held_out_percent) for frontier in self.frontiers]
        return math.inf if any(map(math.isnan, errors)) else max(errors)


class Paired(NamedTuple):
    """Runs of one name, N and D in both groups: B's loss less A's, and over A's; means over designs, Student's t.

    designs: different (N, D); pairs of one design are averaged first, since they share what is particular to it.
    exponent: B's less A's, by the loss ratios of pairs on both frontiers; what bends both frontiers alike is no noise.
    """

    names: tuple[str, ...]
    designs: int
    difference: Estimate
    ratio: Estimate
    exponent: Estimate | None


class UnitComparison(NamedTuple):
    """Losses compared in one unit, at computes (FLOP) [0 or 3] and losses [0 or 3] that both frontiers measured.

    comparable: whether the unit means the same in both groups.
    """

    unit: str
    comparable: bool
    compute_flops: Array
    loss: Array
    laws: tuple[LawDifference, ...]
    paired: Paired | None

    @property
    def judge(self) -> LawDifference:
        """The law that predicts held-out runs best; PAGnol's line lies below its runs on purpose."""
        return min((law for law in self.laws if law.law != PAGNOL), key=lambda law: law.held_out_percent)


class Comparison(NamedTuple):
    """Two groups, the frontiers of each, and `units`, of which the first is the one to judge by.

    without: for each group, why it has no law of N and D ("" where it has one).
    """

    groups: tuple[Group, Group]
    frontiers: tuple[tuple[Frontier, ...], tuple[Frontier, ...]]
    without: tuple[str, str]
    units: tuple[UnitComparison, ...]


def compare(
    a: Sequence[RunRecord],
    b: Sequence[RunRecord],
    names: tuple[str, str] = ("A", "B"),
    *,
    draws: int = 1000,
    seed: int = 0,
) -> Comparison:
    """Compares two groups of runs, each comparable within itself (`record.harmonise`).

    Args:
      a, b: runs; those known to be unfinished are left out, and the last checkpoint of the others counts.
      names: of the groups.
      draws, seed: of the bootstraps over runs.

    Raises:
      UserError: groups that count compute by conventions that do not convert, or a group that has no frontier.
    """
    return compare_all((a, b), names, draws=draws, seed=seed)[0]


def compare_all(
    groups: Sequence[Sequence[RunRecord]], names: Sequence[str], *, draws: int = 1000, seed: int = 0
) -> list[Comparison]:
    """As `compare`, every further group with the first, which is fitted once."""
    made = [make_group(name, runs) for name, runs in zip(names, _one_convention(groups, names), strict=True)]
    fitted = [fit_group(group, draws, seed + bool(place)) for place, group in enumerate(made)]
    return [_compared((made[0], group), (fitted[0], found)) for group, found in zip(made[1:], fitted[1:], strict=True)]


def _compared(groups: tuple[Group, Group], frontiers: tuple[tuple[Frontier, ...], tuple[Frontier, ...]]) -> Comparison:
    by_law = {frontier.law: frontier for frontier in frontiers[1]}
    shared = [(frontier, by_law[frontier.law]) for frontier in frontiers[0] if frontier.law in by_law]
    known = all(run.bytes_per_token for group in groups for run in group.runs)
    units = tuple(_in_unit(unit, groups, shared) for unit in ((BITS, NATS) if known else (NATS,)))
    return Comparison(groups, frontiers, (undetermined(groups[0].points), undetermined(groups[1].points)), units)


def _one_convention(groups: Sequence[Sequence[RunRecord]], names: Sequence[str]) -> Sequence[Sequence[RunRecord]]:
    """All groups with compute counted by one convention, one that a group states, converted exactly."""
    stated = [{run.convention for run in group} for group in groups]
    if all(one == stated[0] for one in stated):
        return groups
    counted = counted_alike([run for group in groups for run in group])
    if len({run.convention for run in counted}) == 1:
        rest = iter(counted)
        return [list(itertools.islice(rest, len(group))) for group in groups]
    said = ["; ".join(sorted(one.name if one else NOT_STATED for one in group)) for group in stated]
    raise UserError(
        f"{' and '.join(names)} count compute by conventions that do not convert ({' | '.join(said)}): "
        f"state the convention, parameters and tokens of {'both' if len(groups) == 2 else 'all'}"
    )


def _in_unit(unit: str, groups: tuple[Group, Group], shared: Sequence[Pair]) -> UnitComparison:
    a, b = groups
    factors = a.factor(unit), b.factor(unit)
    best = [group.points.take(group.efficient) for group in groups]
    computes = _overlap([points.compute_flops for points in best])
    losses = _overlap([f * points.loss_nats_per_token for f, points in zip(factors, best, strict=True)])[::-1]
    reach = (max(p.compute_flops.min() for p in best), BEYOND * max(p.compute_flops.max() for p in best))
    laws = tuple(_by_law((p.scaled(factors[0]), q.scaled(factors[1])), computes, losses, reach) for p, q in shared)
    comparable = unit == BITS or a.runs[0].tokenizer == b.runs[0].tokenizer
    return UnitComparison(unit, comparable, computes, losses, laws, _paired(groups, factors))


def _overlap(ranges: Sequence[Array]) -> Array:
    """The ends and the middle of what two ranges share, in geometric progression; empty where they share nothing."""
    low, high = max(values.min() for values in ranges), min(values.max() for values in ranges)
    return np.geomspace(low, high, 3) if low < high else np.empty(0)


def _by_law(pair: Pair, computes: Array, losses: Array, reach: tuple[float, float]) -> LawDifference:
    def loss_ratio(compute: float) -> Estimate:
        return _of_both(pair, lambda p, q: least_loss(q, compute) / least_loss(p, compute))

    def compute_ratio(loss: float) -> Estimate:
        return _of_both(pair, lambda p, q: np.exp(log_least_compute(q, loss) - log_least_compute(p, loss)))

    exponent = _of_both(pair, lambda p, q: p[..., 2] - q[..., 2])
    found = tuple(map(loss_ratio, computes)), tuple(map(compute_ratio, losses))
    return LawDifference(pair, exponent, *found, _crossing(pair, reach))


def _of_both(pair: Pair, of: Callable[[Array, Array], Array]) -> Estimate:
    """Of a quantity of two frontiers ([..., 3] each, to [...])."""
    return estimate(*_with_draws(pair, of))


def _with_draws(pair: Pair, of: Callable[[Array, Array], Array]) -> tuple[float, Array]:
    a, b = pair
    count = min(len(a.draws), len(b.draws))
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):  # what is not reached is infinite or NaN
        return float(of(a.parameters, b.parameters)), of(a.draws[:count], b.draws[:count])


def _crossing(pair: Pair, reach: tuple[float, float]) -> Crossing:
    log_c = np.linspace(math.log(reach[0]), math.log(reach[1]), 400)

    def first(a: Array, b: Array) -> Array:
        """Compute [...] at which B's loss less A's first changes its sign."""
        losses = [least_loss(parameters[..., None, :], np.exp(log_c)) for parameters in (a, b)]
        gap = np.log(losses[1] / losses[0])
        turns = gap[..., 1:] * gap[..., :-1] < 0
        at = turns.argmax(-1)
        before, after = (np.take_along_axis(gap, (at + step)[..., None], -1)[..., 0] for step in (0, 1))
        compute = np.exp(log_c[at] + (log_c[1] - log_c[0]) * before / (before - after))
        return np.where(np.isnan(gap).any(-1), np.nan, np.where(turns.any(-1), compute, np.inf))

    value, draws = _with_draws(pair, first)
    known = draws[~np.isnan(draws)]
    share = float(np.isfinite(known).mean()) if known.size else math.nan
    return Crossing(estimate(value, draws), share, reach[1])


def _paired(groups: tuple[Group, Group], factors: tuple[float, float]) -> Paired | None:
    a, b = (group.points for group in groups)
    places = {run.name: row for row, run in enumerate(groups[1].runs)}
    pairs = [(row, places[run.name]) for row, run in enumerate(groups[0].runs) if run.name in places]
    pairs = [(i, j) for i, j in pairs if _same(a.parameters[i], b.parameters[j]) and _same(a.tokens[i], b.tokens[j])]
    design = np.unique([f"{a.parameters[i]:.3g} {a.tokens[i]:.3g}" for i, _ in pairs], return_inverse=True)[1]
    if np.unique(design).size < LEAST_DESIGNS:
        return None
    i, j = np.array(pairs).T
    losses = factors[0] * a.loss_nats_per_token[i], factors[1] * b.loss_nats_per_token[j]
    log_ratio = np.log(losses[1] / losses[0])
    ratio, low, high = np.exp(_mean(log_ratio, design)[:3])
    on_both = np.isin(i, groups[0].efficient) & np.isin(j, groups[1].efficient)
    return Paired(
        names=tuple(groups[0].runs[row].name for row in i),
        designs=int(design.max()) + 1,
        difference=_mean(losses[1] - losses[0], design),
        ratio=Estimate(float(ratio), float(low), float(high), math.nan),
        exponent=_slope(np.log(a.compute_flops[i[on_both]]), log_ratio[on_both]),
    )


def _same(first: float, second: float) -> bool:
    return bool(abs(np.log(first / second)) < SAME)  # False where one is NaN


def _mean(values: Array, design: Indices) -> Estimate:
    """Of the designs' means, by Student's t: percentiles of resampled means of half a dozen cover 86 %, not 95 %."""
    means = np.bincount(design, values) / np.bincount(design)
    error = float(means.std(ddof=1) / math.sqrt(means.size))
    return _student(float(means.mean()), error, means.size - 1)


def _slope(x: Array, y: Array) -> Estimate | None:
    """Of the least-squares line, by Student's t; None for fewer than four points or one abscissa."""
    if x.size < 4 or np.ptp(x) < 1e-6:
        return None
    intercept, slope = least_squares(x, y)
    variance = ((y - intercept - slope * x) ** 2).sum() / (x.size - 2)
    return _student(float(slope), math.sqrt(variance / ((x - x.mean()) ** 2).sum()), x.size - 2)


def _student(value: float, error: float, degrees_of_freedom: int) -> Estimate:
    reach = error * float(student.ppf(0.975, degrees_of_freedom))
    return Estimate(value, value - reach, value + reach, error)
