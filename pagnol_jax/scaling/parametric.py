"""Fitting a law (approach 3 of Hoffmann et al. 2022), with what is needed to trust the answer.

Every start is followed to its end; the report says how many different optima lie within 1 % of the best, whether the
best converged, and how well the data condition it. Intervals come from resampling runs, never checkpoints of one run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from pagnol_jax.errors import UserError
from pagnol_jax.scaling.estimate import Estimate, estimate
from pagnol_jax.scaling.laws import INPUTS, Law, constants, evaluate
from pagnol_jax.scaling.newton import Residuals, Solutions, minimise
from pagnol_jax.scaling.objectives import Objective, huber
from pagnol_jax.scaling.record import Array

NEAR = 0.01  # optima whose objective is within this of the best are told
APART = 0.01  # and are others if a parameter differs by more
KEPT = 4  # optima of least squares from which narrower penalties, and resamples, set out
NO_FLOOR = 1e-6  # of the least loss: floors below are one
LOW_FLOOR, LIFTED = 0.1, 0.4  # of the least loss: a descent from a floor below the first would not raise it
STEPS, LAST_STEPS = 300, 3000  # at most, of a stage and of the last one


class LawFit(NamedTuple):
    """A law fitted to observations [P].

    parameters: [K]. value: of the objective. optima: the different ones within 1 % of the best, the best included.
    condition: of the objective's Hessian in the fitted parameters. run: what each observation belongs to. draws: refits
    [R, K] of a bootstrap over runs, NaN where a resample did not determine the law.
    """

    law: Law
    objective: Objective
    parameters: Array
    value: float
    converged: bool
    optima: int
    condition: float
    inputs: Mapping[str, Array]
    loss: Array
    run: NDArray[np.intp]
    weights: Array
    draws: Array

    def predict(self, **inputs: Any) -> Array:
        """The fitted law at inputs [...]."""
        return evaluate(self.law, self.parameters, **inputs)

    def predict_draws(self, **inputs: Any) -> Array:
        """Every draw's law at inputs [...]: [R, ...]."""
        shape = np.broadcast(*inputs.values()).shape
        return evaluate(self.law, self.draws.reshape(-1, *(1,) * len(shape), self.parameters.size), **inputs)

    def estimate(self, derived: Callable[[Array], Array]) -> Estimate:
        """Of a quantity derived from parameters: [..., K] to [...]."""
        return estimate(derived(self.parameters), derived(self.draws))

    @property
    def constants(self) -> dict[str, Estimate]:
        """The law's constants under the names of its formula."""
        values, draws = constants(self.law, self.parameters), constants(self.law, self.draws)
        return {name: estimate(values[name], draws[name]) for name in values}

    @property
    def residuals(self) -> Array:
        """log measured - log predicted [P]."""
        return np.log(self.loss) - np.log(self.predict(**self.inputs))

    @property
    def rms_percent(self) -> float:
        """Root mean square of the residuals, in per cent of the loss."""
        return float(100 * np.sqrt(np.average(self.residuals**2, weights=self.weights)))


def fit_law(
    law: Law,
    inputs: Mapping[str, Array],
    loss: Array,
    *,
    run: NDArray[np.intp] | None = None,
    objective: Objective | None = None,
    weights: Array | None = None,
    starts: Array | None = None,
    draws: int = 0,
    seed: int = 0,
) -> LawFit:
    """Fits a law to a loss [P] at inputs [P].

    Args:
      law, inputs, loss: as in `Law`.
      run: which run each observation is of; by default each is its own.
      objective: Huber's with delta 1e-3 on log loss by default.
      weights: of observations, 1 by default.
      starts: [S, K], the law's own by default.
      draws, seed: of the bootstrap.

    Raises:
      UserError: observations that cannot determine the law, or no start that led anywhere.
    """
    objective = huber() if objective is None else objective
    inputs = {name: np.asarray(inputs[name], np.float64) for name in law.inputs}
    loss = np.asarray(loss, np.float64)
    run = np.arange(loss.size) if run is None else np.unique(run, return_inverse=True)[1]
    weights = np.ones(loss.size) if weights is None else np.asarray(weights, np.float64)
    check(law, inputs, loss, run)
    starts = law.starts(inputs, loss) if starts is None else starts
    optima = _solve(law, objective, starts, weights, inputs, loss)
    if np.abs(starts - optima.parameters[0]).max(1).min() < 1e-9:  # as of a fit that never moved
        raise UserError(f"the fit of {law.formula} ended where it started: give other starts")
    fit = LawFit(
        law=law,
        objective=objective,
        parameters=optima.parameters[0],
        value=float(optima.value[0]),
        converged=bool(optima.converged[0]),
        optima=len(optima.value),
        condition=float(optima.condition[0]),
        inputs=inputs,
        loss=loss,
        run=run,
        weights=weights,
        draws=np.empty((0, len(law.parameters))),
    )
    return fit._replace(draws=_bootstrap(fit, optima.parameters[:KEPT], draws, seed)) if draws else fit


