"""Figures of runs and laws. `draw_x` draws on axes of one's own, `plot_x` writes a .png, .pdf or .svg file."""

from pagnol_jax.scaling.plots.approaches import (
    draw_approaches,
    draw_disagreement,
    plot_approaches,
)
from pagnol_jax.scaling.plots.comparison import draw_comparison, plot_comparison
from pagnol_jax.scaling.plots.extrapolation import draw_extrapolation, plot_extrapolation
from pagnol_jax.scaling.plots.frontier import draw_frontier, plot_frontier
from pagnol_jax.scaling.plots.isoflop import draw_best_sizes, draw_valleys, plot_isoflop
from pagnol_jax.scaling.plots.law import draw_bootstrap, draw_residuals, plot_bootstrap, plot_residuals
from pagnol_jax.scaling.plots.style import DARK, LIGHT, Theme, styled

__all__ = [
    "DARK",
    "LIGHT",
    "Theme",
    "draw_approaches",
    "draw_best_sizes",
    "draw_bootstrap",
    "draw_comparison",
    "draw_disagreement",
    "draw_extrapolation",
    "draw_frontier",
    "draw_residuals",
    "draw_valleys",
    "plot_approaches",
    "plot_bootstrap",
    "plot_comparison",
    "plot_extrapolation",
    "plot_frontier",
    "plot_isoflop",
    "plot_residuals",
    "styled",
]
