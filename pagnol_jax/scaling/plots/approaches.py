"""N* against compute by every approach, on one figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator

from pagnol_jax.errors import UserError
from pagnol_jax.scaling.approaches import Approach
from pagnol_jax.scaling.plots.style import (
    LIGHT,
    Theme,
    draw_line,
    interval_text,
    log_ticks,
    plain_ticks,
    series,
    tidy,
    write_table,
    written,
)
from pagnol_jax.scaling.record import FLOP, Array, ComputeUnit

HEIGHT = 4.6  # inches
EXTRAPOLATE = 10.0  # lines are drawn to this factor past the largest compute of the data


def plot_approaches(
    approaches: Sequence[Approach], output: Path, unit: ComputeUnit = FLOP, *, theme: Theme = LIGHT
) -> None:
    """Writes N* against compute, and below it `draw_disagreement`, to a .png, .pdf or .svg file.

    Raises UserError for another kind of file, one that cannot be written, or no approach.
    """
    with written(output, theme, HEIGHT) as figure:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(1.6, 1))
        draw_approaches(above, approaches, unit, theme=theme)
        draw_disagreement(below, approaches, unit, theme=theme)
        above.tick_params(labelbottom=False)
        above.set_xlabel("")


def draw_approaches(
    axes: Axes, approaches: Sequence[Approach], unit: ComputeUnit = FLOP, *, theme: Theme = LIGHT
) -> None:
    """N* against C with 95 % bands, dotted beyond the data, and the exponents a of N* = k C^a in a table."""
    x = _computes(approaches)
    _draw(axes, approaches, x, np.ones_like(x), unit, theme)
    axes.set_ylabel("Optimal size $N^*$ (parameters)")
    log_ticks(axes.yaxis, counts=True)
    rows = [("", "approach", "a", "95 %")]
    looks = series(len(approaches), theme)
    for look, one in zip(looks, approaches, strict=True):
        a, low, high = one.exponent
        interval = interval_text((low, high), ".3f") if np.isfinite(low) else "none"
        rows.append((look.glyph, one.name, f"{a:.3f}", interval))
    write_table(axes, rows, (theme.ink, *(look.colour for look in looks)), "upper left", (0.03, 0.98))


def draw_disagreement(
    axes: Axes, approaches: Sequence[Approach], unit: ComputeUnit = FLOP, *, theme: Theme = LIGHT
) -> None:
    """N* of each approach over the geometric mean of all at that compute: what a choice of approach changes."""
    x = _computes(approaches)
    mean = np.exp(np.mean([np.log(one.sizes(x)) for one in approaches], axis=0))
    _draw(axes, approaches, x, mean, unit, theme)
    ratios = np.array([one.sizes(x) / mean for one in approaches])
    reach = 1.2 * max(1.2, float(np.exp(np.abs(np.log(ratios)).max())))
    axes.set(ylim=(1 / reach, reach), ylabel="$N^*$ over the mean")
    if reach < 3:
        plain_ticks(axes.yaxis, most=5)
    else:
        log_ticks(axes.yaxis)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")


def _computes(approaches: Sequence[Approach]) -> Array:
    """Compute in FLOP [P] from the least data of any approach to ten times the largest."""
    if not approaches:
        raise UserError("no approach has told the best size for a compute: there is nothing to draw")
    low, high = zip(*(one.span for one in approaches), strict=True)
    return np.geomspace(min(low) / 1.5, EXTRAPOLATE * max(high), 200)


def _draw(axes: Axes, approaches: Sequence[Approach], x: Array, over: Array, unit: ComputeUnit, theme: Theme) -> None:
    """Lines, bands and points of N* over `over` [P]; a marker at the right end of each line."""
    axes.set(xscale="log", yscale="log", xlim=(x[0] / unit.flops, x[-1] / unit.flops))
    for one, (colour, marker, _) in zip(approaches, series(len(approaches), theme), strict=True):
        line = one.sizes(x) / over
        axes.fill_between(x / unit.flops, *(one.band(x) / over), color=colour, alpha=0.13, linewidth=0, zorder=1)
        draw_line(
            axes, np.stack([x / unit.flops, line], axis=1), (one.span[0] / unit.flops, one.span[1] / unit.flops), colour
        )
        c, size = one.points.T
        heights = size / np.exp(np.interp(np.log(c), np.log(x), np.log(over)))
        axes.scatter(c / unit.flops, heights, s=11, marker=marker, color=colour, linewidth=0, zorder=4)
        axes.scatter(
            x[-1] / unit.flops, line[-1], s=30, marker=marker, color=colour, edgecolor=theme.ground, linewidth=0.7,
            zorder=5, clip_on=False,
        )  # fmt: skip
    axes.set_xlabel(f"Compute ({unit.name})")
    log_ticks(axes.xaxis)
    tidy(axes)
