import numpy as np
import pytest

from pagnol_jax.errors import UserError
from pagnol_jax.scaling.isoflop import fit_isoflop, parabola_shift, reservations
from pagnol_jax.scaling.points import Points
from pagnol_jax.scaling.valleys import (
    Minimum,
    Noise,
    Valley,
    absolute_noise,
    akima,
    constant_noise,
    group_valleys,
    parabola,
    residual_noise,
)

CHINCHILLA = {"e": 1.69, "a": 406.4, "b": 410.7, "alpha": 0.34, "beta": 0.28}  # Hoffmann et al. 2022, eq. 10
EXPONENT = 0.28 / (0.34 + 0.28)
BUDGETS = np.geomspace(1e18, 1e20, 6)


def best_size(compute: float, a: float, b: float, alpha: float, beta: float, **_: float) -> float:
    """Hoffmann et al. 2022, eq. 4."""
    return float((alpha * a / (beta * b)) ** (1 / (alpha + beta)) * (compute / 6) ** (beta / (alpha + beta)))


def valley(compute: float, sizes: int, step: float, off: float = 0, **law: float) -> Valley:
    """`sizes` powers of `step`, centred on the best size times step^off."""
    law = CHINCHILLA | law
    nearest = np.round(np.log(best_size(compute, **law)) / np.log(step) + off)
    size = step ** (nearest + np.arange(sizes) - (sizes - 1) // 2)
    loss = law["e"] + law["a"] / size ** law["alpha"] + law["b"] / (compute / 6 / size) ** law["beta"]
    return Valley(compute, size, loss)


def ladder(sizes: int = 7, step: float = 2, budgets: np.ndarray = BUDGETS, **law: float) -> list[Valley]:
    return [valley(compute, sizes, step, **law) for compute in budgets]


def noisy(valleys: list[Valley], std: float, random: np.random.Generator) -> list[Valley]:
    return [
        v._replace(loss_nats_per_token=v.loss_nats_per_token * np.exp(std * random.normal(size=v.parameters.size)))
        for v in valleys
    ]


def points(valleys: list[Valley]) -> Points:
    size, loss = (np.concatenate([v[field] for v in valleys]) for field in (1, 2))
    compute = np.concatenate([np.full(v.parameters.size, v.compute_flops) for v in valleys])
    return Points(np.arange(size.size), compute / 6 / size, compute, loss, size)


def test_valleys_join_near_budgets_and_average_seeds() -> None:
    first, second = valley(1e18, 5, 2), valley(1e19, 6, 2)
    near = second._replace(compute_flops=1.015e19, loss_nats_per_token=second.loss_nats_per_token + 0.2)
    grouped = group_valleys(points([second, first, near, valley(1e20, 3, 2)]))
    assert [v.compute_flops for v in grouped] == pytest.approx([1e18, 1e19 * 1.015**0.5])
    np.testing.assert_array_equal(grouped[1].parameters, second.parameters)
    np.testing.assert_allclose(grouped[1].loss_nats_per_token, second.loss_nats_per_token + 0.1)


@pytest.mark.parametrize(
    ("valleys", "says"),
    [
        ([valley(1e18, 3, 2), valley(1e19, 2, 2)], "the fullest has 3"),
        ([valley(1e18, 5, 2)._replace(loss_nats_per_token=np.full(5, 3.0))], "one loss at 1e\\+18 FLOP"),
        ([valley(1e18, 5, 2)._replace(loss_nats_per_token=np.full(5, np.nan))], "the loss of every run"),
        ([valley(1e18, 5, 2)._replace(parameters=np.full(5, np.nan))], "the size of every run"),
    ],
)
def test_runs_that_make_no_valley_are_refused(valleys: list[Valley], says: str) -> None:
    with pytest.raises(UserError, match=says):
        group_valleys(points(valleys))


def test_fit_refuses_minima_at_the_border() -> None:
    valleys = [valley(compute, 7, 2, off=6) for compute in BUDGETS[1:]]
    with pytest.raises(UserError, match="1 of 6 compute budgets"):
        fit_isoflop([valley(BUDGETS[0], 7, 2), *valleys], draws=50)


@pytest.mark.parametrize("minimum", [akima, parabola])
def test_minima_are_found_curve_by_curve(minimum: Minimum) -> None:
    x = np.array([0.0, 1.0, 1.7, 2.5, 4.0, 4.9, 6.0])
    centres = np.array([1.3, 3.0, 4.2, -1.0, 8.0])
    found = minimum(x, 1 + 0.01 * (x[:, None] - centres) ** 2)
    np.testing.assert_allclose(found.log_parameters[:3], centres[:3], atol=0.1 if minimum is akima else 1e-9)
    np.testing.assert_allclose(found.log_loss[:3], 1, atol=1e-3)
    assert np.isnan(found.log_parameters[3:]).all()  # at a border, a parabola's vertex beyond it
    assert np.isnan(minimum(x, 1 - 0.01 * (x[:, None] - 3) ** 2).log_parameters).all()


@pytest.mark.parametrize("minimum", [akima, parabola])
@pytest.mark.parametrize(("sizes", "step"), [(7, 2), (9, 2), (11, 2**0.5)])
def test_noiseless_chinchilla_surface(minimum: Minimum, sizes: int, step: float) -> None:
    fit = fit_isoflop(ladder(sizes, step, np.geomspace(1e18, 1e21, 8)), minimum, constant_noise(1e-6), draws=20)
    assert fit.trusted.all()
    assert fit.law.exponent == pytest.approx(EXPONENT, abs=0.003)
    assert fit.line_unweighted[1] == pytest.approx(EXPONENT, abs=0.003)
    assert fit.law.tokens_exponent == pytest.approx(1 - EXPONENT, abs=0.003)
    np.testing.assert_allclose(fit.tokens * fit.parameters * 6, fit.compute_flops)
    best = [best_size(compute, **CHINCHILLA) for compute in fit.compute_flops]
    np.testing.assert_allclose(fit.law.coefficient * fit.compute_flops**fit.law.exponent, best, rtol=0.12)


def test_parabola_is_biased_by_lopsided_valleys_alone() -> None:
    # Equal exponents make log loss an even function of log N about its minimum, so no bias where sizes are centred.
    even = {"alpha": 0.3, "beta": 0.3, "a": 400.0, "b": 400.0}
    centred = [valley(6 * 4.0 ** (k + 20), 7, 2, **even) for k in range(4)]
    np.testing.assert_allclose(parabola_shift(centred), 0, atol=0.02)
    assert not any("parabola" in line for line in reservations(fit_isoflop(centred, draws=20)))
    wide = ladder(9, 4, alpha=0.45, beta=0.2, budgets=np.geomspace(1e19, 1e22, 8))
    shift = parabola_shift(wide)
    assert (shift > 0.2).all()  # the steep wall stands on the side of small sizes
    assert any(line.startswith(f"a parabola puts N* {100 * np.expm1(shift.mean()):+.0f} %") for line in reservations(
        fit_isoflop(wide, draws=20)
    ))  # fmt: skip


def test_reservations_in_words() -> None:
    valleys = [valley(1e18, 5, 2, off=5), *(valley(compute, 5, 2) for compute in (1e18, 3e18, 1e19))]
    valleys[0] = valleys[0]._replace(compute_flops=5e17)
    said = reservations(fit_isoflop(valleys, draws=50))
    assert said[:3] == [
        "least loss at or near the smallest or largest size, so left out: 5e+17 FLOP",
        "4 of 4 budgets have fewer than 6 sizes",
        "budgets span 1.0 decades: an exponent wants 2 or more",
    ]


def test_noise_is_told_from_the_valleys() -> None:
    random = np.random.default_rng(0)
    told = [residual_noise(noisy(ladder(), 0.003, random)) for _ in range(200)]
    squares = np.array([noise.log_std(np.ones(1))[0] ** 2 for noise in told])
    assert squares.mean() == pytest.approx(0.003**2, rel=0.1)
    # A mean square on f degrees of freedom has a relative variance of 2 / f.
    assert 2 / (squares.std() / squares.mean()) ** 2 == pytest.approx(told[0].degrees_of_freedom, rel=0.25)
    assert residual_noise(ladder()).log_std(np.ones(1))[0] < 3e-4


def test_noise_in_nats_is_relative_to_the_loss() -> None:
    np.testing.assert_allclose(absolute_noise(0.01).log_std(np.array([2.0, 4.0])), [0.005, 0.0025])


@pytest.mark.parametrize(
    ("minimum", "noise"), [(akima, constant_noise(0.003)), (parabola, constant_noise(0.003)), (parabola, None)]
)
def test_intervals_cover_the_truth(minimum: Minimum, noise: Noise | None) -> None:
    random, covered, exponents = np.random.default_rng(0), 0, []
    valleys = ladder()
    for repeat in range(500):
        law = fit_isoflop(noisy(valleys, 0.003, random), minimum, noise, draws=300, seed=repeat).law
        low, high = law.exponent_interval
        covered += low < EXPONENT < high
        exponents.append(law.exponent)
    print(f"\n{minimum.__name__} covered {covered / 5:.1f} %, std of a {np.std(exponents):.4f}")
    assert 0.92 <= covered / 500 <= 0.98
    assert abs(np.mean(exponents) - EXPONENT) < 0.005
