"""A number with what its bootstrap says of it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pagnol_jax.scaling.record import Array

PERCENTILES = (2.5, 97.5)


class Estimate(NamedTuple):
    """A value with its 95 % percentile interval and standard error; NaN where there are no draws."""

    value: float
    low: float
    high: float
    error: float

    @property
    def width(self) -> float:
        """Of the interval."""
        return self.high - self.low

    def __format__(self, spec: str) -> str:
        """`0.52 [0.48, 0.57]`; the value alone where there are no draws."""
        spec = spec or ".4g"
        if np.isnan(self.low):
            return format(self.value, spec)
        return f"{self.value:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"


def estimate(value: float | Array, draws: Array) -> Estimate:
    """Of a value and its bootstrap draws [R], less those that are NaN; infinite ones count: an end may be infinite."""
    known = np.asarray(draws, np.float64)
    known = known[~np.isnan(known)]
    if known.size < 2:
        return Estimate(float(value), np.nan, np.nan, np.nan)
    if np.isinf(known).any():  # between which nothing can be interpolated
        low, high = np.percentile(known, PERCENTILES, method="inverted_cdf")
        return Estimate(float(value), float(low), float(high), np.inf)
    low, high = np.percentile(known, PERCENTILES)
    return Estimate(float(value), float(low), float(high), float(known.std(ddof=1)))
