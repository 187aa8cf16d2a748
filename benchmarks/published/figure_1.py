"""PAGnol's Figure 1 (Launay et al. 2022, arXiv 2110.08554): the line from its four vertices, and other choices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.published.section import Numbers, Options, Section, interval, table
from pagnol_jax.scaling import (
    NON_EMBEDDING,
    PF_DAY,
    FrontierFit,
    Points,
    RunRecord,
    every_point,
    final_points,
    fit_frontier,
    pareto_points,
    points_at,
)
from pagnol_jax.scaling.frontier import least_squares as free_line
from pagnol_jax.scaling.frontier import prefactor
from pagnol_jax.scaling.laws import CHINCHILLA, FLOORED_C, Law
from pagnol_jax.scaling.objectives import huber, least_squares
from pagnol_jax.scaling.parametric import fit_law
from pagnol_jax.scaling.points import Chooser
from pagnol_jax.scaling.tables import read_table

LINE = "published_fit_line"
# Layers and width; XXS and XS have no published shape, and others of one L d^2 would do (gin/models/pagnol_*.gin).
SHAPES = {
    "xxsmall": (3, 768), "xsmall": (6, 768), "small": (12, 768), "medium": (24, 1024), "large": (36, 1280),
    "xlarge": (48, 1600),
}  # fmt: skip
LEAST_TOKENS = 0.5e9  # below, the curves are still in their warm-up


def read_figure(data: Path) -> tuple[RunRecord, list[RunRecord]]:
    """The published line, and the four curves with the sizes that the section on conventions finds."""
    curves = read_table(data / "pagnol_figure1" / "pagnol_figure1_curves.csv")
    (line,) = [run for run in curves if run.name == LINE]
    return line, [_sized(run) for run in curves if run is not line]


def _sized(run: RunRecord) -> RunRecord:
    return replace(run, convention=NON_EMBEDDING, parameters_non_embedding=without_embeddings(run.name))


def without_embeddings(name: str) -> float:
    layers, width = SHAPES[name]
    return 12.0 * layers * width**2


def beyond(choose: Chooser, pf_days: float) -> Chooser:
    """The chosen points of more compute than that."""

    def chosen(runs: Sequence[RunRecord]) -> Points:
        points = choose(runs)
        return points.take(points.compute_flops > pf_days * PF_DAY.flops)

    return chosen


def measure(options: Options) -> Numbers:
    line, runs = read_figure(options.data)
    compute = line.curve.compute_flops / PF_DAY.flops
    log_prefactor, exponent = free_line(np.log(compute), np.log(line.curve.loss_nats_per_token))
    choices: dict[str, Chooser] = {
        "the line's four vertices": points_at(compute.tolist(), PF_DAY),
        "all": every_point,
        "all above .005 PF-days": beyond(every_point, 0.005),
        "Pareto set": pareto_points,
        "Pareto set above .002 PF-days": beyond(pareto_points, 0.002),
        "last point of every curve": final_points,
    }
    fits = {name: _line(fit_frontier(runs, choose, options.draws)) for name, choose in choices.items()}
    found = fits["the line's four vertices"]
    published = {"exponent": float(exponent), "prefactor": float(np.exp(log_prefactor))}
    return {
        "published": published,
        "relative_error": {name: abs(found[name] / published[name] - 1) for name in published},
        "lines": fits,
        "laws": _laws(runs),
    }


def _line(fit: FrontierFit) -> Numbers:
    assert fit.exponent_interval is not None
    return {
        "points": fit.points.run.size,
        "exponent": fit.exponent,
        "interval": fit.exponent_interval.tolist(),
        "prefactor": fit.prefactor(PF_DAY),
        "free_exponent": float(fit.unconstrained[1]),
        "free_prefactor": float(prefactor(fit.unconstrained, PF_DAY)),
    }


def _laws(runs: Sequence[RunRecord]) -> list[Numbers]:
    """Laws with a floor, each by two objectives."""
    late = every_point(runs)
    late = late.take(late.tokens > LEAST_TOKENS)
    pareto = pareto_points(runs)
    some = beyond(pareto_points, 0.002)(runs)
    sets: tuple[tuple[str, Law, dict[str, Any], Points], ...] = (
        ("Pareto set", FLOORED_C, {"C": pareto.compute_flops / PF_DAY.flops}, pareto),
        ("Pareto set above .002 PF-days", FLOORED_C, {"C": some.compute_flops / PF_DAY.flops}, some),
        ("all above .5 GT", CHINCHILLA, {"N": late.parameters, "D": late.tokens}, late),
    )
    found = []
    for name, law, inputs, points in sets:
        for objective in (huber(), least_squares()):
            fit = fit_law(law, inputs, points.loss_nats_per_token, run=points.run, objective=objective)
            told = {constant: one.value for constant, one in fit.constants.items()}
            found.append({"points": name, "count": fit.loss.size, "law": law.formula, "objective": objective.name}
                         | {"constants": told, "rms_percent": fit.rms_percent})  # fmt: skip
    return found


def page(numbers: Numbers) -> list[str]:
    published, error, lines = (numbers[name] for name in ("published", "relative_error", "lines"))
    first = next(iter(lines.values()))
    constant = first["prefactor"] ** (-1 / first["exponent"])
    rows = [
        [name, f"{fit['points']:,}", f"{fit['exponent']:.5f} {interval(*fit['interval'])}", f"{fit['prefactor']:.4f}"]
        + [f"{fit['free_exponent']:.5f}", f"{fit['free_prefactor']:.4f}"]
        for name, fit in lines.items()
    ]
    laws = [
        [law["points"], f"{law['count']:,}", law["law"], law["objective"], f"{law['rms_percent']:.2f} %"]
        + [", ".join(f"{name} {value:.3g}" for name, value in law["constants"].items())]
        for law in numbers["laws"]
    ]
    return [
        f"The published line, read from the figure's vector graphics: {published['prefactor']:.5f} "
        f"C^{published['exponent']:.6f}, printed as 3.40 C^-0.036. From the curves' points at its four vertices, by log-log "
        f"least squares held under these points: **{first['prefactor']:.5f} C^{first['exponent']:.6f}**, relative errors "
        f"{error['prefactor']:.0e} and {error['exponent']:.0e}. C in PF-days, L in nats per token; brackets are 95 % "
        "intervals of a bootstrap over the four runs.",
        "",
        *table(["points", "number", "exponent, held under them", "prefactor", "exponent, free", "prefactor, free"], rows),
        "",
        "The choice of points moves the exponent by more than its last printed digit. A floor moves it more (C in PF-days):",
        "",
        *table(["points", "number", "law", "objective of log loss", "rms", "constants"], laws),
        "",
        "These curves are not annealed, so the floors are an illustration and no claim: what they show is that a small "
        "exponent is, for a good part, a floor that the power law leaves out.",
        "",
        f"Sign: the exponent of C is {first['exponent']:.3f}; in L = (k / C)^alpha, alpha is {-first['exponent']:+.3f} and "
        f"k {constant:.2g} PF-days. The paper calls the exponent of C alpha. It compares it with Kaplan et al.'s -0.050, "
        "which is for C_min; the exponent for plain compute, which PAGnol's C is, is -0.057.",
    ]


SECTION = Section("PAGnol, Figure 1", measure, page)
