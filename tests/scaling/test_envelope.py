import numpy as np
import pytest

from pagnol_jax.errors import UserError
from pagnol_jax.scaling.envelope import fit_envelope
from pagnol_jax.scaling.frontier import lower_hull
from pagnol_jax.scaling.points import Points
from pagnol_jax.scaling.valleys import constant_noise

E, A, B, ALPHA, BETA = 1.69, 406.4, 410.7, 0.34, 0.28  # Hoffmann et al. 2022, eq. 10
EXPONENT = BETA / (ALPHA + BETA)
G = (ALPHA * A / (BETA * B)) ** (1 / (ALPHA + BETA))  # eq. 4: N* = G (C / 6)^a


def curves(sizes: int, step: float, checkpoints: int = 60, floor: float = E, reach: float = 30) -> Points:
    """Curves of Chinchilla's law from 50M parameters, `reach` times either side of the compute a size is best for."""
    size = 5e7 * step ** np.arange(sizes)[:, None]
    compute = 6 * (size / G) ** (1 / EXPONENT) * np.geomspace(1 / reach, reach, checkpoints)
    loss = floor + A / size**ALPHA + B / (compute / 6 / size) ** BETA
    run, size = (np.broadcast_to(column, compute.shape).ravel() for column in (np.arange(sizes)[:, None], size))
    return Points(run, compute.ravel() / 6 / size, compute.ravel(), loss.ravel(), size)


def offset(points: Points, std: float, random: np.random.Generator) -> Points:
    """Every run's loss moved as a whole."""
    factors = np.exp(std * random.normal(size=points.run.max() + 1))
    return points._replace(loss_nats_per_token=points.loss_nats_per_token * factors[points.run])


@pytest.mark.parametrize(("sizes", "step", "checkpoints"), [(7, 3, 60), (6, 4, 200), (10, 2, 60), (10, 2, 300)])
def test_noiseless_chinchilla_curves(sizes: int, step: float, checkpoints: int) -> None:
    fit = fit_envelope(curves(sizes, step, checkpoints), constant_noise(0), draws=2)
    assert fit.law.exponent == pytest.approx(EXPONENT, abs=0.005)
    told = np.isfinite(fit.compute_flops)
    np.testing.assert_array_equal(told, [False, *[True] * (sizes - 2), False])
    best = (fit.parameters[told] / G) ** (1 / EXPONENT) * 6
    np.testing.assert_allclose(np.log(fit.compute_flops[told]), np.log(best), atol=0.25)


def test_a_frontier_without_floor_is_straight_and_no_hull() -> None:
    with pytest.raises(UserError, match="0 of 8 sizes"):
        fit_envelope(curves(8, 2, floor=0), constant_noise(0), draws=2)


def test_stretches_are_those_of_the_hull() -> None:
    points = offset(curves(8, 2, 300), 0.001, np.random.default_rng(3))
    x = np.log(points.compute_flops)
    hull = lower_hull(x, np.log(points.loss_nats_per_token))
    fit = fit_envelope(points, constant_noise(0.001), draws=2)
    on_hull = np.unique(points.parameters[hull])
    np.testing.assert_array_equal(fit.parameters[np.isfinite(fit.compute_flops)], on_hull[1:-1])
    for size in on_hull[1:-1]:
        own = x[hull][points.parameters[hull] == size]
        ours = np.log(fit.compute_flops[fit.parameters == size][0])
        assert ours == pytest.approx((own.min() + own.max()) / 2, abs=0.06)


def test_several_runs_of_one_size_are_one_curve() -> None:
    points = curves(7, 3)
    halves = points._replace(run=2 * points.run + (np.arange(points.run.size) % 60 < 30))
    one, two = (fit_envelope(p, constant_noise(0), draws=2) for p in (points, halves))
    np.testing.assert_allclose(two.compute_flops, one.compute_flops)


def test_a_size_trained_too_short_tells_nothing() -> None:
    points = curves(7, 3)
    best = 6 * (points.parameters / G) ** (1 / EXPONENT)
    short = points.take((points.run != 3) | (points.compute_flops < best))
    fit = fit_envelope(short, constant_noise(0), draws=2)
    assert np.flatnonzero(np.isfinite(fit.compute_flops)).tolist() == [1, 2, 4, 5]


@pytest.mark.parametrize(
    ("points", "says"),
    [
        (curves(2, 2), "three known sizes or more; these have 2"),
        (curves(4, 2)._replace(parameters=np.full(240, np.nan)), "three known sizes"),
        (curves(3, 2), "1 of 3 sizes"),
        (curves(4, 2)._replace(loss_nats_per_token=np.full(240, 3.0)), "does not fall"),
    ],
)
def test_curves_without_envelope_are_refused(points: Points, says: str) -> None:
    with pytest.raises(UserError, match=says):
        fit_envelope(points, constant_noise(0.003), draws=10)


@pytest.mark.parametrize(("sizes", "step", "reach"), [(7, 3, 30), (6, 4, 100)])
def test_intervals_cover_the_truth(sizes: int, step: float, reach: float) -> None:
    clean, random, covered, exponents = curves(sizes, step, reach=reach), np.random.default_rng(0), 0, []
    for repeat in range(500):
        law = fit_envelope(offset(clean, 0.003, random), constant_noise(0.003), draws=300, seed=repeat).law
        low, high = law.exponent_interval
        covered += low < EXPONENT < high
        exponents.append(law.exponent)
    print(f"\ncovered {covered / 5:.1f} %, std of a {np.std(exponents):.4f}")
    assert 0.92 <= covered / 500 <= 0.98
    assert abs(np.mean(exponents) - EXPONENT) < 0.005
