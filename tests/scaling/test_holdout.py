"""Hold-out errors: the right runs, the right fit, against the arithmetic written out again."""

import numpy as np
import pytest
from scaling.simulated import HOFFMANN, grid, losses

from pagnol_jax.errors import UserError
from pagnol_jax.scaling import laws
from pagnol_jax.scaling.holdout import compute_of, hold_out
from pagnol_jax.scaling.laws import CHINCHILLA, POWER_C, evaluate
from pagnol_jax.scaling.objectives import least_squares
from pagnol_jax.scaling.parametric import LawFit, fit_law

INPUTS = grid(5, 4)
COMPUTE = 6 * INPUTS["N"] * INPUTS["D"]


def fitted(noise: float, **options: object) -> LawFit:
    return fit_law(CHINCHILLA, INPUTS, losses(INPUTS, noise), objective=least_squares(), **options)  # type: ignore[arg-type]


def test_a_law_without_noise_predicts_what_it_has_not_seen() -> None:
    held = hold_out(fitted(0.0), share=0.25, draws=2)
    largest = np.sort(COMPUTE)[-5:]
    np.testing.assert_array_equal(COMPUTE[held.rows], largest)
    np.testing.assert_allclose([error.value for error in held.errors], 0, atol=1e-6)
    np.testing.assert_allclose(held.fit.parameters, HOFFMANN, rtol=1e-5)
    # A power law through the efficient runs knows no floor: it promises too low a loss.
    assert held.power_errors[-1] < -0.5


def test_errors_are_those_of_a_fit_to_the_other_runs() -> None:
    weights = np.linspace(1, 3, COMPUTE.size)
    fit = fitted(0.003, weights=weights)
    held = hold_out(fit, draws=50)
    rest = np.setdiff1d(np.arange(20), np.argsort(COMPUTE)[-2:])  # without a tenth of 20 runs
    again = fit_law(
        CHINCHILLA,
        {name: column[rest] for name, column in INPUTS.items()},
        fit.loss[rest],
        objective=least_squares(),
        weights=weights[rest],
    )
    out = {name: column[held.rows] for name, column in INPUTS.items()}
    expected = 100 * (evaluate(CHINCHILLA, again.parameters, **out) / fit.loss[held.rows] - 1)
    np.testing.assert_allclose([error.value for error in held.errors], expected, atol=1e-6)
    assert all(error.low < error.value < error.high for error in held.errors)
    assert held.fit.draws.shape == (50, 5)


def test_the_plain_power_law_goes_through_the_efficient_runs_left() -> None:
    fit = fitted(0.003)
    held = hold_out(fit, draws=2)
    rest = sorted(zip(COMPUTE, fit.loss, strict=True))[:-2]
    efficient = [(c, loss) for c, loss in rest if all(loss <= other for d, other in rest if d < 1.02 * c)]
    slope, height = np.polyfit(*np.log(efficient).T, 1)
    predicted = np.exp(height) * COMPUTE[held.rows] ** slope
    np.testing.assert_allclose(held.power_errors, 100 * (predicted / fit.loss[held.rows] - 1), rtol=1e-6)


def test_a_run_is_held_out_with_all_its_observations() -> None:
    size = np.repeat(np.geomspace(4e7, 4e9, 8), 3)
    inputs = {"N": size, "D": size * np.tile([5.0, 20.0, 80.0], 8)}
    run = np.repeat(np.arange(8), 3)
    fit = fit_law(CHINCHILLA, inputs, losses(inputs, 0.003), run=run, objective=least_squares())
    assert hold_out(fit, draws=2).rows.tolist() == [21, 22, 23]
    chosen = hold_out(fit, runs=np.array([0, 7]), draws=2)
    assert chosen.rows.tolist() == [0, 1, 2, 21, 22, 23]  # by compute
    assert chosen.fit.loss.size == 18


def test_one_efficient_run_makes_no_power_law() -> None:
    compute = np.geomspace(1e18, 1e20, 6)
    loss = np.array([3.0, 3.1, 3.2, 3.3, 3.4, 2.5])  # until the last, more compute is worse
    held = hold_out(fit_law(POWER_C, {"C": compute}, loss, objective=least_squares()), draws=2)
    assert np.isnan(held.power_errors).all()
    assert np.isfinite(held.errors[0].value)


def test_nonsense_is_told_in_a_line() -> None:
    points = {"N": INPUTS["N"], "S": INPUTS["D"] / 5e5}
    steps = fit_law(laws.KAPLAN_STEPS, points, losses(INPUTS), objective=least_squares())
    with pytest.raises(UserError, match=r"knows no compute, so no run of most compute can be held out") as error:
        compute_of(steps)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="has 5 constants: it needs more than the 5 observations"):
        hold_out(fitted(0.003), share=0.75, draws=2)
