"""Minimises penalties of residuals, for many small problems at once: the starts of a fit, the draws of a bootstrap.

Derivatives are exact (forward over reverse) and float64. SciPy's L-BFGS-B with its defaults stops early on objectives
of the size of scaling-law residuals (Besiroglu et al. 2024, arXiv 2404.10102). Here every step tries Newton's Hessian,
which ends quickly, and the reweighted Gauss-Newton one, which crosses curved valleys, and keeps the better; a problem
is done when a whole step would change its objective by less than a part in 1e10, or no step changes it at all.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from pagnol_jax.scaling.objectives import mean_penalty, stiffness
from pagnol_jax.scaling.record import Array

Residuals = Callable[[Any, Any], Any]  # (parameters [K], what all problems share) -> residuals [P]
TOLERANCE = 1e-10
EXACT = 1e-18  # an objective below this is rounding: data without noise
RIDGE = 1e-13
AT_ONCE = 64  # problems solved together: one that is slow holds up no more than these


class Solutions(NamedTuple):
    """One row per problem: parameters [R, K], value [R], whether converged [R], condition of the Hessian [R]."""

    parameters: Array
    value: Array
    converged: NDArray[np.bool_]
    condition: Array


class _State(NamedTuple):
    parameters: Any
    value: Any
    damping: Any
    steps: Any
    done: Any


def minimise(
    residuals: Residuals, starts: Array, weights: Array, shared: Any, width: float, above: float, most_steps: int
) -> Solutions:
    """Minimises `objectives.mean_penalty` from every start [R, K], with the weights [R, P] of its row."""
    solve = _solver(residuals)
    rows = np.arange(-(-len(starts) // AT_ONCE) * AT_ONCE) % len(starts)  # whole chunks: one shape to compile
    parts: list[Solutions] = []
    with jax.enable_x64(True):
        settings = (jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), shared), width, above, most_steps)
        for chunk in rows.reshape(-1, AT_ONCE):
            found = solve(jnp.asarray(starts[chunk]), jnp.asarray(weights[chunk]), *settings)
            parts.append(jax.tree.map(np.asarray, found))
    return jax.tree.map(lambda *columns: np.concatenate(columns)[: len(starts)], *parts)


@lru_cache(maxsize=64)
def _solver(residuals: Residuals) -> Callable[..., Solutions]:
    def one(start: Any, weights: Any, shared: Any, width: Any, above: Any, most_steps: Any) -> Solutions:
        def value(parameters: Any) -> Any:
            return mean_penalty(residuals(parameters, shared), weights, width, above)

        def derivatives(parameters: Any) -> tuple[Any, Any, Any]:
            """Gradient [K], Hessian [K, K] and reweighted Gauss-Newton matrix [K, K]."""
            jacobian = jax.jacfwd(residuals)(parameters, shared)
            stiff = weights * stiffness(residuals(parameters, shared), width, above) / jnp.sum(weights)
            gradient = jax.grad(value)
            return gradient(parameters), jax.jacfwd(gradient)(parameters), (jacobian.T * stiff) @ jacobian

        state = _descend(value, derivatives, start, most_steps)
        _, hessian, _ = derivatives(state.parameters)
        eigenvalues = jnp.linalg.eigvalsh(jnp.where(jnp.isfinite(hessian), hessian, 0.0))
        condition: Any = jnp.where(eigenvalues[0] > 0, eigenvalues[-1] / eigenvalues[0], jnp.inf)
        converged = state.done & jnp.isfinite(state.value)
        return Solutions(state.parameters, state.value, converged, condition)

    return jax.jit(jax.vmap(one, in_axes=(0, 0, None, None, None, None)))


def _descend(value: Callable[..., Any], derivatives: Callable[..., Any], start: Any, most_steps: Any) -> _State:
    def step(state: _State) -> _State:
        gradient, hessian, gauss_newton = derivatives(state.parameters)
        # The ridge keeps directions without curvature, as of a floor that vanishes, from spoiling the others.
        diagonal = jnp.diag(gauss_newton)
        damping = jnp.diag(state.damping * diagonal + RIDGE * diagonal.max())
        # NaN, never better, where the damped Hessian is not positive.
        factors = jnp.linalg.cholesky(jnp.stack([hessian, gauss_newton]) + damping)
        moves = jax.vmap(lambda factor: -jax.scipy.linalg.cho_solve((factor, True), gradient))(factors)
        values = jax.vmap(lambda move: value(state.parameters + move))(moves)
        values = jnp.where(jnp.isfinite(values), values, jnp.inf)
        best = jnp.argmin(values)
        better = values[best] <= state.value
        small = (-0.5 * gradient @ moves[best] <= TOLERANCE * state.value) & (state.damping < 1e-6)
        return _State(
            parameters=jnp.where(better, state.parameters + moves[best], state.parameters),
            value=jnp.where(better, values[best], state.value),
            damping=jnp.where(better, jnp.maximum(state.damping / 8, 1e-14), jnp.maximum(state.damping, 1e-9) * 8),
            steps=state.steps + 1,
            done=small | (state.damping > 1e14) | (state.value < EXACT),
        )

    def going_on(state: _State) -> Any:
        return ~state.done & (state.steps < most_steps)

    first = _State(start, value(start), jnp.asarray(1e-3), jnp.asarray(0), jnp.asarray(False))
    return jax.lax.while_loop(going_on, step, first)
