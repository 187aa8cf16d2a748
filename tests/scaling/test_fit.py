from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scaling.builders import power_runs

from pagnol_jax.errors import UserError
from pagnol_jax.scaling import FLOP, NON_EMBEDDING, PF_DAY, Curve, RunRecord, every_point, fit_frontier, power_line
from pagnol_jax.scaling.fit import bootstrap


@given(st.floats(2, 60), st.floats(-0.2, -0.01), st.integers(2, 9))
@settings(max_examples=40, deadline=None)
def test_recovers_an_exact_power_law(prefactor: float, exponent: float, count: int) -> None:
    fit = fit_frontier(power_runs(prefactor, exponent, count), draws=20)
    assert fit.exponent == pytest.approx(exponent, rel=1e-9)
    assert fit.prefactor(FLOP) == pytest.approx(prefactor, rel=1e-8)
    assert fit.prefactor(PF_DAY) == pytest.approx(prefactor * 8.64e19**exponent, rel=1e-8)
    if count > 2:
        assert fit.hold_out is not None
        assert fit.hold_out.error_percent == pytest.approx(0, abs=1e-6)
        assert fit.exponent_interval == pytest.approx([exponent, exponent], rel=1e-8)


@given(st.floats(1e-3, 1e3), st.floats(0.5, 2))
@settings(max_examples=30, deadline=None)
def test_units_of_compute_and_loss_leave_the_exponent(compute: float, loss: float) -> None:
    runs = power_runs(20, -0.05, noise=0.01)
    scaled = []
    for run in runs:
        c, losses = compute * run.curve.compute_flops, loss * run.curve.loss_nats_per_token
        scaled.append(replace(run, curve=Curve(run.curve.tokens, c, losses)))
    one, other = fit_frontier(runs, draws=20), fit_frontier(scaled, draws=20)
    assert other.exponent == pytest.approx(one.exponent, rel=1e-7)
    assert other.prefactor(FLOP) == pytest.approx(loss * one.prefactor(FLOP) * compute**-one.exponent, rel=1e-7)
    np.testing.assert_allclose(other.draws[:, 1], one.draws[:, 1], rtol=1e-7)


def test_law_stays_under_every_point_in_the_fit() -> None:
    for seed in range(10):
        fit = fit_frontier(power_runs(20, -0.05, 8, noise=0.02, seed=seed), every_point, draws=1)
        predicted = power_line(fit.parameters, fit.points.compute_flops)
        assert (predicted <= fit.points.loss_nats_per_token * (1 + 1e-12)).all()


def test_bootstrap_resamples_runs_not_checkpoints() -> None:
    runs = power_runs(20, -0.05, 5, noise=0.02)
    # The same evidence written down ten times in each run is no more evidence.
    repeated = [replace(run, curve=Curve(*(np.repeat(column, 10) for column in run.curve))) for run in runs]
    one, other = fit_frontier(runs, every_point), fit_frontier(repeated, every_point)
    np.testing.assert_allclose(other.draws, one.draws, rtol=1e-6)


def test_bootstrap_skips_and_counts_draws_of_one_run() -> None:
    points = fit_frontier(power_runs(20, -0.05, 3, noise=0.02)).points
    draws, skipped = bootstrap(points, draws=9000, seed=1)
    assert len(draws) + skipped == 9000
    assert skipped / 9000 == pytest.approx(3 / 27, abs=0.015)


def test_interval_mostly_covers_the_truth() -> None:
    fits = [fit_frontier(power_runs(20, -0.05, 12, noise=0.01, seed=s), draws=150) for s in range(60)]
    intervals = [fit.exponent_interval for fit in fits]
    covered = [low <= -0.05 <= high for low, high in intervals]  # type: ignore[misc]
    assert 0.8 <= np.mean(covered) <= 1


def test_band_holds_the_law() -> None:
    fit = fit_frontier(power_runs(20, -0.05, 6, noise=0.01))
    compute = np.geomspace(1e13, 1e18, 9)
    band, law = fit.band(compute), power_line(fit.parameters, compute)
    assert band is not None
    assert band.shape == (2, 9)
    assert ((band[0] <= law) & (law <= band[1])).all()


def test_hold_out_is_the_run_of_most_compute() -> None:
    runs = power_runs(20, -0.05, 5)
    worse = replace(
        runs[-1], curve=runs[-1].curve._replace(loss_nats_per_token=1.1 * runs[-1].curve.loss_nats_per_token)
    )
    held = fit_frontier([worse, *runs[:-1]]).hold_out
    assert held is not None
    assert held.run == 0
    assert held.error_percent == pytest.approx(100 * (1 / 1.1 - 1))
    assert held.error_percent_unconstrained == pytest.approx(100 * (1 / 1.1 - 1))


def test_two_runs_have_a_law_but_no_interval_and_no_hold_out() -> None:
    fit = fit_frontier(power_runs(20, -0.05, 2))
    assert fit.exponent == pytest.approx(-0.05)
    assert fit.exponent_interval is None
    assert fit.prefactor_interval(FLOP) is None
    assert fit.band(np.array([1e15])) is None
    assert fit.hold_out is None


def point(name: str, compute: float, loss: float, size: float | None = None) -> RunRecord:
    curve = Curve(np.array([np.nan]), np.array([compute]), np.array([loss]))
    return RunRecord(name, curve, NON_EMBEDDING, parameters_non_embedding=size)


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ([point("a", 1e15, 4)], "at least two runs"),
        ([point("a", 1e15, 4, 9), point("b", 1e16, 3, 9)], "one size"),
        ([point("a", 1e15, 4), point("b", 1e15, 3)], "same compute"),
        ([point("a", 1e15, 4), point("b", 1e16, 4)], "same loss"),
    ],
)
def test_refuses_what_holds_no_law(runs: list[RunRecord], message: str) -> None:
    with pytest.raises(UserError, match=message):
        fit_frontier(runs)
