"""Which checkpoints of which runs enter a fit. A choice is a value: a function from runs to points."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pagnol_jax.errors import UserError
from pagnol_jax.scaling.frontier import pareto_set
from pagnol_jax.scaling.record import Array, ComputeUnit, RunRecord


class Points(NamedTuple):
    """Chosen checkpoints [K]: the run each belongs to (an index), its tokens, compute, loss and size.

    `parameters` is the N of the run's compute convention. Tokens and parameters are NaN where unknown.
    """

    run: NDArray[np.intp]
    tokens: Array
    compute_flops: Array
    loss_nats_per_token: Array
    parameters: Array

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> Points:
        """The points of the given rows, which may repeat."""
        run, *columns = self
        return Points(run[rows], *(column[rows] for column in columns))


Chooser = Callable[[Sequence[RunRecord]], Points]


def every_point(runs: Sequence[RunRecord]) -> Points:
    """All checkpoints of all runs."""
    index = np.repeat(np.arange(len(runs)), [run.curve.tokens.size for run in runs])
    sizes = np.array([run.counted_parameters or np.nan for run in runs])
    return Points(
        run=index,
        tokens=np.concatenate([run.known_tokens for run in runs]),
        compute_flops=np.concatenate([run.curve.compute_flops for run in runs]),
        loss_nats_per_token=np.concatenate([run.curve.loss_nats_per_token for run in runs]),
        parameters=sizes[index],
    )


def final_points(runs: Sequence[RunRecord]) -> Points:
    """The last checkpoint of every run: the annealed one of a run that is done."""
    points = every_point(runs)
    return points.take(np.append(np.diff(points.run) > 0, True))


def pareto_points(runs: Sequence[RunRecord]) -> Points:
    """The efficient frontier: the checkpoints that no other beats with less compute."""
    points = every_point(runs)
    return points.take(pareto_set(points.compute_flops, points.loss_nats_per_token))


def points_at(computes: Sequence[float], unit: ComputeUnit) -> Chooser:
    """A chooser: at each compute (in `unit`), the run of least loss there gives its nearest checkpoint.

    The loss of a run between two checkpoints is interpolated in log compute. The chooser raises UserError
    where no run reaches a compute to 1 %.
    """

    def choose(runs: Sequence[RunRecord]) -> Points:
        points = every_point(runs)
        return points.take(np.unique([_frontier_row(runs, points, value, unit) for value in computes]))

    return choose


def _frontier_row(runs: Sequence[RunRecord], points: Points, compute: float, unit: ComputeUnit) -> int:
    log_compute = np.log(compute * unit.flops)
    losses = [_loss_at(run, log_compute) for run in runs]
    if not np.isfinite(min(losses)):
        raise UserError(f"no run has a checkpoint around {compute:g} {unit.name}")
    rows = np.flatnonzero(points.run == int(np.argmin(losses)))
    return int(rows[np.argmin(np.abs(np.log(points.compute_flops[rows]) - log_compute))])


def _loss_at(run: RunRecord, log_compute: float) -> float:
    """Loss interpolated in log compute; infinite more than 1 % outside the curve."""
    x = np.log(run.curve.compute_flops)
    if not x[0] - 0.01 <= log_compute <= x[-1] + 0.01:
        return float("inf")
    return float(np.interp(log_compute, x, run.curve.loss_nats_per_token))
