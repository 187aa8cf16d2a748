"""PAGnol's Figure 1, digitised: its curves, its line, and the sizes of the paper's models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pagnol_jax.scaling import NON_EMBEDDING, PF_DAY, Points, RunRecord
from pagnol_jax.scaling.points import Chooser
from pagnol_jax.scaling.tables import read_table

LINE = "published_fit_line"
VOCABULARY = 50_262
# Layers and width; XXS and XS have no published shape, and others of one L d^2 would do (gin/models/pagnol_*.gin).
SHAPES = {
    "xxsmall": (3, 768), "xsmall": (6, 768), "small": (12, 768), "medium": (24, 1024), "large": (36, 1280),
    "xlarge": (48, 1600),
}  # fmt: skip


def read_figure(data: Path) -> tuple[RunRecord, list[RunRecord]]:
    """The published line, and the four curves, their compute taken for what the section on compute finds it to be."""
    curves = read_table(data / "pagnol_figure1" / "pagnol_figure1_curves.csv")
    (line,) = [run for run in curves if run.name == LINE]
    return line, [_sized(run) for run in curves if run is not line]


def _sized(run: RunRecord) -> RunRecord:
    bare, whole = without_embeddings(run.name), with_embeddings(run.name)
    return replace(run, convention=NON_EMBEDDING, parameters=whole, parameters_non_embedding=bare)


def without_embeddings(name: str) -> float:
    """Parameters of the blocks: 12 L d^2."""
    layers, width = SHAPES[name]
    return 12.0 * layers * width**2


def with_embeddings(name: str) -> float:
    """These and the tokens' embeddings, counted once."""
    return without_embeddings(name) + VOCABULARY * SHAPES[name][1]


def beyond(choose: Chooser, pf_days: float) -> Chooser:
    """The chosen points of more compute than that."""

    def chosen(runs: Sequence[RunRecord]) -> Points:
        points = choose(runs)
        return points.take(points.compute_flops > pf_days * PF_DAY.flops)

    return chosen
