"""The fit of a law in words and in JSON: constants with intervals, how far to trust them, what other losses give."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from pagnol_jax.errors import UserError
from pagnol_jax.scaling.allocate import exponents
from pagnol_jax.scaling.estimate import Estimate
from pagnol_jax.scaling.holdout import HeldOut, compute_of, hold_out
from pagnol_jax.scaling.laws import CHINCHILLA, CHINCHILLA_TIED, Law
from pagnol_jax.scaling.objectives import Objective, asymmetric, huber, least_absolute, least_squares
from pagnol_jax.scaling.parametric import LawFit, fit_law
from pagnol_jax.scaling.points import Points
from pagnol_jax.scaling.projection import project
from pagnol_jax.scaling.record import ComputeUnit, RunRecord
from pagnol_jax.scaling.report import conventions
from pagnol_jax.scaling.text import aligned

# By the names that commands take; the first is the default.
OBJECTIVES: dict[str, Objective] = {
    "huber": huber(),
    "huber_1e-4": huber(1e-4),
    "absolute": least_absolute(),
    "squares": least_squares(),
    "raw_squares": least_squares(log=False),
    "asymmetric": asymmetric(),
}
PINNED = 0.1  # an interval of a wider than this leaves the allocation open
LOOSE = 1e10  # condition from which single constants say nothing
FEW_RUNS = 10
TINY_FLOOR = 1e-3  # of the least loss


class LawReport(NamedTuple):
    """A fit with its points' runs, the same law by other objectives, and what it says of runs it was not fitted to."""

    fit: LawFit
    runs: tuple[RunRecord, ...]
    points: Points
    others: tuple[LawFit, ...]
    held_out: HeldOut | None
    unit: ComputeUnit


def inputs_of(law: Law, points: Points) -> dict[str, Any]:
    """The law's inputs [P] from chosen checkpoints. Raises UserError for a law of something they do not have."""
    known = {
        "N": points.parameters,
        "D": points.tokens,
        "C": points.compute_flops,
        "M": points.tokens / points.parameters,
    }
    missing = [name for name in law.inputs if name not in known]
    if missing:
        raise UserError(f"{law.formula} wants {missing[0]}, which run records do not have: fit it from Python")
    return {name: known[name] for name in law.inputs}


def fit_report(
    law: Law, runs: Sequence[RunRecord], points: Points, objective: str, unit: ComputeUnit, draws: int = 1000
) -> LawReport:
    """Fits, bootstraps over runs, fits by the other objectives, and holds out the runs of most compute."""
    inputs, loss = inputs_of(law, points), points.loss_nats_per_token
    fit = fit_law(law, inputs, loss, run=points.run, objective=OBJECTIVES[objective], draws=draws)
    others = tuple(
        fit_law(law, inputs, loss, run=points.run, objective=other)
        for name, other in OBJECTIVES.items()
        if name != objective
    )
    try:
        held = hold_out(fit, draws=draws)
    except UserError:  # too few runs are left
        held = None
    return LawReport(fit, tuple(runs), points, others, held, unit)


def size_exponent(fit: LawFit) -> Estimate | None:
    """a of N* ~ C^a; None for a law that tells no sizes from tokens."""
    if fit.law.name not in (CHINCHILLA.name, CHINCHILLA_TIED.name):
        return None
    return fit.estimate(lambda parameters: exponents(fit.law, parameters)[0])


def as_text(report: LawReport) -> str:
    """What `pagnol scaling fit --law` prints."""
    premises = conventions(report.runs[0], "; N as counted there")
    blocks = (premises, _fit(report), _other_objectives(report), [*_held_out(report), *_notes(report)])
    return "\n\n".join("\n".join(lines) for lines in blocks)


def _fit(report: LawReport) -> list[str]:
    fit = report.fit
    points, count = fit.loss.size, np.unique(fit.run).size
    lines = [
        f"law        {fit.law.formula}, {fit.objective.name} {_side(fit.objective)}, {points} points of {count} runs",
        f"source     {fit.law.source}",
        *(f"{name:<10} {one:.5g}" for name, one in fit.constants.items()),
    ]
    share = size_exponent(fit)
    if share is not None:
        lines.append(f"a          {share:.4f}   N* ~ C^a, D* ~ C^(1 - a)")
    drawn = int(np.isfinite(fit.draws).all(1).sum())
    optima = "one optimum" if fit.optima == 1 else f"{fit.optima} optima"
    state = "converged" if fit.converged else "NOT CONVERGED"
    return [
        *lines,
        f"residuals  {fit.rms_percent:.3f} % rms",
        f"fit        {state}, {optima} within 1 % of the best, condition {fit.condition:.1e}",
        f"bootstrap  {drawn:,} resamples of {count} runs; brackets are 95 % percentile intervals",
    ]


