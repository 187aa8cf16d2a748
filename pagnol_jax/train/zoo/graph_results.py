"""What the runs of a folder found, beside what the paper reports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pagnol_jax.train.record import RunFolder
from pagnol_jax.train.zoo.graph import read_results

# What is told of a run: the key of its lines, and its name.
TOLD = {"test_accuracy": "test accuracy", "test_auc": "test AUC", "test_ap": "test AP"}


class Finding(NamedTuple):
    """A result of a run. values: float64 [seeds]. paper: of its one run, None where there is none."""

    run: str
    result: str
    values: np.ndarray
    paper: float | None

    @property
    def mean(self) -> float:
        return float(self.values.mean())

    @property
    def deviation(self) -> float:
        """Over seeds, n - 1 in the denominator; nan for one."""
        return float(self.values.std(ddof=1)) if len(self.values) > 1 else float("nan")


class Angle(NamedTuple):
    """Alignment at a module: means and deviations over nodes, float64 [seeds] each; paper: its mean and deviation."""

    run: str
    module: str
    means: np.ndarray
    deviations: np.ndarray
    paper: tuple[float, float] | None


def findings(output: Path, runs: Sequence[str]) -> list[Finding]:
    """Of those `runs` in `output` that have results, in their order. Raises UserError for a damaged run."""
    found = []
    for run in runs:
        record, lines = _read(output / run)
        kinds = [kind for kind in TOLD if lines and kind in lines[0]]
        found += [
            Finding(run, kind, np.array([line[kind] for line in lines]), record["paper"].get(kind)) for kind in kinds
        ]
    return found


def angles(output: Path, runs: Sequence[str]) -> list[Angle]:
    """Alignments of those `runs` that measured them; the paper's stands at the module farthest from the output."""
    found = []
    for run in runs:
        record, lines = _read(output / run)
        paper = record["paper"].get("alignment")
        for module in lines[0]["alignment"] if lines else ():
            means, deviations = (
                np.array([line["alignment"][module][key] for line in lines]) for key in ("mean", "std")
            )
            deepest = module in ("conv1", "first")
            found.append(Angle(run, module, means, deviations, tuple(paper) if paper and deepest else None))
    return found


def table(output: Path, runs: Sequence[str]) -> str:
    """Both, as Markdown."""
    rows = ["| run | result | seeds | mean ± s.d., % | paper, % | difference |", "|---|---|---|---|---|---|"]
    for found in findings(output, runs):
        paper, gap = ("", "") if found.paper is None else _beside(found)
        spread = f"{100 * found.mean:.1f}" + (f" ± {100 * found.deviation:.1f}" if len(found.values) > 1 else "")
        rows.append(f"| {found.run} | {TOLD[found.result]} | {len(found.values)} | {spread} | {paper} | {gap} |")
    measured = angles(output, runs)
    if measured:
        rows += ["", "| run | at the output of | alignment (s.d. over nodes) | s.d. over seeds | paper |"]
        rows.append("|---|---|---|---|---|")
    for angle in measured:
        paper = "" if angle.paper is None else f"{angle.paper[0]:.2f} ({angle.paper[1]:.2f})"
        here = f"{angle.means.mean():.2f} ({angle.deviations.mean():.2f})"
        spread = f"{angle.means.std(ddof=1):.2f}" if len(angle.means) > 1 else ""
        rows.append(f"| {angle.run} | {angle.module} | {here} | {spread} | {paper} |")
    return "\n".join(rows)


def _beside(found: Finding) -> tuple[str, str]:
    assert found.paper is not None
    return f"{100 * found.paper:.1f}", f"{100 * (found.mean - found.paper):+.1f}"


def _read(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    if not (folder / "run.json").exists():
        return {"paper": {}}, []
    return RunFolder(folder).read(), read_results(folder)
