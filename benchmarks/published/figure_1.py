"""PAGnol's Figure 1 (Launay et al. 2022, arXiv 2110.08554): the line from its four vertices, and other choices."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.published.figure_data import beyond, read_figure
from benchmarks.published.section import Numbers, Options, Section, interval, table, text
from pagnol_jax.scaling import (
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
from pagnol_jax.scaling.objectives import Objective, huber, least_squares
from pagnol_jax.scaling.parametric import fit_law
from pagnol_jax.scaling.points import Chooser

FEWER_STARTS = 4  # every so many of a law's own: 1,619 points take their time
LEAST_TOKENS = 0.5e9  # below, the curves have hardly begun


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
    error = {name: abs(found[name] / value - 1) for name, value in published.items()}
    return {"published": published, "relative_error": error, "lines": fits, "laws": _laws(runs)}


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
    every = every_point(runs)
    sets = (
        ("Pareto set", pareto_points(runs), FLOORED_C),
        ("Pareto set above .002 PF-days", beyond(pareto_points, 0.002)(runs), FLOORED_C),
        ("all above .5 GT", every.take(every.tokens > LEAST_TOKENS), CHINCHILLA),
    )
    return [
        {"points": name, **_law(law, points, objective)}
        for name, points, law in sets
        for objective in (huber(), least_squares())
    ]


def _law(law: Law, points: Points, objective: Objective) -> Numbers:
    inputs = {"N": points.parameters, "D": points.tokens, "C": points.compute_flops / PF_DAY.flops}
    loss = points.loss_nats_per_token
    starts = law.starts(inputs, loss)[::FEWER_STARTS]
    fit = fit_law(law, inputs, loss, run=points.run, objective=objective, starts=starts)
    return {
        "count": loss.size,
        "law": law.formula,
        "objective": objective.name,
        "constants": {name: one.value for name, one in fit.constants.items()},
        "rms_percent": fit.rms_percent,
    }


def page(numbers: Numbers) -> list[str]:
    published, error = numbers["published"], numbers["relative_error"]
    found = next(iter(numbers["lines"].values()))
    exponent, constant = found["exponent"], found["prefactor"] ** (-1 / found["exponent"])
    return [
        text(
            f"The published line, read from the figure's vector graphics: {published['prefactor']:.5f} "
            f"C^{published['exponent']:.6f}, printed as 3.40 C^-0.036. Ours, by log-log least squares held under the "
            f"curves' points at its four vertices: **{found['prefactor']:.5f} C^{exponent:.6f}**, relative errors "
            f"{error['prefactor']:.0e} and {error['exponent']:.0e}. C in PF-days, L in nats per token; brackets are "
            "95 % intervals of a bootstrap over the four runs."
        ),
        table(_line_row(name, fit) for name, fit in numbers["lines"].items()),
        text("The choice of points moves the exponent by more than its last printed digit. Laws with a floor:"),
        table(map(_law_row, numbers["laws"])),
        text(
            "These curves are not annealed, so the floors are an illustration and no claim: what they show is that a "
            "small exponent may, for a good part, be a floor that the power law leaves out."
        ),
        text(
            f"Sign: the exponent of C is {exponent:.3f}; in L = (k / C)^alpha, alpha is {-exponent:+.3f} and k "
            f"{constant:.2g} PF-days. The paper calls the exponent of C alpha, and compares it with Kaplan et al.'s "
            "-0.050, which is for C_min; their exponent for plain compute, which PAGnol's C is, is -0.057."
        ),
    ]


def _line_row(name: str, fit: Numbers) -> dict[str, str]:
    return {
        "points": name,
        "number": f"{fit['points']:,}",
        "exponent, held under them": f"{fit['exponent']:.5f} {interval(*fit['interval'])}",
        "prefactor": f"{fit['prefactor']:.4f}",
        "exponent, free": f"{fit['free_exponent']:.5f}",
        "prefactor, free": f"{fit['free_prefactor']:.4f}",
    }


def _law_row(law: Numbers) -> dict[str, str]:
    return {
        "points": law["points"],
        "number": f"{law['count']:,}",
        "law": law["law"],
        "objective, of log loss": law["objective"],
        "rms": f"{law['rms_percent']:.2f} %",
        "constants": ", ".join(f"{name} {value:.3g}" for name, value in law["constants"].items()),
    }


SECTION = Section("PAGnol, Figure 1", measure, page)