def _side(objective: Objective) -> str:
    return "of log loss" if objective.log else "of loss"


def _other_objectives(report: LawReport) -> list[str]:
    """The same law by other objectives: the loss is part of the result."""
    fits = (report.fit, *report.others)
    names = list(report.fit.constants)
    share = size_exponent(report.fit) is not None
    header = ["objective", *names, *(["a"] if share else []), "rms %"]
    rows = [header]
    for fit in fits:
        values = [f"{one.value:.4g}" for one in fit.constants.values()]
        extra = [f"{size_exponent(fit).value:.4f}"] if share else []  # type: ignore[union-attr]
        rows.append([f"{fit.objective.name} {_side(fit.objective)}", *values, *extra, f"{fit.rms_percent:.3f}"])
    if report.fit.law.log_columns is not None:
        rows.append(_projected(report, share))
    return aligned(rows)


def _projected(report: LawReport, share: bool) -> list[str]:
    """Variable projection: its floor may be zero."""
    fit = report.fit
    found = fit._replace(parameters=project(fit.law, fit.inputs, fit.loss, fit.weights).parameters)
    values = [f"{one.value:.4g}" for one in found.constants.values()]
    extra = [f"{float(exponents(fit.law, found.parameters)[0]):.4f}"] if share else []
    return ["variable projection of loss", *values, *extra, f"{found.rms_percent:.3f}"]


def _held_out(report: LawReport) -> Iterable[str]:
    held = report.held_out
    if held is None:
        yield "hold-out   none: too few runs would be left"
        return
    compute = compute_of(report.fit)[held.rows]
    for row, error, power, at in zip(held.rows, held.errors, held.power_errors, compute, strict=True):
        name = report.runs[report.points.run[row]].name
        yield (
            f"hold-out   {name}, {at / report.unit.flops:.3g} {report.unit.name}: error {error:+.2f} % "
            f"by the law fitted to runs of less compute, {power:+.2f} % by a plain power law of compute"
        )


def _notes(report: LawReport) -> Iterable[str]:
    """What a reader should hold against this fit."""
    fit, share = report.fit, size_exponent(report.fit)
    count = np.unique(fit.run).size
    others = [one.value for one in map(size_exponent, report.others) if one is not None]
    if share is not None and not share.width <= PINNED:
        yield f"note       a is not pinned down by these runs: its interval is {share.width:.2f} wide"
    if share is not None and np.ptp([share.value, *others]) > PINNED / 2:
        spread = f"{min(share.value, *others):.3f} to {max(share.value, *others):.3f}"
        yield f"note       a depends on the objective, {spread}: give it with its objective, or not at all"
    floor = fit.constants.get("E")
    if floor is not None and floor.value < TINY_FLOOR * fit.loss.min():
        yield f"note       the floor E vanishes: {fit.law.formula} without E fits as well"
    if fit.condition > LOOSE:
        yield "note       ill-conditioned: the law's predictions can be used, its single constants cannot"
    if not fit.converged:
        yield "note       the fit did not converge: do not use it"
    if count < FEW_RUNS:
        yield f"note       {count} runs carry the intervals: take them for a lower bound of the uncertainty"
    unfinished = [report.runs[run].name for run in np.unique(report.points.run) if report.runs[run].annealed is False]
    if unfinished:
        yield f"note       not annealed, so above the loss their tokens can give: {', '.join(unfinished)}"


def as_json(report: LawReport) -> dict[str, Any]:
    """The fit as plain values."""
    fit, held, share = report.fit, report.held_out, size_exponent(report.fit)
    return {
        "law": fit.law.formula,
        "source": fit.law.source,
        "objective": f"{fit.objective.name} {_side(fit.objective)}",
        "compute_convention": report.runs[0].convention and report.runs[0].convention.name,
        "constants": {name: one._asdict() for name, one in fit.constants.items()},
        "size_exponent": share and share._asdict(),
        "rms_percent": fit.rms_percent,
        "converged": fit.converged,
        "optima_within_1_percent": fit.optima,
        "condition": fit.condition,
        "runs": int(np.unique(fit.run).size),
        "resamples": len(fit.draws),
        "hold_out": held
        and [
            {
                "run": report.runs[report.points.run[row]].name,
                "error_percent": error._asdict(),
                "power_law_error_percent": power,
            }
            for row, error, power in zip(held.rows, held.errors, held.power_errors.tolist(), strict=True)
        ],
    }
