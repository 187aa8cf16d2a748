"""Every seed of every run, and the paper's one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.lines import Line2D

from pagnol_jax.errors import UserError
from pagnol_jax.scaling.plots import style
from pagnol_jax.train.zoo.graph_results import TOLD, Finding


def check(output: Path) -> None:
    """Raises UserError for a file that is no figure, before hours go by."""
    if output.suffix not in style.FORMATS:
        raise UserError(f"{output}: a figure is one of {', '.join(style.FORMATS)}")


def draw(found: Sequence[Finding], output: Path, theme: style.Theme = style.LIGHT) -> None:
    """A row a result: a dot a seed, a bar from one deviation below the mean to one above, a ring for the paper's run.

    Raises UserError where `output` cannot be written.
    """
    kinds = list(dict.fromkeys(_arm(finding) for finding in found))
    colours = dict(zip(kinds, style.series(len(kinds), theme), strict=True))
    random = np.random.default_rng(0)
    with style.written(output, theme, 0.9 + 0.21 * len(found)) as figure:
        axes = figure.add_subplot()
        for row, finding in enumerate(found):
            colour, values = colours[_arm(finding)].colour, 100 * finding.values
            axes.scatter(
                values, row + random.uniform(-0.2, 0.2, len(values)), s=5, color=colour, alpha=0.45, linewidth=0
            )
            axes.errorbar(100 * finding.mean, row, xerr=100 * finding.deviation, color=colour, linewidth=1.4)
            axes.plot(100 * finding.mean, row, "|", color=colour, markersize=7)
            if finding.paper is not None:
                paper = 100 * finding.paper
                axes.scatter(paper, row, s=30, facecolors="none", edgecolors=theme.ink, linewidths=0.8, zorder=4)
        names = [f"{finding.run.split('_')[0]}  {TOLD[finding.result].removeprefix('test ')}" for finding in found]
        axes.set_yticks(range(len(found)), names, fontsize=style.SMALL)
        axes.invert_yaxis()
        axes.set_xlabel("Test result (%)")
        axes.grid(axis="x", color=theme.faint, linewidth=0.5)
        axes.set_axisbelow(True)
        style.tidy(axes)
        marks = [Line2D([], [], color=colours[kind].colour, linewidth=1.4, label=kind) for kind in kinds]
        ring_mark = Line2D(
            [], [], linestyle="", marker="o", color=theme.ink, markerfacecolor="none", label="paper, one run"
        )
        axes.legend(handles=[*marks, ring_mark], fontsize=style.SMALL, frameon=False, loc="lower left")


def _arm(finding: Finding) -> str:
    """What comes after the architecture's name."""
    named = {"": "backprop", "dfa": "DFA", "dfa_meant": "DFA, error at the logits", "shallow": "shallow"}
    arm = finding.run.partition("_")[2]
    return named.get(arm, arm)
