"""Groups of runs, French and English say, or training rules, with the frontier of each and its band."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from pagnol_jax.errors import UserError
from pagnol_jax.scaling.compare import Comparison, LawDifference
from pagnol_jax.scaling.estimate import PERCENTILES
from pagnol_jax.scaling.group_frontiers import Frontier, Group, least_loss
from pagnol_jax.scaling.plots.style import (
    LIGHT,
    SMALL,
    Colour,
    Theme,
    draw_line,
    interval_text,
    log_ticks,
    minus,
    plain_ticks,
    series,
    tidy,
    write_table,
    written,
)
from pagnol_jax.scaling.record import PF_DAY, Array, ComputeUnit

EXTRAPOLATE = 3.0  # laws are drawn to this factor past the largest compute
HEADROOM = 1.2  # the loss axis ends here, times the worst last checkpoint: above are the first steps


def plot_comparison(
    comparison: Comparison,
    output: Path,
    unit: ComputeUnit = PF_DAY,
    *,
    others: Sequence[Comparison] = (),
    law: str | None = None,
    loss_unit: str | None = None,
    theme: Theme = LIGHT,
) -> None:
    """Writes `draw_comparison` to a .png, .pdf or .svg file.

    Raises UserError for another kind of file, one that cannot be written, and as `draw_comparison`.
    """
    with written(output, theme) as figure:
        draw_comparison(
            figure.add_subplot(), comparison, unit, others=others, law=law, loss_unit=loss_unit, theme=theme
        )


def draw_comparison(
    axes: Axes,
    comparison: Comparison,
    unit: ComputeUnit = PF_DAY,
    *,
    others: Sequence[Comparison] = (),
    law: str | None = None,
    loss_unit: str | None = None,
    theme: Theme = LIGHT,
) -> None:
    """Curves, last checkpoints and the frontier of each group with its 95 % band, dotted beyond the data.

    Args:
      axes: to draw on.
      comparison: of two groups.
      unit: of compute.
      others: of the same first group with further ones, whose second groups are drawn too.
      law: one that the groups have, by default the one that predicts held-out runs best.
      loss_unit: one of `comparison.units`, the first by default.
      theme: of colours.

    Raises:
      UserError: a law or a unit that the comparison lacks.
    """
    loss_unit = loss_unit or comparison.units[0].unit
    found = _law(comparison, loss_unit, law)
    further = [_law(other, loss_unit, found.law).frontiers[1] for other in others]
    groups = [*comparison.groups, *(other.groups[1] for other in others)]
    factors = [group.factor(loss_unit) for group in groups]
    points = [_points(group, unit, factor) for group, factor in zip(groups, factors, strict=True)]
    _set_axes(axes, np.concatenate(points), unit, loss_unit)
    rows, colours = [("", "", "exponent", "95 %")], [theme.ink]
    for group, frontier, factor, spots, (colour, marker, glyph) in zip(
        groups, (*found.frontiers, *further), factors, points, series(len(groups), theme), strict=True
    ):
        for run in group.runs:
            x, y = run.curve.compute_flops / unit.flops, factor * run.curve.loss_nats_per_token
            axes.plot(x, y, color=colour, linewidth=0.5, alpha=0.6, zorder=2)
        axes.scatter(
            spots[:, 0], spots[:, 1], s=16, marker=marker, color=colour, edgecolor=theme.ground, linewidth=0.6, zorder=5
        )
        _draw_frontier(axes, frontier, spots, unit, colour)
        rows.append((glyph, group.name, *_exponent(frontier)))
        colours.append(colour)
    axes.set_title(found.law, loc="left", fontsize=SMALL)
    write_table(axes, rows, colours, "upper right", (0.99, 0.99))


def _law(comparison: Comparison, loss_unit: str, law: str | None) -> LawDifference:
    losses = {one.unit: one for one in comparison.units}
    if loss_unit not in losses:
        raise UserError(f"these groups do not compare in {loss_unit}, only in {', '.join(losses)}")
    laws = {one.law: one for one in losses[loss_unit].laws}
    if law is not None and law not in laws:
        raise UserError(f"these groups do not share the law {law!r}: there are {', '.join(laws)}")
    return laws[law] if law else losses[loss_unit].judge


def _points(group: Group, unit: ComputeUnit, factor: float) -> Array:
    """Compute and loss of the last checkpoints [P, 2]."""
    return np.stack([group.points.compute_flops / unit.flops, factor * group.points.loss_nats_per_token], axis=1)


def _draw_frontier(axes: Axes, frontier: Frontier, spots: Array, unit: ComputeUnit, colour: Colour) -> None:
    x = np.geomspace(*axes.get_xlim(), 100)
    line = least_loss(frontier.parameters, x * unit.flops)
    draws = frontier.draws[np.isfinite(frontier.draws).all(1)]
    if len(draws):
        band = np.percentile(least_loss(draws[:, None], x * unit.flops), PERCENTILES, axis=0)
        axes.fill_between(x, *band, color=colour, alpha=0.15, linewidth=0, zorder=1)
    draw_line(axes, np.stack([x, line], axis=1), (spots[:, 0].min(), spots[:, 0].max()), colour)


def _exponent(frontier: Frontier) -> tuple[str, str]:
    """The exponent of the reducible loss and its 95 % interval."""
    value, low, high, _ = frontier.exponent
    return minus(f"{value:.4f}"), interval_text((low, high), ".4f") if np.isfinite(low) else "none"


def _set_axes(axes: Axes, points: Array, unit: ComputeUnit, loss_unit: str) -> None:
    low, high = points.min(0), points.max(0)
    axes.set(xscale="log", yscale="log", xlim=(low[0] / 1.5, EXTRAPOLATE * high[0]))
    axes.set_ylim(low[1] * (low[1] / high[1]) ** 0.3, HEADROOM * high[1])
    axes.set(xlabel=f"Compute ({unit.name})", ylabel=f"Validation loss ({loss_unit})")
    log_ticks(axes.xaxis)
    plain_ticks(axes.yaxis)
    tidy(axes)
