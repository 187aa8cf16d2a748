"""How well a law predicts the runs of most compute from the others: the figure to look at before extrapolating."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pagnol_jax.errors import UserError
from pagnol_jax.scaling.estimate import Estimate, estimate
from pagnol_jax.scaling.frontier import efficient_line, power_line
from pagnol_jax.scaling.parametric import LawFit, fit_law
from pagnol_jax.scaling.record import Array


class HeldOut(NamedTuple):
    """Runs [H] that a law was not fitted to, and what it says of them.

    fit: to the other runs. rows: of the observations held out, by compute. errors: relative errors in per cent with
    their intervals, negative where the law promised too low a loss. power_errors: of the plain power law of compute
    through the efficient ones of the other runs, in per cent [H].
    """

    fit: LawFit
    rows: NDArray[np.intp]
    loss: Array
    errors: tuple[Estimate, ...]
    power_errors: Array


def compute_of(fit: LawFit) -> Array:
    """Compute of the observations [P]: an input of the law, or 6 N D. Raises UserError where it has neither."""
    if "C" in fit.inputs:
        return fit.inputs["C"]
    if {"N", "D"} <= fit.inputs.keys():
        return 6 * fit.inputs["N"] * fit.inputs["D"]
    raise UserError(f"{fit.law.formula} knows no compute, so no run of most compute can be held out")


def hold_out(fit: LawFit, share: float = 0.1, runs: NDArray[np.intp] | None = None, draws: int = 1000) -> HeldOut:
    """Fits the law again without some runs and predicts them.

    Args:
      fit: to all runs; its law, objective and weights are kept.
      share: of runs, those of most compute (one at least), that are held out.
      runs: the runs (numbers in `fit.run`) to hold out instead.
      draws: of the bootstrap over the runs that are left.

    Raises:
      UserError: too few runs are left to determine the law.
    """
    compute = compute_of(fit)
    if runs is None:
        largest = [compute[fit.run == run].max() for run in range(fit.run.max() + 1)]
        runs = np.argsort(largest)[-max(1, round(share * len(largest))) :]
    out = np.isin(fit.run, runs)
    inputs = {name: column[~out] for name, column in fit.inputs.items()}
    rest = fit_law(
        fit.law,
        inputs,
        fit.loss[~out],
        run=fit.run[~out],
        objective=fit.objective,
        weights=fit.weights[~out],
        draws=draws,
    )
    rows = np.flatnonzero(out)[np.argsort(compute[out], kind="stable")]
    held = {name: column[rows] for name, column in fit.inputs.items()}
    predicted, loss = rest.predict(**held), fit.loss[rows]
    drawn = rest.predict_draws(**held)
    errors = tuple(
        estimate(100 * (predicted[i] / loss[i] - 1), 100 * (drawn[:, i] / loss[i] - 1)) for i in range(rows.size)
    )
    power = power_line(efficient_line(compute[~out], fit.loss[~out]), compute[rows])
    return HeldOut(rest, rows, loss, errors, 100 * (power / loss - 1))
