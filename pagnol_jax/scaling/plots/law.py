"""Approach 3, a law fitted to N and D: what it leaves over, and what its bootstrap says of its constants."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from pagnol_jax.errors import UserError
from pagnol_jax.scaling.estimate import Estimate, estimate
from pagnol_jax.scaling.holdout import compute_of
from pagnol_jax.scaling.laws import constants
from pagnol_jax.scaling.parametric import LawFit
from pagnol_jax.scaling.plots.style import (
    LIGHT,
    SMALL,
    Series,
    Theme,
    log_ticks,
    ramp,
    series,
    tidy,
    write_table,
    written,
)
from pagnol_jax.scaling.record import FLOP, Array, ComputeUnit

RESIDUALS_HEIGHT, BOOTSTRAP_HEIGHT = 2.2, 2.7  # inches
SHOWN = (1.0, 99.0)  # percentiles of the draws that a cloud shows: a few refits wander far off


def plot_residuals(fit: LawFit, output: Path, unit: ComputeUnit = FLOP, *, theme: Theme = LIGHT) -> None:
    """Writes `draw_residuals` to a .png, .pdf or .svg file. Raises UserError as `written`."""
    with written(output, theme, RESIDUALS_HEIGHT) as figure:
        draw_residuals(figure.subplots(1, 3, sharey=True), fit, unit, theme=theme)


def draw_residuals(axes: Sequence[Axes], fit: LawFit, unit: ComputeUnit = FLOP, *, theme: Theme = LIGHT) -> None:
    """Measured over predicted loss, in %, against N, D and C = 6 N D on three axes that share y; coloured by size.

    A trend on any of them is a law that lacks something. The grey band is one root mean square either way.
    """
    sizes, tokens = _sizes_and_tokens(fit)
    percent, colours = 100 * np.expm1(fit.residuals), ramp(sizes, theme)
    panels = (("Parameters", sizes), ("Tokens", tokens), (f"Compute ({unit.name})", compute_of(fit) / unit.flops))
    for part, (name, x) in zip(axes, panels, strict=True):
        part.axhspan(-fit.rms_percent, fit.rms_percent, color=theme.faint, alpha=0.5, linewidth=0)
        part.axhline(0, color=theme.ink, linewidth=0.6)
        part.scatter(x, percent, s=9, color=colours, linewidth=0, zorder=4)
        part.set(xscale="log", xlabel=name, xlim=(x.min() / 1.4, x.max() * 1.4))
        log_ticks(part.xaxis, counts=name != panels[2][0], most=4)
        tidy(part)
    axes[0].set(ylabel="Measured over predicted (%)")
    axes[0].set_title(f"{fit.objective.name}, rms {fit.rms_percent:.2g} %", loc="left", fontsize=SMALL)


class _Cloud(NamedTuple):
    """A constant's estimate and its draws [R]."""

    estimate: Estimate
    draws: Array


def plot_bootstrap(fits: Sequence[tuple[str, LawFit]], output: Path, *, theme: Theme = LIGHT) -> None:
    """Writes `draw_bootstrap` to a .png, .pdf or .svg file. Raises UserError as `written` and as `draw_bootstrap`."""
    with written(output, theme, BOOTSTRAP_HEIGHT) as figure:
        draw_bootstrap(figure.subplots(1, 2), fits, theme=theme)


def draw_bootstrap(axes: Sequence[Axes], fits: Sequence[tuple[str, LawFit]], *, theme: Theme = LIGHT) -> None:
    """Draws of beta against alpha, and of a = beta / (alpha + beta) against E, on two axes.

    Large markers are the fits, bars their 95 % intervals. Several named fits (of one law by several objectives, say)
    lie over each other: if they lie apart, the objective is part of the answer. Raises UserError for a law without
    alpha, beta and E, or a fit without draws.
    """
    clouds, looks = [_clouds(fit) for _, fit in fits], series(len(fits), theme)
    for part, (x, y) in zip(axes, (("alpha", "beta"), ("E", "a")), strict=True):
        for cloud, look in zip(clouds, looks, strict=True):
            _draw_cloud(part, cloud[x], cloud[y], look, theme)
        part.set(xlim=_limits([cloud[x] for cloud in clouds]), ylim=_limits([cloud[y] for cloud in clouds]))
        for axis in (part.xaxis, part.yaxis):
            axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        part.set_xlabel(_SYMBOLS[x])
        part.set_ylabel(_SYMBOLS[y])
        tidy(part)
    names = [(look.glyph, name) for look, (name, _) in zip(looks, fits, strict=True)]
    write_table(axes[0], names, [look.colour for look in looks], "lower left", (0.0, 1.03))


_SYMBOLS = {"alpha": r"$\alpha$", "beta": r"$\beta$", "E": "E (nats per token)", "a": r"$a = \beta / (\alpha + \beta)$"}


def _clouds(fit: LawFit) -> dict[str, _Cloud]:
    if not {"alpha", "beta", "log_E"} <= set(fit.law.parameters):
        raise UserError(f"a bootstrap cloud shows alpha, beta and E: {fit.law.formula} lacks one of them")
    if not len(fit.draws):
        raise UserError("this fit has no bootstrap draws to show")
    values, draws = constants(fit.law, fit.parameters), constants(fit.law, fit.draws)
    for names in (values, draws):
        names["a"] = names["beta"] / (names["alpha"] + names["beta"])
    return {name: _Cloud(estimate(values[name], draws[name]), draws[name]) for name in _SYMBOLS}


def _draw_cloud(axes: Axes, x: _Cloud, y: _Cloud, look: Series, theme: Theme) -> None:
    colour = look.colour
    axes.scatter(x.draws, y.draws, s=3, color=colour, alpha=0.35, linewidth=0, zorder=2)
    centre = (x.estimate.value, y.estimate.value)
    axes.hlines(centre[1], x.estimate.low, x.estimate.high, color=colour, linewidth=1, zorder=5)
    axes.vlines(centre[0], y.estimate.low, y.estimate.high, color=colour, linewidth=1, zorder=5)
    axes.scatter(*centre, s=30, marker=look.marker, color=colour, edgecolor=theme.ground, linewidth=0.8, zorder=6)


def _limits(clouds: Sequence[_Cloud]) -> tuple[float, float]:
    """Around the fits, their intervals and nearly all draws."""
    shown = np.concatenate([[*cloud.estimate[:3], *np.nanpercentile(cloud.draws, SHOWN)] for cloud in clouds])
    low, high = shown.min(), shown.max()
    return low - 0.05 * (high - low), high + 0.05 * (high - low)


def _sizes_and_tokens(fit: LawFit) -> tuple[Array, Array]:
    if not {"N", "D"} <= set(fit.law.inputs):
        raise UserError(f"residuals are shown against N and D: {fit.law.formula} lacks one of them")
    return fit.inputs["N"], fit.inputs["D"]
