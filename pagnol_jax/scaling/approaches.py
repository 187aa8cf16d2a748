"""The three approaches of Hoffmann et al. 2022 (arXiv 2203.15556) to the best size N* for compute C, side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from pagnol_jax.errors import UserError
from pagnol_jax.scaling.allocate import exponents, optimum
from pagnol_jax.scaling.envelope import EnvelopeFit, fit_envelope
from pagnol_jax.scaling.estimate import PERCENTILES
from pagnol_jax.scaling.holdout import compute_of
from pagnol_jax.scaling.isoflop import IsoflopFit, SizeLaw, fit_isoflop, reservations
from pagnol_jax.scaling.laws import CHINCHILLA
from pagnol_jax.scaling.objectives import Objective, huber, least_squares
from pagnol_jax.scaling.parametric import LawFit, fit_law
from pagnol_jax.scaling.points import Points, every_point
from pagnol_jax.scaling.record import Array, ComputeUnit, RunRecord
from pagnol_jax.scaling.text import aligned, count
from pagnol_jax.scaling.valleys import Minimum, Noise, akima, constant_noise, group_valleys, parabola, residual_noise

DRAWS = 1000


class Approach(NamedTuple):
    """N* against C as one approach has it.

    points [P, 2]: C in FLOP and the N* read off it, if any. span: of compute, that of the data. sizes: from C [P] to N*
    [P]; band: to the ends of its 95 % interval [2, P]. exponent: a with its 95 % interval.
    """

    name: str
    exponent: tuple[float, float, float]
    points: Array
    span: tuple[float, float]
    sizes: Callable[[Array], Array]
    band: Callable[[Array], Array]


def by_envelope(fit: EnvelopeFit, name: str = "1  envelope") -> Approach:
    """Approach 1: the sizes on the envelope of whole loss curves."""
    told = np.isfinite(fit.compute_flops)
    return _by_sizes(name, fit.law, fit.compute_flops[told], fit.parameters[told])


def by_isoflop(fit: IsoflopFit, name: str = "2  IsoFLOP") -> Approach:
    """Approach 2: the minima of the valleys that can be trusted."""
    return _by_sizes(name, fit.law, fit.compute_flops[fit.trusted], fit.parameters_median[fit.trusted])


def by_law(fit: LawFit, name: str = "3  parametric") -> Approach:
    """Approach 3: the optimum of a fitted law. Raises UserError for a law that has none, or none in closed form."""
    a = fit.estimate(lambda parameters: exponents(fit.law, parameters)[0])
    if np.isnan(a.value):
        raise UserError("the fitted loss does not fall in both size and tokens: there is no optimum")
    compute = compute_of(fit)

    def band(compute_flops: Array) -> Array:
        if not len(fit.draws):
            return np.full((2, compute_flops.size), np.nan)
        sizes = optimum(fit.law, fit.draws[:, None], compute_flops).parameters  # [R, P]
        return np.nanpercentile(sizes, PERCENTILES, axis=0)

    return Approach(
        name,
        (a.value, a.low, a.high),
        np.empty((0, 2)),
        (float(compute.min()), float(compute.max())),
        lambda compute_flops: optimum(fit.law, fit.parameters, compute_flops).parameters,
        band,
    )


def _by_sizes(name: str, law: SizeLaw, compute: Array, sizes: Array) -> Approach:
    low, high = law.exponent_interval
    return Approach(
        name,
        (law.exponent, float(low), float(high)),
        np.stack([compute, sizes], axis=1),
        (float(compute.min()), float(compute.max())),
        law.sizes,
        law.band,
    )


class Approaches(NamedTuple):
    """What runs tell by each approach; `left_out`: approach to the reason why not; `notes`: on the valleys."""

    told: tuple[Approach, ...]
    left_out: dict[str, str]
    notes: tuple[str, ...]


def all_approaches(runs: Sequence[RunRecord], points: Points) -> Approaches:
    """Every approach that the runs allow: 1 from their whole curves, 2 and 3 from chosen checkpoints."""
    makers: dict[str, Callable[[str], Approach]] = {
        "1  envelope": lambda name: by_envelope(fit_envelope(every_point(runs), _noise(points)), name),
        "2  IsoFLOP, Akima": partial(_isoflop, points, akima),
        "2  IsoFLOP, parabola": partial(_isoflop, points, parabola),
    }
    makers |= {f"3  {one.name}": partial(_parametric, points, one) for one in (huber(), least_squares())}
    told, left_out = [], {}
    for name, make in makers.items():
        try:
            told.append(make(name))
        except UserError as error:
            left_out[name] = str(error)
    return Approaches(tuple(told), left_out, _notes(points))


def _isoflop(points: Points, minimum: Minimum, name: str) -> Approach:
    return by_isoflop(fit_isoflop(group_valleys(points), minimum), name)


def _parametric(points: Points, objective: Objective, name: str) -> Approach:
    return by_law(fit_chinchilla(points, objective), name)


def fit_chinchilla(points: Points, objective: Objective, draws: int = DRAWS) -> LawFit:
    """Chinchilla's law through checkpoints."""
    columns = {"N": points.parameters, "D": points.tokens}
    return fit_law(CHINCHILLA, columns, points.loss_nats_per_token, run=points.run, objective=objective, draws=draws)


def _noise(points: Points) -> Noise:
    """Between runs: told by their IsoFLOP valleys, or else by what Chinchilla's law leaves over, which is no less."""
    try:
        return residual_noise(group_valleys(points))
    except UserError:
        return constant_noise(fit_chinchilla(points, least_squares(), draws=0).rms_percent / 100)


def _notes(points: Points) -> tuple[str, ...]:
    try:
        return tuple(reservations(fit_isoflop(group_valleys(points))))
    except UserError:
        return ()


def as_lines(approaches: Approaches, unit: ComputeUnit) -> list[str]:
    """A table of a and of N* at the largest compute, the approaches left out, and what to hold against the valleys.

    Raises UserError where no approach has told anything.
    """
    if not approaches.told:
        reasons = approaches.left_out
        names = {why: ", ".join(name for name in reasons if reasons[name] == why) for why in reasons.values()}
        raise UserError("; ".join(f"{which}: {why}" for why, which in names.items()))
    at = max(one.span[1] for one in approaches.told)
    rows = [("approach", "a", "95 %", f"N* at {at / unit.flops:.3g} {unit.name}", "95 %")]
    for one in approaches.told:
        a, low, high = one.exponent
        sizes = np.concatenate([one.sizes(np.array([at])), one.band(np.array([at]))[:, 0]])
        size, *ends = map(count, sizes)
        rows.append((one.name, f"{a:.3f}", f"[{low:.3f}, {high:.3f}]", size, f"[{', '.join(ends)}]"))
    lines = [*aligned(rows, right=False), *(f"left out   {name}: {why}" for name, why in approaches.left_out.items())]
    return [*lines, *(f"note       {note}" for note in approaches.notes)]
