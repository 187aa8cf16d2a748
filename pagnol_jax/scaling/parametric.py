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
from pagnol_jax.scaling.newton import Solutions, Value, minimise
from pagnol_jax.scaling.objectives import Objective, huber, mean_penalty
from pagnol_jax.scaling.record import Array

NEAR = 0.01  # optima whose objective is within this of the best are told
APART = 0.01  # and are others if a parameter differs by more


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
    problem = value_of(law, objective)
    found = minimise(problem, starts, objective.widths, np.tile(weights, (len(starts), 1)), (inputs, loss))
    optima = _best_first(found, starts, law)
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
    return fit._replace(draws=_bootstrap(fit, optima.parameters, draws, seed)) if draws else fit


@lru_cache(maxsize=64)
def value_of(law: Law, objective: Objective) -> Value:
    """The objective of a law as a function that `newton.minimise` takes; data are (weights [P], (inputs, loss))."""

    def value(parameters: Any, width: Any, data: Any) -> Any:
        weights, (inputs, loss) = data
        predicted = law.predict(parameters, inputs)
        residuals = jnp.log(loss) - jnp.log(predicted) if objective.log else loss - predicted
        return mean_penalty(residuals, weights, width, objective.above)

    return value


def check(law: Law, inputs: Mapping[str, Array], loss: Array, run: NDArray[np.intp]) -> None:
    """Raises UserError, in one line, for observations that cannot determine the law."""
    for name, column in {**{INPUTS[name]: inputs[name] for name in law.inputs}, "loss": loss}.items():
        bad = column[~(np.isfinite(column) & (column > 0))]
        if bad.size:
            raise UserError(f"the law {law.formula} needs the {name} of every run; one is {bad[0]:g}")
        if np.ptp(np.log(column)) < 1e-6:
            raise UserError(f"the {name} is the same in all observations: {law.formula} cannot be told")
    runs, needed = np.unique(run).size, len(law.parameters)
    if runs < 2:
        raise UserError("a law needs several runs; there is one")
    if loss.size <= needed:
        raise UserError(f"{law.formula} has {needed} constants: it needs more than the {loss.size} observations given")


def _best_first(found: Solutions, starts: Array, law: Law) -> Solutions:
    """Different optima within 1 % of the best. Raises UserError where no start went anywhere."""
    usable = np.isfinite(found.value) & np.isfinite(found.parameters).all(1)
    if not usable.any():
        raise UserError(f"no start of {law.formula} led to a finite objective")
    near = np.flatnonzero(usable & (found.value <= found.value[usable].min() * (1 + NEAR)))
    moved = np.abs(found.parameters - starts).max(1) > 1e-9
    if not moved[near].any():  # as a fit does that never moved (Porian et al.'s saturating law)
        raise UserError(f"the fit of {law.formula} ended where it started: give other starts")
    order = near[np.lexsort((found.value[near], ~found.converged[near]))]
    kept: list[int] = []
    for row in order:
        if all(np.abs(found.parameters[row] - found.parameters[other]).max() > APART for other in kept):
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
    starts = np.repeat(optima, draws, axis=0)
    widths = fit.objective.widths[-2:]
    found = minimise(
        value_of(fit.law, fit.objective), starts, widths, np.tile(weights, (len(optima), 1)), (fit.inputs, fit.loss)
    )
    value = np.where(np.isfinite(found.value), found.value, np.inf).reshape(len(optima), draws)
    best = found.parameters.reshape(len(optima), draws, -1)[np.argmin(value, axis=0), np.arange(draws)]
    determined = (weights > 0).sum(1) >= len(fit.law.parameters)
    return np.where(determined[:, None], best, np.nan)
