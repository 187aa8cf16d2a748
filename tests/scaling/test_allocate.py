import numpy as np
import pytest
from scipy.optimize import brentq, minimize_scalar

from pagnol_jax.errors import UserError
from pagnol_jax.scaling.allocate import at_size, cheapest, exponents, lifetime_optimum, optimum, overtrained
from pagnol_jax.scaling.laws import CHINCHILLA, CHINCHILLA_TIED, KAPLAN_DATA, evaluate, from_constants
from pagnol_jax.scaling.plan import PUBLISHED

HOFFMANN = PUBLISHED["hoffmann"].parameters
TIED = from_constants(CHINCHILLA_TIED, A=300, B=900, E=1.8, alpha=0.35)
LAWS = [(CHINCHILLA, HOFFMANN), (CHINCHILLA, PUBLISHED["besiroglu"].parameters), (CHINCHILLA_TIED, TIED)]
# Draws of a bootstrap: the law itself, one without an optimum, and another law.
DRAWS = HOFFMANN + np.array([[0, 0, 0, 0, 0], [0, 0, 0, -0.5, 0], [0.5, 0, 0, 0.02, 0.03]])


def test_published_optima_of_hoffmann() -> None:
    a, b = exponents(CHINCHILLA, HOFFMANN)
    assert a == pytest.approx(0.4565, abs=5e-5)
    assert a + b == pytest.approx(1)
    # Hoffmann et al. 2022: 40 billion parameters at Gopher's budget (figure 4), 67 billion at 1.71e24 FLOP (table A3).
    best = optimum(CHINCHILLA, HOFFMANN, np.array([5.76e23, 1.71e24]))
    assert best.parameters == pytest.approx([40e9, 67e9], rel=0.015)
    assert best.compute_flops == pytest.approx([5.76e23, 1.71e24])


@pytest.mark.parametrize(("law", "parameters"), LAWS)
def test_closed_form_is_the_minimum_over_sizes(law, parameters) -> None:
    for compute in (1e18, 1e21, 1e25):
        best = optimum(law, parameters, compute)
        least = minimize_scalar(
            lambda log_n, c=compute: float(evaluate(law, parameters, N=np.exp(log_n), D=c / 6 / np.exp(log_n))),
            bracket=(np.log(best.parameters) - 2, np.log(best.parameters) + 1),
            tol=1e-10,
        )
        assert best.loss == pytest.approx(least.fun, rel=1e-12)
        assert np.log(best.parameters) == pytest.approx(least.x, abs=1e-6)
        assert at_size(law, parameters, compute, best.parameters / 3).loss > best.loss


@pytest.mark.parametrize(("law", "parameters"), LAWS)
def test_cheapest_inverts_the_optimum(law, parameters) -> None:
    best = optimum(law, parameters, 3e21)
    for back in (cheapest(law, parameters, best.loss), lifetime_optimum(law, parameters, best.loss, 0.0)):
        np.testing.assert_allclose(back, best, rtol=1e-9)
    assert np.isnan(cheapest(law, parameters, 1.0).loss)


def test_a_smaller_model_reaches_the_loss_or_never() -> None:
    best = optimum(CHINCHILLA, HOFFMANN, 1e22)
    small = overtrained(CHINCHILLA, HOFFMANN, best.loss, best.parameters / np.array([1, 2, 4, 50]))
    assert small.loss[:3] == pytest.approx(float(best.loss))
    assert small.tokens[0] == pytest.approx(float(best.tokens))
    assert (np.diff(small.compute_flops[:3]) > 0).all()
    assert small.tokens[3] == np.inf


def test_lifetime_optimum_is_the_minimum_over_sizes() -> None:
    best = optimum(CHINCHILLA, HOFFMANN, 1e22)
    for served in (1e10, 1e12, 1e15):
        model = lifetime_optimum(CHINCHILLA, HOFFMANN, best.loss, served)

        def life(log_n: float, served: float = served) -> float:
            small = overtrained(CHINCHILLA, HOFFMANN, best.loss, np.exp(log_n))
            return float(small.compute_flops + 2 * np.exp(log_n) * served)

        least = minimize_scalar(life, bounds=np.log(best.parameters) + np.array([-2, 0.1]), options={"xatol": 1e-9})
        assert np.log(model.parameters) == pytest.approx(least.x, abs=1e-5)
        assert model.loss == pytest.approx(float(best.loss))


def test_savings_of_sardana() -> None:
    # Sardana et al. 2024 (arXiv 2401.00448), figure 1, by Hoffmann's constants with exponents of .336 and .283: as good
    # as an optimal 13B for 2T tokens of inference, a 7B saves 1.7e22 FLOP, 17 %.
    law = from_constants(CHINCHILLA, A=406.4, B=410.7, E=1.69, alpha=0.336, beta=0.283)
    compute = np.exp(brentq(lambda c: optimum(CHINCHILLA, law, np.exp(c)).parameters - 13e9, 45, 60))
    large = optimum(CHINCHILLA, law, compute)
    small = overtrained(CHINCHILLA, law, large.loss, 7e9)
    whole, saved = (model.compute_flops + 2 * model.parameters * 2e12 for model in (large, small))
    assert whole - saved == pytest.approx(1.7e22, rel=0.01)
    assert 1 - saved / whole == pytest.approx(0.17, abs=0.005)
    assert lifetime_optimum(CHINCHILLA, law, large.loss, 2e12).parameters == pytest.approx(7e9, rel=0.01)


def test_all_draws_at_once() -> None:
    best = optimum(CHINCHILLA, DRAWS, 1e22)
    assert best.parameters[0] == optimum(CHINCHILLA, HOFFMANN, 1e22).parameters
    assert np.isnan(best.loss[1])  # a loss that rises with size has no optimum
    life = lifetime_optimum(CHINCHILLA, DRAWS, best.loss, 1e12)
    assert life.loss[[0, 2]] == pytest.approx(best.loss[[0, 2]])
    assert optimum(CHINCHILLA, DRAWS[:, None], np.array([1e21, 1e22])).loss.shape == (3, 2)
    assert optimum(CHINCHILLA, np.empty((0, 5)), 1e22).loss.shape == (0,)


def test_other_laws_are_refused() -> None:
    with pytest.raises(UserError, match="does not tell sizes and tokens apart"):
        optimum(KAPLAN_DATA, np.ones(4), 1e20)
