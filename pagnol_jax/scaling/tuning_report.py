"""Swept cells and the laws fitted to them, told in lines of text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from pagnol_jax.errors import UserError
from pagnol_jax.scaling.text import aligned
from pagnol_jax.scaling.tuning import Cell, Trials, cells
from pagnol_jax.scaling.tuning_laws import (
    PUBLISHED,
    VARIABLES,
    LawFit,
    Misses,
    TuningLaw,
    fit_law,
    misses,
    near_centre,
    vertex,
)

FEW_CELLS = 6  # below this a percentile bootstrap over cells is known to be too narrow


def as_lines(trials: Trials, variables: str | None = None) -> list[str]:
    """Cells, law, its error on cells left out, and other laws beside it; `variables` as in `fit_law`.

    Raises UserError where the trials are no sweeps or identify no law.
    """
    swept = cells(trials)
    fit = fit_law(trials.of, swept, variables)
    return [
        f"swept      {trials.of}, {trials.value.size} trials in {len(swept)} cells of one N and D",
        "loss       nats per token; an optimum is near where it is within 0.25 % of the cell's least",
        "",
        *_cells(swept),
        "",
        *_law(fit),
        "",
        *aligned(_others(fit), right=False),
        *_notes(fit),
    ]


def _cells(swept: Sequence[Cell]) -> list[str]:
    rows: list[Sequence[str]] = [("N", "D", "swept", "best", "optimum", "within 0.25 %", "at half", "at twice", "")]
    for cell in swept:
        low, high = cell.width
        rows.append((
            f"{cell.parameters:.3g}",
            f"{cell.tokens:.3g}",
            f"{cell.value[0]:.3g} to {cell.value[-1]:.3g}",
            f"{cell.best:.3g}",
            f"{cell.optimum:.3g}",
            f"{low:.3g} to {high:.3g}",
            *map(_percent, cell.penalty),
            "" if cell.interior else "border",
        ))  # fmt: skip
    return aligned(rows, right=False)


def _law(fit: LawFit) -> list[str]:
    lines = [
        f"law        {fit.law.formula}",
        "           least squares on near-optimal trials, equal weight to each cell; C = 6 N D",
    ]
    for index, name in enumerate(("prefactor", *fit.law.variables)):
        of = np.exp if index == 0 else np.asarray
        between = "" if fit.interval is None else "   95 % [{:.4g}, {:.4g}]".format(*of(fit.interval[:, index]))
        lines.append(f"{name:<11}{of(fit.law.constants[index]):.4g}{between}")
    if fit.draws.size:
        skipped = f" ({fit.draws_skipped} more hold no such law)" if fit.draws_skipped else ""
        return [*lines, f"bootstrap  {len(fit.draws):,} resamples of {len(fit.cells)} cells{skipped}"]
    return [*lines, "bootstrap  none: an interval needs at least three cells"]


def _others(fit: LawFit) -> Iterable[Sequence[str]]:
    """The law beside what other choices give and published ones, each by its errors over the cells."""
    yield "law", "", "factor off", "worst", "excess loss", "worst", "of cells"
    yield _judged("this", fit.law, fit.leave_one_out)
    for name, used, variables, centre in _choices(fit):
        try:
            other = fit_law(fit.law.of, used, variables, centre, draws=0)
        except UserError:  # these cells do not hold that law: nothing to set beside this one
            continue
        yield _judged(name, other.law, other.leave_one_out)
    sizes, tokens = np.array([(cell.parameters, cell.tokens) for cell in fit.cells]).T
    for law in PUBLISHED:
        if law.of == fit.law.of:
            errors = misses(law.predict(sizes, tokens), fit.cells, fit.centres)
            yield _judged(law.source.split(",")[0], law, errors)


def _choices(fit: LawFit) -> Iterable[tuple[str, Sequence[Cell], str, Callable[[Cell], float]]]:
    mine = fit.law.variables
    for variables in VARIABLES:
        if variables != mine:
            yield f"in {' and '.join(variables)}" if variables else "constant", fit.cells, variables, near_centre
    interior = [cell for cell in fit.cells if cell.interior]
    if len(interior) < len(fit.cells):
        yield "interior cells", interior, mine, near_centre
    yield "vertices", fit.cells, mine, vertex


def _judged(name: str, law: TuningLaw, errors: Misses) -> Sequence[str]:
    """The geometric mean factor and the mean excess, with the worst of each, over the cells that tell them."""
    factor, excess = (column[~np.isnan(column)] for column in errors)
    told = (f"{np.exp(np.log(factor).mean()):.4g}", f"{factor.max():.4g}") if factor.size else ("-", "-")
    cost = (_percent(excess.mean()), _percent(excess.max())) if excess.size else ("-", "-")
    return name, law.formula.split(" = ")[1], *told, *cost, f"{excess.size}/{errors.excess.size}"


def _notes(fit: LawFit) -> Iterable[str]:
    """How to read the table, and what a reader should hold against this law."""
    yield "note       a fitted law is judged on cells left out of its fit, a published one on all cells"
    yield "note       factors are to a cell's near-optimal mean (vertices: its optimum); excess where its sweep reaches"
    for law in PUBLISHED:
        if law.of == fit.law.of:
            yield f"note       {law.source}"
    border = [f"N {cell.parameters:.3g} D {cell.tokens:.3g}" for cell in fit.cells if not cell.interior]
    if border:
        yield f"note       optimum at the border of the sweep, so only a bound: {', '.join(border)}"
    if len(fit.cells) < FEW_CELLS and fit.draws.size:
        yield f"note       {len(fit.cells)} cells carry the interval: take it for a lower bound of the uncertainty"


def _percent(value: float) -> str:
    return "-" if np.isnan(value) else f"{100 * value:+.2f} %"
