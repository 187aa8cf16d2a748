"""Damped Newton steps for many small problems at once: every start of a fit, every draw of a bootstrap.

Derivatives are exact (forward over reverse) and float64. SciPy's L-BFGS-B with its defaults stops early on objectives
of the size of scaling-law residuals (Besiroglu et al. 2024, arXiv 2404.10102); here a problem is done when a whole
Newton step would change its objective by less than a part in 1e10, or no step changes it at all.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from pagnol_jax.scaling.record import Array

Value = Callable[..., Any]  # (parameters [K], width=[], data=(data of the problem, shared)) -> []
TOLERANCE = 1e-10
MOST_STEPS = 200
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


def minimise(value: Value, starts: Array, widths: tuple[float, ...], data: Array, shared: Any) -> Solutions:
    """Minimises value(parameters, width, (data of the problem, shared)) for every row of starts and data [R, ...].

    widths: of a continuation; each stage sets out where the last one ended.
    """
    solve = _solver(value, widths)
    rows = np.arange(-(-len(starts) // AT_ONCE) * AT_ONCE) % len(starts)  # whole chunks: one shape to compile
    parts: list[Solutions] = []
    with jax.enable_x64(True):
        shared = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), shared)
        for chunk in rows.reshape(-1, AT_ONCE):
            parts.append(jax.tree.map(np.asarray, solve(jnp.asarray(starts[chunk]), jnp.asarray(data[chunk]), shared)))
    return jax.tree.map(lambda *columns: np.concatenate(columns)[: len(starts)], *parts)


@lru_cache(maxsize=64)
def _solver(value: Value, widths: tuple[float, ...]) -> Callable[..., Solutions]:
    def one(start: Any, data: Any, shared: Any) -> Solutions:
        parameters = start
        for width in widths:
            objective = partial(value, width=width, data=(data, shared))
            state = _descend(objective, parameters)
            parameters = state.parameters
        _, hessian = _derivatives(objective)(parameters)
        eigenvalues = jnp.linalg.eigvalsh(_finite(hessian))
        condition = jnp.where(eigenvalues[0] > 0, eigenvalues[-1] / eigenvalues[0], jnp.inf)
        return Solutions(parameters, state.value, state.done & jnp.isfinite(state.value), condition)

    return jax.jit(jax.vmap(one, in_axes=(0, 0, None)))


def _derivatives(function: Callable[[Any], Any]) -> Callable[[Any], tuple[Any, Any]]:
    gradient = jax.grad(function)
    return lambda x: (gradient(x), jax.jacfwd(gradient)(x))


def _finite(matrix: Any) -> Any:
    return jnp.where(jnp.isfinite(matrix), matrix, 0.0)


def _descend(function: Callable[[Any], Any], start: Any) -> _State:
    derivatives = _derivatives(function)

    def step(state: _State) -> _State:
        gradient, hessian = derivatives(state.parameters)
        scale = jnp.abs(jnp.diag(hessian)) + 1e-12 * state.value
        factor = jnp.linalg.cholesky(hessian + state.damping * jnp.diag(scale))
        move = -jax.scipy.linalg.cho_solve((factor, True), gradient)
        value = function(state.parameters + move)
        better = value <= state.value  # false for NaN: of an overflow, or a Hessian that is not positive
        gain = -0.5 * gradient @ move
        small = (gain <= TOLERANCE * state.value) & (state.damping < 1e-6)
        stuck = state.damping > 1e14
        return _State(
            parameters=jnp.where(better, state.parameters + move, state.parameters),
            value=jnp.where(better, value, state.value),
            damping=jnp.where(better, jnp.maximum(state.damping / 8, 1e-14), jnp.maximum(state.damping, 1e-9) * 8),
            steps=state.steps + 1,
            done=small | stuck | (state.value == 0),
        )

    def going_on(state: _State) -> Any:
        return ~state.done & (state.steps < MOST_STEPS)

    first = _State(start, function(start), jnp.asarray(1e-3), jnp.asarray(0), jnp.asarray(False))
    return jax.lax.while_loop(going_on, step, first)
