import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from pagnol_jax.scaling.frontier import least_squares, least_squares_under, lower_hull, pareto_set

# Launay et al. 2022, figure 1: the point of each curve at the four vertices of the dashed line.
FIGURE_PF_DAYS = np.array([1.014686e-03, 6.015640e-03, 3.024733e-02, 2.003172e-01])
FIGURE_LOSS = np.array([4.443830, 4.095150, 3.874820, 3.634430])

coordinates = st.integers(-40, 40).map(lambda n: n / 8)
point_sets = st.lists(st.tuples(coordinates, coordinates), min_size=2, max_size=12).filter(
    lambda points: len({x for x, _ in points}) > 1
)


def columns(points: list[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.array(points).T
    return x, y


def squares(line: np.ndarray, x: np.ndarray, y: np.ndarray) -> float:
    return float(((y - line[0] - line[1] * x) ** 2).sum())


def brute_force_under(x: np.ndarray, y: np.ndarray) -> float:
    """Least error over the free line, the best line through each point, and the line through each pair."""
    lines = [least_squares(x, y)]
    for i in range(len(x)):
        dx, dy = x - x[i], y - y[i]
        slopes = [dx @ dy / (dx @ dx), *(dy[dx != 0] / dx[dx != 0])]
        lines += [np.array([y[i] - slope * x[i], slope]) for slope in slopes]
    return min(squares(line, x, y) for line in lines if (line[0] + line[1] * x <= y + 1e-9).all())


def test_figure_1_of_the_paper() -> None:
    intercept, exponent = least_squares_under(np.log(FIGURE_PF_DAYS), np.log(FIGURE_LOSS))
    assert exponent == pytest.approx(-0.03616, abs=1e-5)
    assert np.exp(intercept) == pytest.approx(3.4039, abs=1e-4)
    free = least_squares(np.log(FIGURE_PF_DAYS), np.log(FIGURE_LOSS))
    assert free[1] == pytest.approx(-0.03768, abs=1e-5)
    assert np.exp(free[0]) == pytest.approx(3.4054, abs=1e-4)


@given(point_sets)
@settings(max_examples=300, deadline=None)
def test_fit_is_under_the_data_and_the_best_that_is(points: list[tuple[float, float]]) -> None:
    x, y = columns(points)
    line = least_squares_under(x, y)
    assert (line[0] + line[1] * x <= y + 1e-9).all()
    assert squares(line, x, y) == pytest.approx(brute_force_under(x, y), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("seed", range(10))
def test_fit_agrees_with_slsqp(seed: int) -> None:
    random = np.random.default_rng(seed)
    x = np.sort(random.uniform(-5, 5, 20))
    y = 1 - 0.3 * x + 0.1 * random.normal(size=20)
    under = {"type": "ineq", "fun": lambda line: y - line[0] - line[1] * x}
    start = [y.min() - 5, 0.0]
    found = minimize(squares, start, (x, y), "SLSQP", constraints=under, options={"ftol": 1e-14})
    np.testing.assert_allclose(least_squares_under(x, y), found.x, atol=1e-6)


@given(point_sets)
@settings(deadline=None)
def test_lower_hull_is_convex_and_under_every_point(points: list[tuple[float, float]]) -> None:
    x, y = columns(points)
    hull = lower_hull(x, y)
    assert (np.diff(x[hull]) > 0).all()
    slopes = np.diff(y[hull]) / np.diff(x[hull])
    assert (np.diff(slopes) > 0).all()
    assert (np.interp(x, x[hull], y[hull]) <= y + 1e-12).all()


@given(point_sets)
@settings(deadline=None)
def test_pareto_set_is_what_no_point_dominates(points: list[tuple[float, float]]) -> None:
    x, y = columns(points)
    undominated = {
        (a, b)
        for a, b in points
        if not any(c <= a and d <= b and (c, d) != (a, b) for c, d in points)
    }  # fmt: skip
    kept = pareto_set(x, y)
    assert {(a, b) for a, b in zip(x[kept], y[kept], strict=True)} == undominated
    assert len(kept) == len(undominated)
