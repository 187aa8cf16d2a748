"""What the runs of several rules came to: a table, and a figure of losses and alignment over training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pagnol_jax.errors import UserError
from pagnol_jax.scaling.folders import read_run_folder
from pagnol_jax.scaling.plots import style
from pagnol_jax.scaling.record import RunRecord


class Run(NamedTuple):
    """A run of an arm. watched: {"alignment/blocks": (steps [n], values [n, layers]), ...} of its feedback points."""

    arm: str
    record: RunRecord
    watched: dict[str, tuple[np.ndarray, np.ndarray]]

    @property
    def loss(self) -> float:
        """The last, in nats per token, over all corpora."""
        return float(self.record.curve.loss_nats_per_token[-1])


def read(folder: Path) -> list[Run]:
    """The runs in a folder, arms in the order in which they were trained. Raises UserError where there is none."""
    paths = sorted(folder.glob("*/run.json"), key=lambda path: path.stat().st_mtime)
    if not paths:
        raise UserError(f"{folder} holds no runs")
    return [Run(path.parent.name.split("_")[0], read_run_folder(path.parent), _watched(path.parent)) for path in paths]


def _watched(run: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    found: dict[str, list[tuple[int, list[float]]]] = {}
    for text in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        line: dict[str, Any] = json.loads(text)
        if "watched" in line:
            layers = [line[f"{i}"] for i in range(len(line) - 2)]
            found.setdefault(line["watched"], []).append((line["step"], layers))
    return {
        name: (np.array([step for step, _ in rows]), np.array([layers for _, layers in rows]))
        for name, rows in found.items()
    }


def best(runs: Sequence[Run]) -> list[Run]:
    """Of every arm the run of the least loss."""
    arms = list(dict.fromkeys(run.arm for run in runs))
    return [min((run for run in runs if run.arm == arm), key=lambda run: run.loss) for arm in arms]


def table(runs: Sequence[Run]) -> str:
    """A line an arm, with its best learning rate of those tried; alignment and size of the blocks, first to last."""
    lines = [f"{'arm':12}{'rate':>9}  {'of':>2}{'nats/token':>12}{'perplexity':>12}  alignment, size of blocks"]
    for run in best(runs):
        tried = sum(other.arm == run.arm for other in runs)
        rate = f"{run.record.learning_rate:.1e}" if run.record.learning_rate else ""
        blocks = [
            " ".join(f"{value:.{digits}f}" for value in run.watched[name][1][-1])
            for name, digits in (("alignment/blocks", 2), ("rms/blocks", 1))
            if name in run.watched
        ]
        line = f"{run.arm:12}{rate:>9}  {tried:>2}{run.loss:>12.4f}{np.exp(run.loss):>12.2f}  {'; '.join(blocks)}"
        lines.append(line.rstrip())
    return "\n".join(lines)


def draw(runs: Sequence[Run], output: Path, theme: style.Theme = style.LIGHT) -> None:
    """Validation loss against tokens, an arm a line; below, alignment at every block of the arms that have it."""
    aligned = [run for run in runs if "alignment/blocks" in run.watched]
    with style.written(output, theme, style.HEIGHT + 1.6 * bool(aligned)) as figure:
        grid = figure.add_gridspec(1 + bool(aligned), max(len(aligned), 1), height_ratios=[2, 1][: 1 + bool(aligned)])
        axes = figure.add_subplot(grid[0, :])
        for run, how in zip(runs, style.series(len(runs), theme), strict=True):
            curve = run.record.curve
            axes.plot(curve.tokens / 1e6, curve.loss_nats_per_token, color=how.colour, linewidth=1.2)
            place = curve.tokens[-1] / 1e6, curve.loss_nats_per_token[-1]
            axes.annotate(
                run.arm, place, (4, 0), textcoords="offset points", color=how.colour, va="center", fontsize=style.SMALL
            )
        axes.set_xlabel("Tokens (millions)")
        axes.set_ylabel(style.LOSS)
        axes.margins(x=0.12)
        style.tidy(axes)
        shared: Any = None
        for i, run in enumerate(aligned):
            shared = below = figure.add_subplot(grid[1, i], sharey=shared)
            steps, values = run.watched["alignment/blocks"]
            for layer, colour in enumerate(style.ramp(np.arange(values.shape[1], dtype=float), theme)):
                below.plot(steps, values[:, layer], color=colour, linewidth=1)
            below.axhline(0, color=theme.faint, linewidth=0.6)
            below.set_title(run.arm, fontsize=style.SMALL)
            if i == 0:
                below.set_ylabel("Alignment of blocks\n(light first, dark last)")
            below.set_xlabel("Step")
            style.tidy(below)
