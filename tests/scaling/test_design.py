import numpy as np
import pytest
from scipy.optimize import least_squares

from pagnol_jax.errors import UserError
from pagnol_jax.scaling.allocate import exponents, optimum
from pagnol_jax.scaling.design import Design, along_optimum, candidates, design_ladder, predicted_precision
from pagnol_jax.scaling.laws import CHINCHILLA, CHINCHILLA_TIED, Law, evaluate, from_constants
from pagnol_jax.scaling.plan import PUBLISHED

HOFFMANN = PUBLISHED["hoffmann"].parameters
TARGET, SHARE, NOISE = 6.3e21, 6.3e19, 0.003
SIZES = np.geomspace(1e7, 2e9, 20)


@pytest.fixture(scope="module")
def ladder() -> Design:
    return design_ladder(CHINCHILLA, HOFFMANN, TARGET, SHARE, list(SIZES))


def precision(design: Design, law: Law = CHINCHILLA, parameters: np.ndarray = HOFFMANN) -> np.ndarray:
    return np.array(predicted_precision(law, parameters, design, TARGET, NOISE))


def test_the_ladder_is_affordable_and_spans_two_decades(ladder: Design) -> None:
    compute = ladder.compute_flops
    assert compute.sum() <= SHARE
    assert compute.max() / compute.min() == pytest.approx(100, rel=0.5)
    assert len(set(zip(*ladder, strict=True))) == 10
    assert set(ladder.parameters) <= set(SIZES)


def test_better_than_the_usual_ladder_and_than_chance(ladder: Design) -> None:
    usual = along_optimum(CHINCHILLA, HOFFMANN, SHARE)
    assert usual.compute_flops.sum() == pytest.approx(SHARE)
    told, usually = precision(ladder), precision(usual)
    assert told[0] < usually[0]
    # Along the optimum A / N^alpha and B / D^beta are proportional: the exponents cannot be told apart.
    assert np.isinf(usually[1:]).all()
    assert np.isfinite(told).all()

    pool, random = candidates(list(SIZES), SHARE), np.random.default_rng(0)
    drawn = (pool.take(random.permutation(pool.tokens.size)[:10]) for _ in range(150))
    affordable = [design for design in drawn if design.compute_flops.sum() <= SHARE]
    assert len(affordable) > 30
    chance = min(precision(design)[:2].prod() for design in affordable)
    assert told[:2].prod() < 0.8 * chance


def test_predicted_errors_are_those_of_simulated_fits(ladder: Design) -> None:
    clean = np.log(evaluate(CHINCHILLA, HOFFMANN, N=ladder.parameters, D=ladder.tokens))
    log_n, log_d = np.log(ladder.parameters), np.log(ladder.tokens)
    random = np.random.default_rng(0)

    def refit() -> np.ndarray:
        measured = clean + NOISE * random.normal(size=clean.size)

        def residuals(p: np.ndarray) -> np.ndarray:
            log_a, log_b, log_e, alpha, beta = p
            return np.log(np.exp(log_a - alpha * log_n) + np.exp(log_b - beta * log_d) + np.exp(log_e)) - measured

        return least_squares(residuals, HOFFMANN, method="lm").x

    fits = np.array([refit() for _ in range(300)])
    best = optimum(CHINCHILLA, fits, TARGET)
    simulated = [np.log(best.loss).std(), np.log(best.parameters).std(), exponents(CHINCHILLA, fits)[0].std()]
    assert precision(ladder) == pytest.approx(simulated, rel=0.3)


def test_errors_are_proportional_to_noise_and_fall_with_the_share(ladder: Design) -> None:
    double = np.array(predicted_precision(CHINCHILLA, HOFFMANN, ladder, TARGET, 2 * NOISE))
    assert double == pytest.approx(2 * precision(ladder))
    more = design_ladder(CHINCHILLA, HOFFMANN, TARGET, 10 * SHARE, list(SIZES * 3))
    assert (precision(more) < precision(ladder))[:2].all()


def test_tied_exponents_are_a_law_too() -> None:
    tied = from_constants(CHINCHILLA_TIED, A=400, B=900, E=1.8, alpha=0.34)
    told = precision(design_ladder(CHINCHILLA_TIED, tied, TARGET, SHARE, list(SIZES)), CHINCHILLA_TIED, tied)
    assert np.isfinite(told).all()
    assert told[2] == 0  # a is one half by definition


def test_sizes_that_do_not_fit_are_told() -> None:
    with pytest.raises(UserError, match="give 0 candidates for a ladder of 10 runs"):
        design_ladder(CHINCHILLA, HOFFMANN, TARGET, SHARE, [1e12])
