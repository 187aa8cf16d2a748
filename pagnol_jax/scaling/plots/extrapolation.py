"""What a law promises beyond its data: the loss of the compute-optimal model, fanned out by the bootstrap."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.text import Text
from matplotlib.ticker import EngFormatter

from pagnol_jax.errors import UserError
from pagnol_jax.scaling.allocate import optimum
from pagnol_jax.scaling.frontier import efficient_line, power_line
from pagnol_jax.scaling.holdout import compute_of
from pagnol_jax.scaling.labels import Label, place_labels
from pagnol_jax.scaling.parametric import LawFit
from pagnol_jax.scaling.plots.style import (
    LIGHT,
    LOSS,
    SMALL,
    Theme,
    draw_line,
    log_ticks,
    minus,
    plain_ticks,
    ramp,
    tidy,
    written,
)
from pagnol_jax.scaling.points import Points
from pagnol_jax.scaling.record import FLOP, Array, ComputeUnit

EXTRAPOLATE = 10.0  # the fan is drawn to this factor past the largest compute
BANDS = ((2.5, 97.5), (10.0, 90.0), (25.0, 75.0))  # percentiles: 95, 80 and 50 %
MOST_LABELS = 8  # sizes that can be named on the figure
FLOOR = 0.7  # the loss axis ends no lower than this share of the lowest loss drawn: a law badly told fans out to 0


def plot_extrapolation(
    fit: LawFit, output: Path, unit: ComputeUnit = FLOP, *, held_out: Points | None = None, theme: Theme = LIGHT
) -> None:
    """Writes `draw_extrapolation` to a .png, .pdf or .svg file. Raises UserError as `written` and `optimum`."""
    with written(output, theme) as figure:
        draw_extrapolation(figure.add_subplot(), fit, unit, held_out=held_out, theme=theme)


def draw_extrapolation(
    axes: Axes, fit: LawFit, unit: ComputeUnit = FLOP, *, held_out: Points | None = None, theme: Theme = LIGHT
) -> None:
    """Loss of the compute-optimal model against C = 6 N D, with bands of 50, 80 and 95 % of the bootstrap draws.

    Dots are the data, in colours of size. Rings are held-out runs; beside each a cross is what the law says of its own
    N and D, with a 95 % bar, and its error. The dashed line is the plain power law through the Pareto set of the data.
    Raises UserError for a law whose optimum has no closed form, or a fit without draws.
    """
    if not len(fit.draws):
        raise UserError("this fit has no bootstrap draws to fan out")
    sizes, compute = fit.inputs["N"], compute_of(fit)
    data = np.stack([compute / unit.flops, fit.loss], axis=1)
    held = np.empty((0, 2)) if held_out is None else np.stack(held_out[2:4], axis=1) / (unit.flops, 1)
    spots = np.concatenate([data, held])
    x = np.geomspace(spots[:, 0].min() / 1.5, EXTRAPOLATE * spots[:, 0].max(), 100)
    best = np.stack([x, optimum(fit.law, fit.parameters, x * unit.flops).loss], axis=1)
    power = np.stack([x, power_line(_power_law(compute, fit.loss), x * unit.flops)], axis=1)
    fan = optimum(fit.law, fit.draws[:, None], x * unit.flops).loss  # [R, P]
    _set_axes(axes, np.concatenate([spots, best, power]), np.nanpercentile(fan[:, -1], BANDS[0][0]), unit)
    for band in BANDS:
        axes.fill_between(x, *np.nanpercentile(fan, band, axis=0), color=theme.law, alpha=0.14, linewidth=0, zorder=1)
    draw_line(axes, best, (data[:, 0].min(), data[:, 0].max()), theme.law)
    axes.plot(*power.T, color=theme.ink, linewidth=0.8, dashes=(4, 2.5), zorder=3)
    axes.scatter(
        data[:, 0], data[:, 1], s=12, color=ramp(sizes, theme), edgecolor=theme.ground, linewidth=0.4, zorder=5
    )
    labels = [] if held_out is None else [_draw_held_out(axes, fit, held_out, held, theme)]
    exponent = np.polyfit(np.log(x), np.log(power[:, 1]), 1)[0]
    labels += [
        Label("compute-optimal\n50, 80, 95 %", theme.law, best[60::8]),
        Label(f"power law $C^{{\\,{exponent:.3f}}}$", theme.ink, power[-1:40:-8]),
        *_size_labels(sizes, data, theme),
    ]
    place_labels(axes, labels, [best, power], spots, [_write_law(axes, fit, theme)])


def _power_law(compute: Array, loss: Array) -> Array:
    """Line [2] through the runs that no other beats with less compute; a level one where there is one alone."""
    line = efficient_line(compute, loss)
    return np.array([np.log(loss.min()), 0.0]) if np.isnan(line).any() else line


def _draw_held_out(axes: Axes, fit: LawFit, runs: Points, measured: Array, theme: Theme) -> Label:
    """Rings, crosses and bars; returns what to write beside them, a line each: they may be too close for labels."""
    own = {"N": runs.parameters, "D": runs.tokens}
    predicted, x = fit.predict(**own), measured[:, 0]
    low, high = np.nanpercentile(fit.predict_draws(**own), BANDS[0], axis=0)
    axes.scatter(x, measured[:, 1], s=44, facecolor="none", edgecolor=theme.ink, linewidth=0.8, zorder=6)
    axes.scatter(x, predicted, s=16, marker="x", color=theme.ink, linewidth=0.8, zorder=6)
    axes.vlines(x, low, high, color=theme.ink, linewidth=0.7, zorder=5)
    texts = [
        minus(f"× {_size(size)}: {100 * (said / loss - 1):+.1f} %")
        for size, said, loss in zip(runs.parameters, predicted, runs.loss_nats_per_token, strict=True)
    ]
    ends = [np.stack([x, end], axis=1) for end in (np.maximum(high, measured[:, 1]), np.minimum(low, measured[:, 1]))]
    return Label("\n".join(texts), theme.ink, np.concatenate(ends))


def _size_labels(sizes: Array, data: Array, theme: Theme) -> list[Label]:
    """The name of each size beside its run of most loss; none if they are too many."""
    every = np.unique(sizes)
    if every.size > MOST_LABELS:
        return []
    worst = [data[sizes == size][[data[sizes == size, 1].argmax()]] for size in every]
    return [Label(_size(size), colour, at) for size, colour, at in zip(every, ramp(every, theme), worst, strict=True)]


def _size(value: float) -> str:
    """Parameters in three digits: 190M."""
    return EngFormatter(sep="")(float(f"{value:.2g}"))


def _set_axes(axes: Axes, drawn: Array, least: float, unit: ComputeUnit) -> None:
    low, high = drawn.min(0), drawn.max(0)
    bottom = max(0.98 * min(least, low[1]), FLOOR * low[1])
    axes.set(xscale="log", yscale="log", xlim=(low[0], high[0]), ylim=(bottom, 1.03 * high[1]))
    axes.set(xlabel=f"Compute ({unit.name}, $C = 6\\,N D$)", ylabel=LOSS)
    log_ticks(axes.xaxis)
    plain_ticks(axes.yaxis)
    tidy(axes)


def _write_law(axes: Axes, fit: LawFit, theme: Theme) -> Text:
    """The law and its constants, with 95 % intervals, in the upper right corner, which falling losses leave free."""
    lines = [f"{name} = {value:.3g}".replace("e+0", "e") for name, value in fit.constants.items()]
    text = "\n".join([f"{fit.law.formula}, {fit.objective.name}", *lines]).replace("alpha", "α").replace("beta", "β")
    return axes.text(
        0.99, 0.98, text, transform=axes.transAxes, ha="right", va="top", color=theme.law, fontsize=SMALL,
        linespacing=1.4,
    )  # fmt: skip
