"""Hold-out errors on the OLMo ladder (Bhagia et al. 2024, arXiv 2412.04403): 3B, 7B and 13B from 1.3B and less."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.published.section import Numbers, Options, Section, interval, table, text
from pagnol_jax.scaling import FLOP, TOTAL, Curve, RunRecord, final_points
from pagnol_jax.scaling.estimate import Estimate
from pagnol_jax.scaling.holdout import HeldOut, hold_out
from pagnol_jax.scaling.law_report import OBJECTIVES, as_text, fit_report, inputs_of, size_exponent
from pagnol_jax.scaling.laws import CHINCHILLA
from pagnol_jax.scaling.parametric import LawFit, fit_law
from pagnol_jax.scaling.tables import read_table

LARGEST_FITTED = 1.3e9
# N, D and loss on C4, from the ladder's repository (allenai/OLMo-ladder); other data, annealed otherwise.
TARGETS = {
    "7B-4T": (6_887_575_552, 3_945_065_873_408, 2.48292),
    "13B-5T": (13_202_396_160, 5_000_088_518_656, 2.43758),
}
COMPARED = ("huber", "squares")


def read_ladder(data: Path) -> list[RunRecord]:
    """22 runs: five sizes at 1, 2, 5 and 10 times 20 tokens per parameter, and the two targets."""
    runs = read_table(data / "olmo_ladder" / "c4_final.csv", {"loss": "c4_loss_final"})
    ladder = [run for run in runs if not run.name.endswith(("rerun", "-0.5xC"))]
    return ladder + [_target(name, *numbers) for name, numbers in TARGETS.items()]


def _target(name: str, size: float, tokens: float, loss: float) -> RunRecord:
    curve = Curve(np.array([tokens]), np.array([6 * size * tokens]), np.array([loss]))
    return RunRecord(name, curve, TOTAL, parameters=size)


def small(runs: list[RunRecord]) -> list[RunRecord]:
    """The 16 that are fitted."""
    return [run for run in runs if (run.parameters or 0) < LARGEST_FITTED]


def predict_large(runs: list[RunRecord], objective: str, draws: int) -> HeldOut:
    """Chinchilla's law of the 16 small runs, held against the others."""
    points = final_points(runs)
    fit = fit_law(
        CHINCHILLA, inputs_of(CHINCHILLA, points), points.loss_nats_per_token, objective=OBJECTIVES[objective]
    )
    return hold_out(fit, runs=np.flatnonzero(points.parameters > LARGEST_FITTED), draws=draws)


def measure(options: Options) -> Numbers:
    runs = read_ladder(options.data)
    fitted = small(runs)
    compared = [OBJECTIVES[name] for name in COMPARED]
    held = {name: predict_large(runs, name, options.draws) for name in COMPARED}
    report = fit_report(CHINCHILLA, fitted, final_points(fitted), "squares", FLOP, options.draws)
    return {
        "runs": len(fitted),
        "fits": [_fit(one.fit) for one in held.values()],
        "held_out": [_errors(one, runs) for one in held.values()],
        "other_objectives": [_fit(fit) for fit in report.others if fit.objective not in compared],
        "notes": [line for line in as_text(report).splitlines() if line.startswith("note")],
    }


def _fit(fit: LawFit) -> Numbers:
    a = size_exponent(fit)
    assert a is not None
    return {
        "objective": fit.objective.name + (" of log loss" if fit.objective.log else " of loss"),
        "constants": {name: _estimate(one) for name, one in (fit.constants | {"a": a}).items()},
        "rms_percent": fit.rms_percent,
    }


def _estimate(one: Estimate) -> dict[str, float]:
    """The value alone, where there are no draws."""
    return one._asdict() if np.isfinite(one.error) else {"value": one.value}


def _errors(held: HeldOut, runs: list[RunRecord]) -> Numbers:
    """Run -> error of the law with its interval, and of the power law, in per cent."""
    return {
        runs[row].name: error._asdict() | {"power_law": power}
        for row, error, power in zip(held.rows, held.errors, held.power_errors.tolist(), strict=True)
    }


def page(numbers: Numbers) -> list[str]:
    huber, squares = numbers["held_out"]
    return [
        text(
            f"{CHINCHILLA.formula} through the {numbers['runs']} annealed runs from 190M to 1.3B at 20 to 200 tokens "
            "per parameter (no reruns, none of 10 tokens per parameter), and its error on larger ones, in per cent, "
            "negative where the law promises too low a loss. Brackets are 95 % intervals of a bootstrap over runs. The "
            "7B and 13B saw other data and another anneal."
        ),
        table(
            {
                "run": run,
                "error, Huber(1e-3) of log loss": _percent(huber[run]),
                "error, least squares of log loss": _percent(squares[run]),
                "plain power law of compute": f"{huber[run]['power_law']:+.1f}",
            }
            for run in huber
        ),
        text("The same fits, and the same law by other objectives:"),
        table(map(_fit_row, (*numbers["fits"], *numbers["other_objectives"]))),
        text("`pagnol scaling fit --law` says of these 16 runs:"),
        "\n".join(["```text", *numbers["notes"], "```"]),
    ]


def _percent(one: dict[str, float]) -> str:
    return f"{one['value']:+.1f} {interval(one['low'], one['high'], '+.1f')}"


def _fit_row(fit: Numbers) -> dict[str, str]:
    told = {name: _constant(fit["constants"][name]) for name in ("E", "alpha", "beta", "a")}
    return {"objective": fit["objective"], **told, "rms": f"{fit['rms_percent']:.2f} %"}


def _constant(one: dict[str, float]) -> str:
    return f"{one['value']:.3f}" + (f" {interval(one['low'], one['high'], '.2f')}" if "low" in one else "")


SECTION = Section("The OLMo ladder: what 16 small runs say of 3B, 7B and 13B", measure, page)
