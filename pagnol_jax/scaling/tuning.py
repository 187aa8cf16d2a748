"""Sweeps of learning rate or batch size, cell by cell: where the optimum lies and how wide it is. Float64 throughout.

A cell is one model size N trained on one number of tokens D, at several values of a hyperparameter. Its
near-optimal trials lie within .25 % of its least loss (DeepSeek LLM, arXiv 2401.02954, section 3.1).
`tuning_laws` fits laws to cells.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.interpolate import PchipInterpolator

from pagnol_jax.errors import UserError
from pagnol_jax.scaling.points import final_points
from pagnol_jax.scaling.record import Array, RunRecord, check_comparable

NEAR = 0.0025  # relative excess of loss that still counts as optimal
SAME_TOKENS = 0.005  # relative; a batch sweep rounds D to whole steps, which moves the loss by less than NEAR
HYPERPARAMETERS: dict[str, Callable[[RunRecord], float | None]] = {
    "learning_rate": lambda run: run.learning_rate,
    "batch_tokens": lambda run: run.batch_tokens,
}


class Trials(NamedTuple):
    """Runs of sweeps: `of` is the swept hyperparameter, the rest are arrays [T] with loss in nats per token."""

    of: str
    value: Array
    parameters: Array
    tokens: Array
    loss_nats_per_token: Array


class Cell(NamedTuple):
    """The trials [T] of one model size and one number of tokens, in order of value."""

    parameters: float
    tokens: float
    value: Array
    loss_nats_per_token: Array

    @property
    def profile(self) -> tuple[Array, Array]:
        """Distinct values [V], ascending, and the least loss at each: other hyperparameters at their best."""
        values, first = np.unique(self.value, return_index=True)
        return values, np.minimum.reduceat(self.loss_nats_per_token, first)

    @property
    def best(self) -> float:
        """Value of the trial of least loss."""
        return float(self.value[np.argmin(self.loss_nats_per_token)])

    @property
    def near(self) -> NDArray[np.bool_]:
        """Which trials [T] are near-optimal."""
        return self.loss_nats_per_token <= (1 + NEAR) * self.loss_nats_per_token.min()

    @property
    def optimum(self) -> float:
        """Vertex of the parabola in log value through the near-optimal values, clipped to the swept range.

        Fewer than three of them are made up to three with the neighbours of the best. The best trial where the
        parabola does not open upwards.
        """
        values, loss = self.profile
        rows = np.flatnonzero(loss <= (1 + NEAR) * loss.min())
        if rows.size < 3:
            rows = np.argsort(np.abs(np.arange(loss.size) - np.argmin(loss)), kind="stable")[:3]
        if rows.size < 3:
            return self.best
        x = np.log(values / self.best)
        curvature, slope, _ = np.polyfit(x[rows], loss[rows], 2)
        if curvature <= 0:
            return self.best
        return float(self.best * np.exp(np.clip(-slope / (2 * curvature), x[0], x[-1])))

    @property
    def interior(self) -> bool:
        """Whether both the best trial and the optimum lie inside the swept range, not at a border."""
        low, high = self.value[0], self.value[-1]
        return bool(low < self.best < high and low < self.optimum < high)

    @property
    def width(self) -> tuple[float, float]:
        """Range of values around the best trial whose interpolated loss is near-optimal, ending with the sweep."""
        curve = self._curve()
        crossings = curve.solve((1 + NEAR) * self.loss_nats_per_token.min(), extrapolate=False)
        x = np.log(self.best)
        low = max(crossings[crossings < x], default=curve.x[0])
        high = min(crossings[crossings > x], default=curve.x[-1])
        return float(np.exp(low)), float(np.exp(high))

    @property
    def penalty(self) -> Array:
        """Relative excess of loss at half and at twice the optimum [2]; NaN where that was not swept."""
        return self.excess(self.optimum * np.array([0.5, 2]))

    def excess(self, value: ArrayLike) -> Array:
        """Relative excess of the interpolated loss over the best trial's at values [...]; NaN outside the sweep."""
        return self._curve()(np.log(value)) / self.loss_nats_per_token.min() - 1

    def _curve(self) -> PchipInterpolator:
        """Loss over log value, monotone between trials, so nowhere below what was measured."""
        values, loss = self.profile
        return PchipInterpolator(np.log(values), loss, extrapolate=False)


def trials(runs: Sequence[RunRecord], of: str = "learning_rate") -> Trials:
    """Last checkpoints of comparable runs as trials of a hyperparameter, a key of `HYPERPARAMETERS`.

    N is the non-embedding size where all runs state it, else the total. Raises UserError where runs do not compare
    or one does not state the hyperparameter, its size or its tokens.
    """
    if of not in HYPERPARAMETERS:
        raise UserError(f"no law of {of!r}: choose from {', '.join(HYPERPARAMETERS)}")
    if not runs:
        raise UserError(f"no run: a law of {of} needs sweeps of several sizes or numbers of tokens")
    check_comparable(runs)
    points = final_points(runs)
    non_embedding = all(run.parameters_non_embedding for run in runs)
    sizes = [run.parameters_non_embedding if non_embedding else run.parameters for run in runs]
    values = [HYPERPARAMETERS[of](run) for run in runs]
    for run, value, size, tokens in zip(runs, values, sizes, points.tokens, strict=True):
        if value is None or size is None or np.isnan(tokens):
            missing = of if value is None else "parameters" if size is None else "tokens"
            raise UserError(f"run {run.name!r} does not state its {missing}, which a law of {of} needs")
    columns = np.array([values, sizes], np.float64)
    return Trials(of, columns[0], columns[1], points.tokens, points.loss_nats_per_token)


def cells(trials: Trials) -> list[Cell]:
    """The cells of trials, by size and then tokens; tokens that differ by less than .5 % are the same.

    Raises UserError where a number is not finite and positive, or a cell has one value or one loss.
    """
    value, size, tokens, loss = columns = [np.asarray(column, np.float64) for column in trials[1:]]
    if not value.size:
        raise UserError(f"no trial: a law of {trials.of} needs sweeps of several sizes or numbers of tokens")
    for what, column in zip((trials.of, "model size", "number of tokens", "loss"), columns, strict=True):
        bad = column[~(np.isfinite(column) & (column > 0))]
        if bad.size:
            raise UserError(f"a trial has a {what} of {bad[0]:g}: it must be finite and positive")
    order = np.lexsort((value, tokens, size))
    gaps = np.abs(np.diff(np.log([size[order], tokens[order]])))  # [2, T - 1]
    starts = np.flatnonzero((gaps[0] > 0) | (gaps[1] > SAME_TOKENS)) + 1
    found = []
    for rows in np.split(order, starts):
        ascending = rows[np.argsort(value[rows], kind="stable")]
        cell = Cell(float(size[rows[0]]), float(np.median(tokens[rows])), value[ascending], loss[ascending])
        for what, column in ((trials.of, cell.value), ("loss", cell.loss_nats_per_token)):
            if np.ptp(column) == 0:
                raise UserError(f"the {rows.size} trials {_at(cell)} have one {what}, {column[0]:g}: that is no sweep")
        found.append(cell)
    return found


def _at(cell: Cell) -> str:
    return f"at N {cell.parameters:.3g}, D {cell.tokens:.3g}"
