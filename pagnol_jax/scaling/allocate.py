"""How to spend compute by a law E + A / N^alpha + B / D^beta: N, D and loss of least cost, and what other sizes cost.

C = 6 N D throughout, N counted as in the law. Everything broadcasts over leading axes of the parameters, so that one
call serves all draws of a bootstrap; a draw whose exponents are not positive has no optimum and gives NaN.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from pagnol_jax.errors import UserError
from pagnol_jax.scaling.laws import CHINCHILLA, CHINCHILLA_TIED, Law, evaluate, log_scale
from pagnol_jax.scaling.record import Array

HALVINGS = 60  # of a bracket of log odds, to the last digit


class Allocation(NamedTuple):
    """A model of N parameters trained on D tokens, and its loss in nats per token, all [...]."""

    parameters: Array
    tokens: Array
    loss: Array

    @property
    def compute_flops(self) -> Array:
        """6 N D."""
        return 6 * self.parameters * self.tokens


class _Terms(NamedTuple):
    log_a: Array
    log_b: Array
    floor: Array
    alpha: Array
    beta: Array


def _terms(law: Law, parameters: ArrayLike) -> _Terms:
    if law.name not in (CHINCHILLA.name, CHINCHILLA_TIED.name):
        raise UserError(f"{law.formula} does not tell sizes and tokens apart: fit {CHINCHILLA.formula} for a plan")
    log_a, log_b, log_e, *exponents = np.moveaxis(np.asarray(parameters, np.float64), -1, 0)
    # Exponents that are not positive describe a loss that never falls.
    alpha, beta = (np.where(exponent > 0, exponent, np.nan) for exponent in (exponents * 2)[:2])
    return _Terms(log_a, log_b, np.exp(log_e), alpha, beta)


def exponents(law: Law, parameters: ArrayLike) -> tuple[Array, Array]:
    """a and b [...] of N* = G (C/6)^a, D* = (C/6)^b / G, from parameters [..., K] (Hoffmann et al. 2022, eq. 4)."""
    terms = _terms(law, parameters)
    a = terms.beta / (terms.alpha + terms.beta)
    return a, 1 - a


def optimum(law: Law, parameters: ArrayLike, compute_flops: ArrayLike) -> Allocation:
    """The least loss that compute buys (Hoffmann et al. 2022, arXiv 2203.15556, eq. 4).

    Args:
      law, parameters: CHINCHILLA or CHINCHILLA_TIED, [..., K].
      compute_flops: [...], broadcast against the leading axes.

    Raises:
      UserError: another law.
    """
    terms, (a, b) = _terms(law, parameters), exponents(law, parameters)
    log_g = log_scale(terms.log_a, terms.log_b, terms.alpha, terms.beta)
    log_product = np.log(np.asarray(compute_flops, np.float64) / 6)
    return _allocation(law, parameters, np.exp(log_g + a * log_product), np.exp(b * log_product - log_g))


def at_size(law: Law, parameters: ArrayLike, compute_flops: ArrayLike, size: ArrayLike) -> Allocation:
    """A model of another size that spends the same compute: what departing from the optimum costs in loss."""
    return _allocation(law, parameters, size, np.asarray(compute_flops) / (6 * np.asarray(size)))


def cheapest(law: Law, parameters: ArrayLike, loss: ArrayLike) -> Allocation:
    """The least compute that reaches a loss [...]: the inverse of `optimum`; NaN at or below the floor E."""
    terms, (a, b) = _terms(law, parameters), exponents(law, parameters)
    log_reducible = _log_positive(np.asarray(loss) - terms.floor)
    # At the optimum the terms are in the ratio of the other one's exponent.
    size = np.exp((terms.log_a - np.log(a) - log_reducible) / terms.alpha)
    return _allocation(law, parameters, size, np.exp((terms.log_b - np.log(b) - log_reducible) / terms.beta))


def overtrained(law: Law, parameters: ArrayLike, loss: ArrayLike, size: ArrayLike) -> Allocation:
    """A model of a given size [...] trained until it reaches a loss [...]; infinite tokens where it never does."""
    terms = _terms(law, parameters)
    with np.errstate(divide="ignore", invalid="ignore"):
        left = np.asarray(loss) - terms.floor - np.exp(terms.log_a - terms.alpha * np.log(size))
        tokens = np.exp((terms.log_b - np.log(np.where(left <= 0, 0.0, left))) / terms.beta)
    return _allocation(law, parameters, size, tokens)


def lifetime_optimum(law: Law, parameters: ArrayLike, loss: ArrayLike, inference_tokens: ArrayLike) -> Allocation:
    """The model of least compute over its life, 6 N D + 2 N T, among those that reach a loss [...].

    Sardana et al. 2024 (arXiv 2401.00448). With o the ratio of the term in N to the term in D, the derivative by
    log N vanishes where o alpha / beta = 1 + T / (3 D(o)), of which the right side falls and the left one rises in o.

    Args:
      law, parameters: as in `optimum`.
      loss: nats per token; NaN results at or below the floor.
      inference_tokens: T, served over the model's life; 0 gives `cheapest`.
    """
    terms = _terms(law, parameters)
    log_reducible = _log_positive(np.asarray(loss) - terms.floor)
    shape = np.broadcast(log_reducible, terms.alpha, np.asarray(inference_tokens)).shape
    low = np.broadcast_to(np.log(terms.beta / terms.alpha), shape)  # log o of no inference
    high = low + np.log1p(np.asarray(inference_tokens) / (3 * _tokens(terms, log_reducible, low)))
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        ratio = np.exp(middle) * terms.alpha / terms.beta
        rising = ratio > 1 + np.asarray(inference_tokens) / (3 * _tokens(terms, log_reducible, middle))
        low, high = np.where(rising, low, middle), np.where(rising, middle, high)
    size = np.exp((terms.log_a - log_reducible + np.log1p(np.exp(-low))) / terms.alpha)
    return _allocation(law, parameters, size, _tokens(terms, log_reducible, low))


def _tokens(terms: _Terms, log_reducible: Array, log_odds: Array) -> Array:
    """D whose term is 1 / (1 + o) of the reducible loss."""
    with np.errstate(invalid="ignore"):  # NaN draws
        return np.exp((terms.log_b - log_reducible + np.logaddexp(0, log_odds)) / terms.beta)


def _log_positive(values: Array) -> Array:
    return np.log(np.where(values > 0, values, np.nan))


def _allocation(law: Law, parameters: ArrayLike, size: ArrayLike, tokens: ArrayLike) -> Allocation:
    size, tokens = np.broadcast_arrays(np.asarray(size, np.float64), np.asarray(tokens, np.float64))
    return Allocation(size, tokens, evaluate(law, parameters, N=size, D=tokens))
