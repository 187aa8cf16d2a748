"""234 runs of Chinchilla (the `chinchilla` package's table) by several objectives, and the time of a bootstrap."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks.published.section import Numbers, Options, Section, interval, table, text
from benchmarks.published.simulate import noisy_losses, scattered
from pagnol_jax.scaling import final_points
from pagnol_jax.scaling.law_report import inputs_of, size_exponent
from pagnol_jax.scaling.laws import CHINCHILLA
from pagnol_jax.scaling.objectives import asymmetric, huber, least_absolute, least_squares
from pagnol_jax.scaling.parametric import LawFit, fit_law
from pagnol_jax.scaling.record import Array
from pagnol_jax.scaling.tables import read_table

# The package's own fit, as its notebook prints it (kyo-takano/chinchilla, examples/llm).
PACKAGE = {"A": 184.69, "B": 1633.48, "E": 1.70024, "alpha": 0.28901, "beta": 0.35579}
OBJECTIVES = (huber(), least_absolute(), least_squares(), least_squares(log=False), asymmetric(), asymmetric(log=False))
TIMED_DRAWS, TIMED_POINTS = 4000, 245  # of Besiroglu et al. 2024 (arXiv 2404.10102), who fitted as many points


def read(data: Path) -> tuple[dict[str, Array], Array]:
    """N and D [P] of the runs, and their loss [P]."""
    runs = read_table(data / "kyo_takano_chinchilla" / "df.csv", {"parameters": "N", "tokens": "D"})
    points = final_points(runs)
    return inputs_of(CHINCHILLA, points), points.loss_nats_per_token


def measure(options: Options) -> Numbers:
    inputs, loss = read(options.data)
    made_up = scattered(TIMED_POINTS)
    return {
        "points": loss.size,
        "package": PACKAGE,
        "fits": [_fit(fit_law(CHINCHILLA, inputs, loss, objective=objective)) for objective in OBJECTIVES],
        "bootstraps": {
            "these runs": _timed(inputs, loss),
            "simulated": _timed(made_up, noisy_losses(made_up, seed=0)),
        },
    }


def _fit(fit: LawFit) -> Numbers:
    a = size_exponent(fit)
    assert a is not None
    constants = {name: one.value for name, one in fit.constants.items()}
    return {
        "objective": fit.objective.name,
        "log": fit.objective.log,
        "constants": constants | {"a": a.value},
        "furthest_from_package": max(abs(constants[name] / value - 1) for name, value in PACKAGE.items()),
    }


def _timed(inputs: Mapping[str, Array], loss: Array) -> Numbers:
    """A fit by Huber's loss with its bootstrap, compilation included."""
    wall, cpu = time.perf_counter(), time.process_time()
    fit = fit_law(CHINCHILLA, inputs, loss, draws=TIMED_DRAWS)
    spent = {"wall_seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
    constants = {name: one._asdict() for name, one in fit.constants.items()}
    return {"points": loss.size, "draws": len(fit.draws), "constants": constants} | spent


def page(numbers: Numbers) -> list[str]:
    package = dict(numbers["package"])
    package["a"] = package["beta"] / (package["alpha"] + package["beta"])
    nearest = min(numbers["fits"], key=lambda fit: fit["furthest_from_package"])
    return [
        text(
            f"{CHINCHILLA.formula}, {numbers['points']} points: the objective is part of the result. The `chinchilla` "
            f"package's constants are those of **{_name(nearest)}**; the last column is how far, at most, a constant "
            "is from the package's."
        ),
        table(
            [
                *(_row(_name(fit), fit["constants"], f"{100 * fit['furthest_from_package']:.3g} %")
                  for fit in numbers["fits"]),
                _row("the package", package, ""),
            ]
        ),
        text(
            "A fit by Huber(1e-3) of log loss with its bootstrap over runs, compilation included; brackets are 95 % "
            "intervals:"
        ),
        table(_time_row(what, one) for what, one in numbers["bootstraps"].items()),
    ]  # fmt: skip


def _name(fit: Numbers) -> str:
    return f"{fit['objective']} of {'log loss' if fit['log'] else 'loss'}"


def _row(name: str, constants: dict[str, float], furthest: str) -> dict[str, str]:
    told = {constant: f"{constants[constant]:.5g}" for constant in ("A", "B", "E", "alpha", "beta", "a")}
    return {"objective": name, **told, "furthest": furthest}


def _time_row(what: str, one: Numbers) -> dict[str, str]:
    told = {
        name: f"{found['value']:.4f} {interval(found['low'], found['high'])}"
        for name, found in one["constants"].items()
        if name in ("alpha", "beta")
    }
    return {
        "data": f"{one['points']} points, {what}",
        "draws": f"{one['draws']:,}",
        "wall, measured": f"{one['wall_seconds']:.1f} s",
        "CPU": f"{one['cpu_seconds']:.1f} s",
        **told,
    }


SECTION = Section("A subset of Chinchilla's runs by six objectives, and bootstraps in time", measure, page)
