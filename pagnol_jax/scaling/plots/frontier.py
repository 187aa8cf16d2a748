"""The figure of a frontier fit: loss curves, points, law, band, hold-out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.text import Text

from pagnol_jax.scaling.fit import FrontierFit, HoldOut
from pagnol_jax.scaling.frontier import power_line
from pagnol_jax.scaling.labels import Label, place_labels
from pagnol_jax.scaling.plots.style import (
    LIGHT,
    LOSS,
    Colour,
    Theme,
    draw_line,
    interval_text,
    log_ticks,
    minus,
    plain_ticks,
    ramp,
    tidy,
    written,
)
from pagnol_jax.scaling.record import Array, ComputeUnit, RunRecord

HEADROOM = 1.45  # the loss axis ends here, times the worst point in the fit: above are the first steps
FOOTROOM = 0.17  # share of the loss axis added below the least loss, for what is said of the held-out run
EXTRAPOLATE = 3.0  # the law is drawn to this factor past the largest compute
MOST_LABELS = 16  # runs that can be named on the figure


def plot_frontier(
    fit: FrontierFit,
    runs: Sequence[RunRecord],
    output: Path,
    unit: ComputeUnit,
    *,
    reference: RunRecord | None = None,
    theme: Theme = LIGHT,
) -> None:
    """Writes the figure of a fit to `output`, a .png, .pdf or .svg file; compute is drawn in `unit`.

    `reference` is drawn as a dashed line beside the law. Raises UserError for another kind of file, or one
    that cannot be written.
    """
    with written(output, theme) as figure:
        draw_frontier(figure.add_subplot(), fit, runs, unit, reference=reference, theme=theme)


def draw_frontier(
    axes: Axes,
    fit: FrontierFit,
    runs: Sequence[RunRecord],
    unit: ComputeUnit,
    *,
    reference: RunRecord | None = None,
    theme: Theme = LIGHT,
) -> None:
    """Draws what `plot_frontier` writes on existing axes."""
    colours = _colours(runs, theme)
    curves = [_xy(run, unit) for run in runs]
    points = np.stack([fit.points.compute_flops / unit.flops, fit.points.loss_nats_per_token], axis=1)
    spots = points
    if fit.hold_out is not None:
        predicted = [fit.hold_out.compute_flops / unit.flops, fit.hold_out.predicted]
        spots = np.concatenate([points, [predicted]])
    _set_axes(axes, curves, spots, unit, runs[0])
    for curve, colour in zip(curves, colours, strict=True):
        axes.plot(*curve.T, color=colour, linewidth=0.9, solid_capstyle="round")
    law = _draw_law(axes, fit, points, unit, theme)
    axes.scatter(
        points[:, 0],
        points[:, 1],
        s=16,
        color=[colours[run] for run in fit.points.run],
        edgecolor=theme.ground,
        lw=0.6,
        zorder=5,
    )
    labels = _run_labels(axes, runs, curves, colours)
    drawn = [*curves, law]
    if fit.hold_out is not None:
        labels.insert(0, _draw_hold_out(axes, fit.hold_out, unit, theme))
    if reference is not None:
        drawn.append(_xy(reference, unit))
        axes.plot(*drawn[-1].T, color=theme.ink, linewidth=0.9, dashes=(4, 2.5), zorder=4)
        labels.append(Label(reference.name.replace("_", " "), theme.ink, drawn[-1][::-1]))
    place_labels(axes, labels, drawn, spots, [_write_law(axes, fit, unit, theme)])


def _xy(run: RunRecord, unit: ComputeUnit) -> Array:
    return np.stack([run.curve.compute_flops / unit.flops, run.curve.loss_nats_per_token], axis=1)


def _colours(runs: Sequence[RunRecord], theme: Theme) -> list[Colour]:
    """Colour of every run by the rank of its size, or of its last compute where sizes are unknown."""
    sizes = [run.parameters_non_embedding or run.parameters for run in runs]
    keys = [size or 0.0 for size in sizes] if all(sizes) else [run.curve.compute_flops[-1] for run in runs]
    return ramp(keys, theme)


def _set_axes(axes: Axes, curves: Sequence[Array], spots: Array, unit: ComputeUnit, run: RunRecord) -> None:
    """Log scales whose limits leave out the first steps, far above any frontier, and legible ticks."""
    everything = np.concatenate(curves)
    top = min(HEADROOM * spots[:, 1].max(), 1.02 * everything[:, 1].max())
    shown = np.concatenate([everything[everything[:, 1] <= top], spots])
    right, low = EXTRAPOLATE * shown[:, 0].max(), shown[:, 1].min()
    axes.set(
        xscale="log", yscale="log", xlim=(shown[:, 0].min() / 1.3, right), ylim=(low * (low / top) ** FOOTROOM, top)
    )
    log_ticks(axes.xaxis)
    plain_ticks(axes.yaxis)
    tidy(axes)
    counted = f", $C = {run.convention.tex}$" if run.convention else ""
    axes.set_xlabel(f"Compute ({unit.name}{counted})")
    axes.set_ylabel(LOSS)


def _draw_law(axes: Axes, fit: FrontierFit, points: Array, unit: ComputeUnit, theme: Theme) -> Array:
    """The law over the frame, solid where it was fitted, with its bootstrap band; returns the line [P, 2]."""
    x = np.geomspace(*axes.get_xlim(), 200)
    line = np.stack([x, power_line(fit.parameters, x * unit.flops)], axis=1)
    draw_line(axes, line, (points[:, 0].min(), points[:, 0].max()), theme.law)
    band = fit.band(x * unit.flops)
    if band is not None:
        axes.fill_between(x, *band, color=theme.law, alpha=0.15, linewidth=0, zorder=1)
    return line


def _draw_hold_out(axes: Axes, held: HoldOut, unit: ComputeUnit, theme: Theme) -> Label:
    """A ring on the held-out point, a cross where the others predict it; returns what to write there."""
    x = held.compute_flops / unit.flops
    axes.scatter(x, held.loss_nats_per_token, s=52, facecolor="none", edgecolor=theme.ink, linewidth=0.7, zorder=6)
    axes.scatter(x, held.predicted, s=18, marker="x", color=theme.ink, linewidth=0.8, zorder=6)
    place = np.array([[x, held.loss_nats_per_token], [x, held.predicted]])
    return Label(minus(f"× predicted without\nthis run, {held.error_percent:+.1f} %"), theme.ink, place)


def _run_labels(
    axes: Axes, runs: Sequence[RunRecord], curves: Sequence[Array], colours: Sequence[Colour]
) -> list[Label]:
    """The names of the runs, each near the end of its curve or else along it; none if they are too many."""
    if len(runs) > MOST_LABELS:
        return []
    labels = []
    for run, curve, colour in zip(runs, curves, colours, strict=True):
        shown = curve[curve[:, 1] <= axes.get_ylim()[1]]
        along = shown[np.unique(np.linspace(0, len(shown) - 1, 12).astype(int))[::-1]]
        labels.append(Label(run.name, colour, along))
    return labels


def _write_law(axes: Axes, fit: FrontierFit, unit: ComputeUnit, theme: Theme) -> Text:
    """The formula in the upper right corner, which falling curves leave free."""
    text = f"$L = {fit.prefactor(unit):#.3g}\\;C^{{\\,{fit.exponent:.4f}}}$"
    interval = fit.exponent_interval
    if interval is not None:
        text += f"\nexponent 95 % {interval_text(interval, '.4f')}"
    return axes.text(0.98, 0.96, text, transform=axes.transAxes, ha="right", va="top", color=theme.law, linespacing=1.6)
