"""The small ladder of runs that pins a law down best for a given compute: optimal experimental design.

With independent noise of std s on log loss, least squares on runs of Jacobian J = d log L / d parameters [n, K] has
covariance s^2 (J'J)^-1, and a quantity of gradient g the standard error s sqrt(g' (J'J)^-1 g) (the delta method). The
design that minimises it is c-optimal (Atkinson, Donev and Tobias 2007, Optimum Experimental Designs, section 10.6); it
is optimal for the law that it is computed with, so it wants a law that is roughly right.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from pagnol_jax.errors import UserError
from pagnol_jax.scaling.allocate import exponents, optimum
from pagnol_jax.scaling.exchange import exchange
from pagnol_jax.scaling.laws import Law
from pagnol_jax.scaling.record import Array

RUNS = 10
DECADES = 2.0  # of compute, from the smallest run allowed to the largest
LARGEST_SHARE = 0.5  # of the ladder's compute, in one run
RATIOS = np.geomspace(5, 320, 13)  # tokens per parameter, where laws are commonly fitted: .25 to 16 times 20
ROW_SPACE = 1e-9  # relative part of a gradient outside what the runs tell, beyond which they do not tell it


class Design(NamedTuple):
    """Runs of a ladder: parameters N and tokens D [n]."""

    parameters: Array
    tokens: Array

    @property
    def compute_flops(self) -> Array:
        """6 N D of each run [n]."""
        return 6 * self.parameters * self.tokens

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> Design:
        """The runs of the given rows."""
        return Design(self.parameters[rows], self.tokens[rows])


class Precision(NamedTuple):
    """Predicted standard errors: of log L* and log N* at the target compute, and of a. Infinite where undetermined."""

    log_loss: float
    log_parameters: float
    exponent: float


class Ladder(NamedTuple):
    """A designed ladder, what it will tell about the target compute, and what as many runs along the optimum would."""

    design: Design
    precision: Precision
    usual: Precision


class _Problem(NamedTuple):
    """A law at its constants: Jacobian [n, K] of log loss at runs, and the gradients [3, K] of `Precision`."""

    jacobian: Callable[[Design], Array]
    gradients: Array


def _problem(law: Law, parameters: Array, target_flops: float) -> _Problem:
    best = optimum(law, parameters, target_flops)

    def log_loss(theta: Any, design: Any) -> Any:
        return jnp.log(law.predict(theta, {"N": design.parameters, "D": design.tokens}))

    def jacobian(design: Design) -> Array:
        with jax.enable_x64(True):
            runs = jax.tree.map(lambda column: jnp.atleast_1d(jnp.asarray(column, jnp.float64)), design)
            return np.asarray(jax.jacfwd(log_loss)(jnp.asarray(parameters, jnp.float64), runs))

    # The optimum moves with the constants, but to first order its loss does not.
    of_loss = jacobian(Design(best.parameters, best.tokens))[0]
    steps = 1e-6 * np.eye(parameters.size)
    either = np.stack([parameters + steps, parameters - steps])  # [2, K, K]
    sizes = np.log(optimum(law, either, target_flops).parameters)
    shares = exponents(law, either)[0]
    central = [(values[0] - values[1]) / 2e-6 for values in (sizes, shares)]
    return _Problem(jacobian, np.stack([of_loss, *central]))


def predicted_precision(law: Law, parameters: Array, design: Design, target_flops: float, noise: float) -> Precision:
    """What a least-squares fit to the runs will know.

    Args:
      law, parameters: CHINCHILLA or CHINCHILLA_TIED, at constants [K] that are about right.
      target_flops: 6 N D at which loss and N* are wanted.
      noise: std of log loss from run to run.
    """
    problem = _problem(law, parameters, target_flops)
    _, s, v = np.linalg.svd(problem.jacobian(design), full_matrices=False)
    known = s > ROW_SPACE * s[0]
    projected = problem.gradients @ v[known].T  # [3, known]
    outside = np.linalg.norm(problem.gradients - projected @ v[known], axis=1)
    told = outside <= ROW_SPACE * np.linalg.norm(problem.gradients, axis=1)
    errors = noise * np.linalg.norm(projected / s[known], axis=1)
    return Precision(*np.where(told, errors, np.inf).tolist())


def along_optimum(law: Law, parameters: Array, share_flops: float, runs: int = RUNS) -> Design:
    """The usual ladder, for comparison: compute-optimal runs equally spaced in log compute, over as many decades.

    On it the two falling terms are proportional, so that it cannot tell a law's exponents apart.
    """
    spaced = np.geomspace(10**-DECADES, 1, runs)
    best = optimum(law, parameters, share_flops * spaced / spaced.sum())
    return Design(best.parameters, best.tokens)


def candidates(sizes: Sequence[float], share_flops: float) -> Design:
    """Runs [m] of the sizes at 5 to 320 tokens per parameter, over two decades of compute up to half of the share."""
    size, ratio = (axis.ravel() for axis in np.meshgrid(np.asarray(sizes, np.float64), RATIOS))
    pool = Design(size, ratio * size)
    largest = LARGEST_SHARE * share_flops
    return pool.take((pool.compute_flops <= largest) & (pool.compute_flops >= largest / 10**DECADES))


def design_ladder(
    law: Law,
    parameters: Array,
    target_flops: float,
    share_flops: float,
    sizes: Sequence[float],
    runs: int = RUNS,
    starts: int = 16,
    seed: int = 0,
) -> Design:
    """The runs that tell loss and size at the target best: least product of the errors of log L* and log N*.

    Runs are exchanged for better candidates, one by one, until no exchange helps; the best of several random starts.

    Args:
      law, parameters, target_flops: as in `predicted_precision`.
      share_flops: the compute of all runs together, at most.
      sizes: N that can be had; D is on a grid, see `candidates`.
      runs: how many, all different.
      starts, seed: of the search.

    Raises:
      UserError: sizes that leave too few runs to choose from.
    """
    pool = candidates(sizes, share_flops)
    cost = pool.compute_flops / share_flops
    if cost.size <= runs or np.sort(cost)[:runs].sum() > 1:  # the cheapest ones are where the search starts
        raise UserError(
            f"the sizes at hand give {cost.size} candidates for a ladder of {runs} runs in {share_flops:.3g} FLOP: "
            "give the ladder another share of the budget"
        )
    problem = _problem(law, parameters, target_flops)
    best = exchange(problem.jacobian(pool), problem.gradients[:2], cost, runs, starts, seed)
    return pool.take(best[np.lexsort((pool.tokens[best], pool.parameters[best]))])


def make_ladder(
    law: Law, parameters: Array, target_flops: float, share_flops: float, sizes: Sequence[float], noise: float
) -> Ladder:
    """The best ladder of a compute share, held against the usual one: arguments as above."""
    design = design_ladder(law, parameters, target_flops, share_flops, sizes)
    usual = along_optimum(law, parameters, share_flops)
    told = [predicted_precision(law, parameters, each, target_flops, noise) for each in (design, usual)]
    return Ladder(design, *told)
