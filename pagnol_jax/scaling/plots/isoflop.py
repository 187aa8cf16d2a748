"""Approach 2: the valleys of loss against size, a curve per compute budget, and the size at their bottoms."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from scipy.interpolate import Akima1DInterpolator
from scipy.stats import t as student

from pagnol_jax.scaling.isoflop import IsoflopFit
from pagnol_jax.scaling.labels import Label, place_labels
from pagnol_jax.scaling.plots.style import (
    LIGHT,
    LOSS,
    Colour,
    Theme,
    draw_line,
    interval_text,
    log_ticks,
    plain_ticks,
    ramp,
    scientific,
    tidy,
    written,
)
from pagnol_jax.scaling.record import FLOP, Array, ComputeUnit
from pagnol_jax.scaling.valleys import Minimum, Valley, akima, parabola

HEIGHT = 6.0  # inches
EXTRAPOLATE = 3.0  # the law is drawn to this factor past the budgets
ROOM = 0.2  # share of the size axis added on the right, for the budgets' labels
MOST_LABELS = 6
HEADROOM = 1.3  # the loss axis ends here, times the least loss of the smallest budget: walls say little


def plot_isoflop(
    fit: IsoflopFit, output: Path, unit: ComputeUnit = FLOP, *, minimum: Minimum = akima, theme: Theme = LIGHT
) -> None:
    """Writes the valleys and, below, their minima against compute, in `unit`, to a .png, .pdf or .svg file.

    `minimum` is the one that `fit` was made with. Raises UserError for another kind of file, or one that cannot be
    written.
    """
    with written(output, theme, HEIGHT) as figure:
        above, below = figure.subplots(2, 1, height_ratios=(1.4, 1))
        draw_valleys(above, fit, unit, minimum=minimum, theme=theme)
        draw_best_sizes(below, fit, unit, theme=theme)


def draw_valleys(
    axes: Axes, fit: IsoflopFit, unit: ComputeUnit = FLOP, *, minimum: Minimum = akima, theme: Theme = LIGHT
) -> None:
    """Losses measured, the curve through them, and its minimum with the 95 % interval of N*; hollow if not trusted."""
    colours = ramp(fit.compute_flops, theme)
    curves = [_curve(valley, minimum) for valley in fit.valleys]
    _set_axes(axes, curves)
    for valley, curve, colour in zip(fit.valleys, curves, colours, strict=True):
        axes.plot(*curve.T, color=colour, linewidth=0.9)
        axes.scatter(valley.parameters, valley.loss_nats_per_token, s=7, color=colour, linewidth=0, zorder=4)
    good = fit.trusted
    low, high = _size_interval(fit)
    axes.hlines(fit.loss_nats_per_token[good], low[good], high[good], color=theme.law, linewidth=1.2, zorder=5)
    for flags, face in ((good, theme.law), (~good, theme.ground)):
        axes.scatter(
            fit.parameters[flags], fit.loss_nats_per_token[flags], s=18, marker="D", facecolor=face,
            edgecolor=theme.law if face == theme.ground else theme.ground, linewidth=0.7, zorder=6,
        )  # fmt: skip
    _write_budgets(axes, fit, curves, unit, colours)


def draw_best_sizes(axes: Axes, fit: IsoflopFit, unit: ComputeUnit = FLOP, *, theme: Theme = LIGHT) -> None:
    """N* against compute with 95 % intervals (medians of the noise replicas), and the law through those trusted."""
    compute, sizes, good = fit.compute_flops / unit.flops, fit.parameters_median, fit.trusted
    x = np.geomspace(compute[0] / 1.5, compute[-1] * EXTRAPOLATE, 100)
    line = fit.law.sizes(x * unit.flops)
    axes.set(xscale="log", yscale="log", xlabel=f"Compute ({unit.name})", ylabel="Optimal size (parameters)")
    axes.fill_between(x, *fit.law.band(x * unit.flops), color=theme.law, alpha=0.15, linewidth=0, zorder=1)
    draw_line(axes, np.stack([x, line], axis=1), (compute[good][0], compute[good][-1]), theme.law)
    colours = np.array(ramp(compute, theme), dtype=object)
    low, high = _size_interval(fit)
    axes.vlines(compute[good], low[good], high[good], colors=list(colours[good]), linewidth=1)
    axes.scatter(compute[good], sizes[good], s=16, color=list(colours[good]), edgecolor=theme.ground, lw=0.6, zorder=5)
    axes.scatter(compute[~good], sizes[~good], s=14, facecolor="none", edgecolor=list(colours[~good]), lw=0.7, zorder=5)
    axes.set_xlim(x[0], x[-1])
    log_ticks(axes.xaxis)
    log_ticks(axes.yaxis, counts=True)
    tidy(axes)
    text = (
        f"$N^* = {scientific(fit.law.coefficient * unit.flops**fit.law.exponent).strip('$')}\\;"
        f"C^{{\\,{fit.law.exponent:.3f}}}$\nexponent 95 % {interval_text(fit.law.exponent_interval, '.3f')}"
    )
    axes.text(0.02, 0.97, text, transform=axes.transAxes, ha="left", va="top", color=theme.law, linespacing=1.6)


def _size_interval(fit: IsoflopFit) -> Array:
    """95 % interval of N* [2, V]."""
    reach = student.ppf(0.975, fit.law.degrees_of_freedom) * fit.log_std
    return fit.parameters_median * np.exp(np.array([[-1.0], [1.0]]) * reach)


def _curve(valley: Valley, minimum: Minimum) -> Array:
    """The curve [G, 2] whose lowest point is the minimum: loss against size."""
    x, y = np.log(valley.parameters), np.log(valley.loss_nats_per_token)
    grid = np.linspace(x[0], x[-1], 200)
    through = np.polynomial.Polynomial.fit(x, y, 2) if minimum is parabola else Akima1DInterpolator(x, y)
    return np.exp(np.stack([grid, through(grid)], axis=1))


def _write_budgets(
    axes: Axes, fit: IsoflopFit, curves: Sequence[Array], unit: ComputeUnit, colours: Sequence[Colour]
) -> None:
    """Some budgets at the ends of their curves; the colours of the others lie between, and along `draw_best_sizes`."""
    shown = [curve[curve[:, 1] <= axes.get_ylim()[1]] for curve in curves]
    last, labels = len(shown) - 1, []
    for index in np.unique(np.linspace(0, last, min(last + 1, MOST_LABELS)).round().astype(int)):
        text = f"{fit.compute_flops[index] / unit.flops:.2g}".replace("e+", "e")
        labels.append(Label(text if index else f"{text} {unit.name}", colours[index], shown[index][[-1, -6, -12]]))
    minima = np.stack([fit.parameters, fit.loss_nats_per_token], axis=1)[fit.trusted]
    place_labels(axes, labels, shown, minima, [])


def _set_axes(axes: Axes, curves: Sequence[Array]) -> None:
    low, high = (bound(np.concatenate(curves), axis=0) for bound in (np.min, np.max))
    right = high[0] * (high[0] / low[0]) ** ROOM
    top = min(high[1] * 1.02, HEADROOM * max(curve[:, 1].min() for curve in curves))
    axes.set(xscale="log", yscale="log", xlabel="Parameters", ylabel=LOSS)
    axes.set(xlim=(low[0] / 1.3, right), ylim=(low[1] / 1.03, top))
    log_ticks(axes.xaxis, counts=True)
    plain_ticks(axes.yaxis)
    tidy(axes)
