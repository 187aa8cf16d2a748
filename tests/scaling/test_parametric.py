"""Approach 3: published constants, independent solvers, planted laws."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scaling.simulated import HOFFMANN, grid, losses
from scipy import optimize

from benchmarks.published import chinchilla
from pagnol_jax.errors import UserError
from pagnol_jax.scaling import laws
from pagnol_jax.scaling.laws import CHINCHILLA, LAWS, Law, constants, evaluate, from_constants
from pagnol_jax.scaling.objectives import Objective, asymmetric, huber, least_absolute, least_squares
from pagnol_jax.scaling.parametric import fit_law
from pagnol_jax.scaling.projection import project


@pytest.mark.parametrize(
    ("objective", "a", "b", "e", "alpha", "beta", "digits"),
    [
        # The `chinchilla` package (kyo-takano), as its data's README states them.
        (huber(1e-3), 442, 1272, 1.784, 0.343, 0.342, 5e-4),
        (asymmetric(10.0, log=False), 184.69, 1633.48, 1.70024, 0.28901, 0.35579, 2e-5),
    ],
    ids=["huber", "asymmetric"],
)
def test_published_constants(
    data_dir: Path, objective: Objective, a: float, b: float, e: float, alpha: float, beta: float, digits: float
) -> None:
    fit = fit_law(CHINCHILLA, *chinchilla.read(data_dir / "scaling"), objective=objective)
    assert fit.converged
    assert fit.optima == 1
    found = {name: one.value for name, one in fit.constants.items()}
    assert (found["alpha"], found["beta"]) == pytest.approx((alpha, beta), abs=digits)
    assert found["E"] == pytest.approx(e, abs=digits)
    assert (found["A"], found["B"]) == pytest.approx((a, b), rel=20 * digits)


def test_least_squares_agrees_with_scipy_and_with_projection(data_dir: Path) -> None:
    inputs, loss = chinchilla.read(data_dir / "scaling")
    ours = fit_law(CHINCHILLA, inputs, loss, objective=least_squares(log=False))
    scipys = optimize.least_squares(
        lambda p: loss - evaluate(CHINCHILLA, p, **inputs), HOFFMANN, x_scale="jac", xtol=1e-15, ftol=1e-15, gtol=1e-15
    )
    np.testing.assert_allclose(ours.parameters, scipys.x, rtol=1e-5)
    assert 2 * ours.value == pytest.approx(np.mean(scipys.fun**2), rel=1e-9)
    np.testing.assert_allclose(project(CHINCHILLA, inputs, loss).parameters, scipys.x, rtol=1e-4)


@pytest.mark.parametrize("objective", [huber(1e-3), huber(1e-2, log=False), least_absolute(), asymmetric(3.0)])
def test_no_other_solver_finds_less(objective: Objective) -> None:
    """Nelder-Mead from the answer and from near it, on the penalty written out again."""
    inputs = grid(5, 4)
    loss = losses(inputs, noise=0.01)

    def penalty(parameters: np.ndarray) -> float:
        log_a, log_b, log_e, alpha, beta = parameters
        predicted = np.exp(log_a) / inputs["N"] ** alpha + np.exp(log_b) / inputs["D"] ** beta + np.exp(log_e)
        r = np.log(loss / predicted) if objective.log else loss - predicted
        value = np.where(abs(r) <= objective.width, r**2 / 2 / objective.width, abs(r) - objective.width / 2)
        return float(np.mean(np.where(r < 0, objective.above, 1) * value))

    fit = fit_law(CHINCHILLA, inputs, loss, objective=objective)
    assert fit.value == pytest.approx(penalty(fit.parameters), rel=1e-9)
    for start in (fit.parameters, fit.parameters * 1.01):
        other = optimize.minimize(penalty, start, method="Nelder-Mead", options={"maxiter": 3000})
        assert other.fun >= fit.value * (1 - 1e-6)


PLANTED: list[tuple[Law, dict[str, float]]] = [
    (laws.POWER_C, {"A": 30.0, "alpha": 0.05}),
    (laws.FLOORED_D, {"A": 900.0, "E": 1.7, "alpha": 0.31}),
    (laws.KAPLAN_DATA, {"N_c": 6.4e13, "D_c": 1.8e13, "alpha_N": 0.076, "alpha_D": 0.103}),
    (laws.KAPLAN_STEPS, {"A": 11.6, "B": 336.0, "alpha_N": 0.077, "alpha_S": 0.76}),
    (laws.CHINCHILLA, {"A": 406.4, "B": 410.7, "E": 1.69, "alpha": 0.34, "beta": 0.28}),
    (laws.CHINCHILLA_TIED, {"A": 521.0, "B": 1488.0, "E": 1.87, "alpha": 0.353}),
    (laws.OVERTRAINED, {"A": 212.0, "B": 367.0, "E": 1.84, "eta": 0.136}),
]


@pytest.mark.parametrize(("law", "planted"), PLANTED, ids=[law.name for law, _ in PLANTED])
def test_planted_constants_are_recovered(law: Law, planted: dict[str, float]) -> None:
    points = grid()
    points |= {"C": 6 * points["N"] * points["D"], "M": points["D"] / points["N"], "S": points["D"] / 5e5}
    inputs = {name: points[name] for name in law.inputs}
    loss = evaluate(law, from_constants(law, **planted), **inputs)
    fit = fit_law(law, inputs, loss)
    assert fit.converged
    assert {name: one.value for name, one in fit.constants.items()} == pytest.approx(planted, rel=1e-4)
    np.testing.assert_allclose(fit.predict(**inputs), loss, rtol=1e-7)


def test_repeated_data_law() -> None:
    law = laws.repeated(HOFFMANN)
    points = grid()
    unique = points["D"] / np.tile([1.0, 4.0, 16.0], 16)
    loss = evaluate(law, np.log([15.0, 5.0]), U=unique, **points)
    fresh = evaluate(CHINCHILLA, HOFFMANN, **points)
    assert np.all(loss >= fresh - 1e-12)  # repetition never helps
    assert np.all(loss[unique < points["D"]] > fresh[unique < points["D"]])
    fit = fit_law(law, {**points, "U": unique}, loss)
    assert (fit.constants["R_D"].value, fit.constants["R_N"].value) == pytest.approx((15.0, 5.0), rel=1e-3)


def test_four_epochs_are_nearly_fresh() -> None:
    """With a half-life of 15 epochs, 4 epochs of U are worth 3.73 U (Muennighoff et al. 2023, eq. 5, by hand)."""
    law = laws.repeated(HOFFMANN)
    small = 1e6  # no parameters beyond what the tokens warrant
    seen = evaluate(law, np.log([15.0, 5.0]), N=small, D=4e9, U=1e9)
    worth = 1e9 * (1 + 15 * (1 - np.exp(-3 / 15)))
    assert worth == pytest.approx(3.719e9, rel=1e-3)
    assert seen == pytest.approx(evaluate(CHINCHILLA, HOFFMANN, N=small, D=worth), rel=1e-12)


def test_laws_say_where_they_come_from() -> None:
    for law in LAWS.values():
        assert law.source
        assert law.formula.startswith("L = ")
        assert all(name in law.formula for name in law.inputs)
        assert all(name.removeprefix("log_") in law.formula for name in law.parameters)
        assert set(constants(law, np.zeros(len(law.parameters)))) == {p.removeprefix("log_") for p in law.parameters}


def test_bootstrap_resamples_runs() -> None:
    inputs = grid(6, 4)
    loss = losses(inputs, noise=0.003)
    apart = fit_law(CHINCHILLA, inputs, loss, objective=least_squares(), draws=200)
    twice = {name: np.tile(column, 2) for name, column in inputs.items()}
    runs = np.tile(np.arange(loss.size), 2)
    together = fit_law(CHINCHILLA, twice, np.tile(loss, 2), run=runs, objective=least_squares(), draws=200)
    # Every point twice adds nothing if the copies are of one run.
    np.testing.assert_allclose(together.draws, apart.draws, rtol=1e-4)
    alpha = apart.constants["alpha"]
    assert alpha.low < alpha.value < alpha.high
    assert alpha.error == pytest.approx((alpha.high - alpha.low) / 3.92, rel=0.3)


def test_weights_are_repetitions() -> None:
    inputs = grid(5, 4)
    loss = losses(inputs, noise=0.01)
    weights = np.where(np.arange(loss.size) % 3 == 0, 3.0, 1.0)
    rows_ = np.repeat(np.arange(loss.size), weights.astype(int))
    weighted = fit_law(CHINCHILLA, inputs, loss, weights=weights)
    repeated = fit_law(CHINCHILLA, {name: column[rows_] for name, column in inputs.items()}, loss[rows_])
    np.testing.assert_allclose(weighted.parameters, repeated.parameters, rtol=1e-6)


def test_an_answer_equal_to_its_start_is_refused() -> None:
    inputs = grid(5, 4)
    loss = losses(inputs)
    with pytest.raises(UserError, match="ended where it started"):
        fit_law(CHINCHILLA, inputs, loss, starts=HOFFMANN[None])


def test_projection_gives_a_floor_of_zero() -> None:
    """Where the data want none: the fit of a logarithm would run away."""
    inputs = {"D": np.geomspace(1e8, 1e11, 12)}
    loss = 40 * inputs["D"] ** -0.12 - 0.2
    found = project(laws.FLOORED_D, inputs, loss)
    assert found.parameters[1] == -np.inf
    plain = fit_law(laws.POWER_D, inputs, loss, objective=least_squares(log=False))
    np.testing.assert_allclose(found.parameters[[0, 2]], plain.parameters, rtol=1e-4)
    with pytest.raises(UserError, match="not linear"):
        project(laws.KAPLAN_DATA, inputs, loss)


def nan_loss(inputs: dict, loss: np.ndarray) -> None:
    loss[3] = np.nan


def constant_loss(inputs: dict, loss: np.ndarray) -> None:
    loss[:] = 3.0


def equal_sizes(inputs: dict, loss: np.ndarray) -> None:
    inputs["N"][:] = 1e8


def no_tokens(inputs: dict, loss: np.ndarray) -> None:
    inputs["D"][0] = np.nan


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (nan_loss, "needs the loss of every run; one is nan"),
        (constant_loss, "all observations have the same loss"),
        (equal_sizes, "all observations have the same parameters"),
        (no_tokens, "needs the tokens of every run; one is nan"),
    ],
)
def test_nonsense_is_told_in_a_line(spoil: Callable, told: str) -> None:
    inputs = grid(5, 4)
    loss = losses(inputs)
    spoil(inputs, loss)
    with pytest.raises(UserError, match=told) as raised:
        fit_law(CHINCHILLA, inputs, loss)
    assert "\n" not in str(raised.value)


def test_too_few_observations() -> None:
    inputs = {"N": np.array([1e8, 2e8, 3e8]), "D": np.array([1e9, 3e9, 2e9])}
    with pytest.raises(UserError, match="has 5 constants: it needs more than the 3 observations"):
        fit_law(CHINCHILLA, inputs, losses(inputs))
    with pytest.raises(UserError, match="several runs"):
        fit_law(CHINCHILLA, grid(), losses(grid()), run=np.zeros(48, int))
