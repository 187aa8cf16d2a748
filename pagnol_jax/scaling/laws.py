"""Scaling laws as values."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from pagnol_jax.scaling.record import Array, ComputeUnit


class Law(NamedTuple):
    """A family of curves: the names of its parameters and the loss that they predict.

    `predict(parameters [..., K], compute_flops [...])` is the loss in nats per token, float64; leading axes
    broadcast, so one call predicts for every draw of a bootstrap.
    """

    formula: str
    parameters: tuple[str, ...]
    predict: Callable[[Array, Array], Array]
    source: str


def _power(parameters: Array, compute_flops: Array) -> Array:
    log_prefactor, exponent = np.moveaxis(np.asarray(parameters, np.float64), -1, 0)
    return np.exp(log_prefactor + exponent * np.log(compute_flops))


POWER = Law(
    formula="L = A * C^alpha",
    parameters=("log_prefactor", "exponent"),
    predict=_power,
    source="Launay et al. 2022 (arXiv 2110.08554), Figure 1; Kaplan et al. 2020, eq. 1.3",
)


def prefactor(parameters: Array, unit: ComputeUnit) -> Array:
    """Prefactor A of `POWER` in nats per token [...]: the loss at one `unit` of compute."""
    return _power(parameters, np.asarray(unit.flops))
