"""What a fit minimises, as values: the penalty of a residual, and whether losses are compared in logarithms.

The loss is part of the result: least squares and least absolute deviations of one data set give other exponents.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp


class Objective(NamedTuple):
    """The weighted mean of a penalty of residuals, measured - predicted.

    log: residuals of log loss instead of loss. width: Huber's delta, up to which the penalty is a parabola and beyond
    which it is a line. above: how much more a law above a measurement costs than one below.
    """

    name: str
    log: bool
    width: float
    above: float = 1.0

    @property
    def widths(self) -> tuple[float, ...]:
        """Widths of a continuation from least squares, each a third of the last, to this penalty's own."""
        stages, width = [WIDE], 0.03
        while width > 1.5 * self.width:
            stages.append(width)
            width /= 3
        return (*stages, self.width) if self.width < WIDE else (WIDE,)


WIDE = 1e6  # residuals never get there: least squares
NARROW = 1e-6  # Huber's penalty of this width is the absolute deviation to a millionth


def huber(delta: float = 1e-3, log: bool = True) -> Objective:
    """Huber's penalty (Hoffmann et al. 2022, section 3.3, with delta 1e-3 on log loss)."""
    return Objective(f"Huber({delta:g})", log, delta)


def least_absolute(log: bool = True) -> Objective:
    """Least absolute deviations: what maximum likelihood with a free scale under Huber's density tends to."""
    return Objective("least absolute deviations", log, NARROW)


def least_squares(log: bool = True) -> Objective:
    """Least squares."""
    return Objective("least squares", log, WIDE)


def asymmetric(above: float = 10.0, delta: float = NARROW, log: bool = True) -> Objective:
    """Absolute deviations that cost `above` times more where the law lies above the measurement.

    Noise makes losses higher than a law of well-trained runs, rarely lower.
    """
    return Objective(f"asymmetric({above:g})", log, delta, above)


def mean_penalty(residuals: Any, weights: Any, width: Any, above: float) -> Any:
    """Weighted mean over [P] of Huber's penalty, rescaled to the order of |r| whatever the width (r^2 where wide)."""
    size = jnp.abs(residuals)
    penalty = jnp.where(size <= width, 0.5 * size**2, width * (size - 0.5 * width)) / jnp.minimum(width, 1.0)
    return jnp.sum(weights * jnp.where(residuals < 0, above, 1.0) * penalty) / jnp.sum(weights)


def stiffness(residuals: Any, width: Any, above: float) -> Any:
    """The penalty's slope over the residual [P]: the weight that makes a parabola of it (iterated reweighting)."""
    slope = jnp.minimum(1.0, width / jnp.maximum(jnp.abs(residuals), 1e-300)) / jnp.minimum(width, 1.0)
    return jnp.where(residuals < 0, above, 1.0) * slope
