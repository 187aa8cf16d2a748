"""A plan with all that is told of it, and what a reader should hold against it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from pagnol_jax.scaling.chips import Budget
from pagnol_jax.scaling.design import Ladder
from pagnol_jax.scaling.parametric import LawFit
from pagnol_jax.scaling.plan import Plan, RungPlan
from pagnol_jax.scaling.report import FEW_RUNS

FAR = 10  # times the largest run's compute, beyond which an extrapolation is warned about
# Epochs of repeated tokens that are nearly as good as new ones: Muennighoff et al. 2023 (arXiv 2305.16264), abstract.
MANY_EPOCHS = 4
STATE_BYTES = 16  # of a parameter in float32: weight, gradient and Adam's two moments
OFF_LADDER = 2.0  # ratio of N* to the nearest rung, beyond which it is told


class Report(NamedTuple):
    """All that is told of a plan.

    rung: the nearest of a ladder. ladder: None, for the reason `no_ladder`, where no runs fit in its share.
    unique_tokens: of the data, None where nobody says.
    """

    budget: Budget
    plan: Plan
    rung: RungPlan
    ladder: Ladder | None
    no_ladder: str | None
    unique_tokens: float | None


def notes(report: Report) -> Iterable[str]:
    """A line each."""
    if report.plan.basis.fit is None:
        yield "published constants: no intervals, and another corpus and tokenizer than yours; fit your own with --runs"
    else:
        yield from _about_fit(report.plan, report.plan.basis.fit)
    yield from _about_size(report)
    yield from _about_data(report)


def _about_fit(plan: Plan, fit: LawFit) -> Iterable[str]:
    runs = np.unique(fit.run).size
    if plan.extrapolation and plan.extrapolation > FAR:
        yield f"the budget is {plan.extrapolation:,.3g} times the compute of the largest run: a far extrapolation"
    if runs < FEW_RUNS:
        yield f"{runs} runs carry the intervals: take them for a lower bound of the uncertainty"
    if not fit.converged or fit.optima > 1:
        what = "has several optima" if fit.converged else "did not converge"
        yield f"the fit {what}: these runs do not pin its constants down"
    if plan.lost_draws:
        yield f"{100 * plan.lost_draws:.2g} % of the resamples have no optimum: the intervals leave them out"


def _about_size(report: Report) -> Iterable[str]:
    best, memory = float(report.plan.best.parameters), report.budget.slice.memory_bytes
    if STATE_BYTES * best > memory:
        yield (
            f"weights, gradients and moments of N* take {STATE_BYTES * best / 1e9:,.3g} GB in float32, more than the "
            f"{memory / 1e9:,.3g} GB of {report.budget.slice.name}"
        )
    ratio = float(np.exp(np.abs(np.log(best / report.rung.allocation.parameters))))
    if ratio > OFF_LADDER:
        yield f"N* is off the ladder: a factor of {ratio:.3g} from its nearest rung"


def _about_data(report: Report) -> Iterable[str]:
    if report.unique_tokens is None:
        return
    amounts = {"D*": float(report.plan.best.tokens)}
    if report.ladder is not None:
        amounts["the longest run of the ladder"] = float(report.ladder.design.tokens.max())
    for what, tokens in amounts.items():
        epochs = tokens / report.unique_tokens
        if epochs > 1:
            worth = "worth much less than new ones" if epochs > MANY_EPOCHS else "nearly as good as new ones"
            yield f"{what} is {epochs:.3g} epochs of the data: the law counts all as new; so many repeats are {worth}"