@lru_cache(maxsize=64)
def residuals_of(law: Law, log: bool) -> Residuals:
    """Measured - predicted, of loss or log loss, as `newton.minimise` takes it; (inputs, loss) are shared."""

    def residuals(parameters: Any, shared: Any) -> Any:
        inputs, loss = shared
        predicted = law.predict(parameters, inputs)
        return jnp.log(loss) - jnp.log(predicted) if log else loss - predicted

    return residuals


def check(law: Law, inputs: Mapping[str, Array], loss: Array, run: NDArray[np.intp]) -> None:
    """Raises UserError, in one line, for observations that cannot determine the law."""
    for name, column in {**{INPUTS[name]: inputs[name] for name in law.inputs}, "loss": loss}.items():
        bad = column[~(np.isfinite(column) & (column > 0))]
        if bad.size:
            raise UserError(f"the law {law.formula} needs the {name} of every run; one is {bad[0]:g}")
        if np.ptp(np.log(column)) < 1e-6:
            raise UserError(f"all observations have the same {name}: {law.formula} cannot be told")
    runs, needed = np.unique(run).size, len(law.parameters)
    if runs < 2:
        raise UserError("a law needs several runs; there is one")
    if loss.size <= needed:
        raise UserError(f"{law.formula} has {needed} constants: it needs more than the {loss.size} observations given")


def _solve(
    law: Law, objective: Objective, starts: Array, weights: Array, inputs: Mapping[str, Array], loss: Array
) -> Solutions:
    """The optima, the best first: of least squares from every start, then followed as the penalty narrows."""
    residuals, widths = residuals_of(law, objective.log), objective.widths
    for width in widths:
        steps = LAST_STEPS if width == objective.width else STEPS
        tiled = np.tile(weights, (len(starts), 1))
        found = minimise(residuals, starts, tiled, (inputs, loss), width, objective.above, steps)
        optima = _distinct(found, NEAR if width == objective.width else 1.0, law, loss)
        if not len(optima.value):
            raise UserError(f"no start of {law.formula} led to a finite objective")
        starts = _with_lifted_floors(optima.parameters[:KEPT], law, loss)
    return optima


def _with_lifted_floors(starts: Array, law: Law, loss: Array) -> Array:
    """And the starts with a low floor once more with a higher one: the slope in log E vanishes with E."""
    floor = np.array(law.parameters) == "log_E"
    low = starts[(starts[:, floor] < np.log(LOW_FLOOR * loss.min())).any(1)]
    return np.concatenate([starts, np.where(floor, np.log(LIFTED * loss.min()), low)])


def _distinct(found: Solutions, near: float, law: Law, loss: Array) -> Solutions:
    """Solutions that differ, the best first, with an objective of at most 1 + near times the best."""
    floors = np.where(np.array(law.parameters) == "log_E", np.log(NO_FLOOR * loss.min()), -np.inf)
    places = np.maximum(found.parameters, floors)
    usable = np.isfinite(found.value) & np.isfinite(found.parameters).all(1)
    least = found.value[usable].min(initial=np.inf)
    rows = np.flatnonzero(usable & (found.value <= least * (1 + near)))
    kept: list[int] = []
    for row in rows[np.argsort(found.value[rows], kind="stable")]:
        alone = all(np.abs(places[row] - places[other]).max() > APART for other in kept)
        if alone and (found.converged[row] or not kept):
            kept.append(int(row))
    return jax.tree.map(lambda column: column[kept], found)


def resample(run: NDArray[np.intp], draws: int, seed: int) -> Array:
    """Weights [R, P] of observations when runs [P] are drawn with replacement."""
    count = int(run.max()) + 1
    picked = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws)
    return picked[:, run].astype(np.float64)


def _bootstrap(fit: LawFit, optima: Array, draws: int, seed: int) -> Array:
    """Refits [R, K] that set out from every optimum; NaN where a resample has too few runs to determine the law."""
    weights = fit.weights * resample(fit.run, draws, seed)
    optima = _with_lifted_floors(optima, fit.law, fit.loss)
    starts, tiled = np.repeat(optima, draws, axis=0), np.tile(weights, (len(optima), 1))
    residuals, shared = residuals_of(fit.law, fit.objective.log), (fit.inputs, fit.loss)
    for width in fit.objective.widths[-2:]:
        found = minimise(residuals, starts, tiled, shared, width, fit.objective.above, STEPS)
        starts = found.parameters
    value = np.where(np.isfinite(found.value), found.value, np.inf).reshape(len(optima), draws)
    best = found.parameters.reshape(len(optima), draws, -1)[np.argmin(value, axis=0), np.arange(draws)]
    determined = (weights > 0).sum(1) >= len(fit.law.parameters)
    return np.where(determined[:, None], best, np.nan)
