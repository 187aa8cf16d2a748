"""Every seed of every run, and the paper's one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.lines import Line2D

from pagnol_jax.scaling.plots import style
from pagnol_jax.train.zoo.graph_results import TOLD, Finding

NAMES = {
    "cheb": "Chebyshev",
    "gcn": "GCN",
    "spline": "Spline",
    "gat": "GAT",
    "dna": "DNA",
    "autoencoder": "Autoencoder",
}
ARMS = {"": "backprop", "dfa": "DFA", "dfa_meant": "DFA, error at the logits", "shallow": "shallow"}


def draw(found: Sequence[Finding], output: Path, theme: style.Theme = style.LIGHT) -> None:
    """A row a result, in it a line a rule: a dot a seed, a bar one deviation to either side of the mean, a ring where
    the paper's run is.

    Raises UserError where `output` cannot be written.
    """
    rows, arms = (list(dict.fromkeys(part(finding) for finding in found)) for part in (_row, _arm))
    colours = {arm: each.colour for arm, each in zip(arms, style.series(len(arms), theme), strict=True)}
    random = np.random.default_rng(0)
    with style.written(output, theme, 0.9 + 0.16 * len(found)) as figure:
        axes = figure.add_subplot()
        for finding in found:
            mates = [_arm(other) for other in found if _row(other) == _row(finding)]
            y = rows.index(_row(finding)) + 0.22 * (mates.index(_arm(finding)) - (len(mates) - 1) / 2)
            colour, values, mean = colours[_arm(finding)], 100 * finding.values, 100 * finding.mean
            scatter = y + random.uniform(-0.06, 0.06, len(values))
            axes.scatter(values, scatter, s=5, color=colour, alpha=0.5, linewidth=0)
            bar = 100 * finding.deviation if len(values) > 1 else 0
            axes.errorbar(mean, y, xerr=bar, color=colour, linewidth=1.2, marker="|", markersize=5)
            if finding.paper is not None:
                paper = 100 * finding.paper
                axes.scatter(paper, y, s=22, facecolors="none", edgecolors=theme.ink, linewidths=0.7, zorder=4)
        axes.set_yticks(range(len(rows)), rows)
        axes.invert_yaxis()
        axes.set_xlabel("Test result (%)")
        axes.grid(axis="x", color=theme.faint, linewidth=0.5)
        axes.set_axisbelow(True)
        style.tidy(axes)
        axes.tick_params(axis="y", length=0)
        marks = [Line2D([], [], color=colours[arm], linewidth=1.2, label=arm) for arm in arms]
        ring = Line2D([], [], linestyle="", marker="o", markersize=4.5, color=theme.ink, label="paper, one run")
        ring.set_markerfacecolor("none")
        handles = [*marks, ring]
        figure.legend(handles=handles, fontsize=style.SMALL, frameon=False, loc="outside upper center", ncols=3)


def _row(finding: Finding) -> str:
    """The architecture, and what was measured if it is no accuracy."""
    name = finding.run.partition("_")[0]
    what = TOLD[finding.result].removeprefix("test ")
    return NAMES.get(name, name) + ("" if what == "accuracy" else f", {what}")


def _arm(finding: Finding) -> str:
    """What comes after the architecture's name."""
    arm = finding.run.partition("_")[2]
    return ARMS.get(arm, arm)
