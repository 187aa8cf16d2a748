from dataclasses import replace

import numpy as np
import pytest
from scaling.builders import power_runs

from pagnol_jax.errors import UserError
from pagnol_jax.scaling import (
    FLOP,
    PF_DAY,
    TOTAL,
    WITH_ATTENTION,
    RunRecord,
    every_point,
    final_points,
    pareto_points,
    points_at,
    with_convention,
)

RUNS = power_runs(20, -0.05, 4, steps=6)


def test_every_and_final() -> None:
    assert every_point(RUNS).run.tolist() == sorted([*range(4)] * 6)
    final = final_points(RUNS)
    assert final.run.tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(final.compute_flops, [run.curve.compute_flops[-1] for run in RUNS])
    np.testing.assert_array_equal(final.tokens, [run.curve.tokens[-1] for run in RUNS])


@pytest.mark.parametrize(
    ("run", "parameters"),
    [
        (RUNS[0], 1e6),
        (with_convention(RUNS[0], TOTAL), 2e6),
        (with_convention(replace(RUNS[0], attention_flops_per_token=1.0), WITH_ATTENTION), 1e6),
        (replace(RUNS[0], convention=None), 1e6),
        (replace(RUNS[0], convention=None, parameters_non_embedding=None), 2e6),
        (replace(RUNS[0], parameters_non_embedding=None), np.nan),
    ],
)
def test_parameters_are_those_of_the_convention(run: RunRecord, parameters: float) -> None:
    points = every_point([run, RUNS[1]])
    np.testing.assert_allclose(points.parameters, [parameters] * 6 + [RUNS[1].parameters_non_embedding] * 6)
    np.testing.assert_array_equal(points.take(np.array([11, 0])).parameters, points.parameters[[11, 0]])


def test_tokens_are_had_back_from_compute_where_that_is_exact() -> None:
    unknown = [replace(run, curve=run.curve._replace(tokens=np.full(6, np.nan))) for run in RUNS]
    np.testing.assert_allclose(every_point(unknown).tokens, every_point(RUNS).tokens)
    assert np.isnan(every_point([replace(run, convention=None) for run in unknown]).tokens).all()


def test_pareto_points_fall() -> None:
    points = pareto_points(RUNS)
    assert (np.diff(points.compute_flops) > 0).all()
    assert (np.diff(points.loss_nats_per_token) < 0).all()


@pytest.mark.parametrize("unit", [FLOP, PF_DAY])
def test_at_takes_the_best_run_s_nearest_checkpoint(unit) -> None:  # type: ignore[no-untyped-def]
    final = final_points(RUNS)
    chosen = points_at(final.compute_flops * 0.999 / unit.flops, unit)(RUNS)
    np.testing.assert_array_equal(chosen.run, final.run)
    np.testing.assert_array_equal(chosen.compute_flops, final.compute_flops)


def test_at_takes_a_checkpoint_once() -> None:
    compute = final_points(RUNS).compute_flops[0]
    assert points_at([compute, compute * 1.001], FLOP)(RUNS).run.tolist() == [0]


@pytest.mark.parametrize("compute", [1.0, 1e30])
def test_at_a_compute_that_no_run_reaches(compute: float) -> None:
    with pytest.raises(UserError, match="no run has a checkpoint around"):
        points_at([compute], FLOP)(RUNS)
