import math
import re
from dataclasses import replace

import numpy as np
import pytest

from pagnol_jax.errors import UserError
from pagnol_jax.scaling import NON_EMBEDDING, Curve, RunRecord
from pagnol_jax.scaling.tuning import Trials, cells, trials
from pagnol_jax.scaling.tuning_laws import PUBLISHED, LawFit, TuningLaw, fit_law, misses, vertex
from pagnol_jax.scaling.tuning_report import as_lines

STEP_LAW_RATE, STEP_LAW_BATCH, DEEPSEEK_RATE, DEEPSEEK_BATCH = PUBLISHED
GRID = np.array([(n, d) for n in (1e6, 3e6, 1e7, 4e7) for d in (1e8, 5e8, 2e9)])  # cells: N, D


def planted(
    law: TuningLaw, grid: np.ndarray = GRID, *, noise: float = 0.0, shift: float = 0.0, seed: int = 0
) -> Trials:
    """Sweeps by factors of sqrt 2 around `law`, of a loss parabolic in log value with .0025 at a factor of 2.

    The optimum is off the law by `noise` (rms of its log), and off the middle of the sweep by a factor exp(shift).
    """
    random = np.random.default_rng(seed)
    columns = []
    for n, d in grid:
        middle = np.log(law.predict(n, d))
        optimum = middle + shift + noise * random.normal()
        for value in middle + np.log(2) / 2 * np.arange(-4, 5):
            excess = 0.00251 * ((value - optimum) / np.log(2)) ** 2
            columns.append((np.exp(value), n, d, (2 + 400 * d**-0.28) * (1 + excess)))
    return Trials(law.of, *np.array(columns).T)


def refit(law: TuningLaw, variables: str | None = None, **how: float) -> LawFit:
    return fit_law(law.of, cells(planted(law, **how)), variables, draws=300)


@pytest.mark.parametrize("law", PUBLISHED)
def test_planted_law_is_had_back_exactly(law: TuningLaw) -> None:
    fit = refit(law, law.variables)
    np.testing.assert_allclose(fit.law.constants, law.constants, rtol=1e-9, atol=1e-9)
    assert fit.interval is not None
    np.testing.assert_allclose(fit.interval, [law.constants] * 2, rtol=1e-7)
    np.testing.assert_allclose(fit.leave_one_out.factor, 1, rtol=1e-8)
    np.testing.assert_allclose(fit.leave_one_out.excess, 0, atol=1e-9)
    assert fit.law.formula == law.formula


def test_vertices_are_exact_off_the_grid_where_near_sets_are_not() -> None:
    swept = cells(planted(STEP_LAW_RATE, shift=0.11))
    by_vertex = fit_law("learning_rate", swept, centre=vertex)
    np.testing.assert_allclose(by_vertex.law.constants, np.add(STEP_LAW_RATE.constants, [0.11, 0, 0]), atol=1e-6)
    by_near_set = fit_law("learning_rate", swept)
    assert abs(by_near_set.law.constants[0] - by_vertex.law.constants[0]) > 0.02


def test_intervals_hold_the_planted_law() -> None:
    held = []
    for seed in range(40):
        swept = cells(planted(STEP_LAW_RATE, noise=0.1, seed=seed))
        interval = fit_law("learning_rate", swept, centre=vertex, draws=200).interval
        assert interval is not None
        held.append((interval[0] <= STEP_LAW_RATE.constants) & (STEP_LAW_RATE.constants <= interval[1]))
    assert (np.mean(held, axis=0) >= 0.8).all()


def test_leave_one_out_is_a_fit_without_the_cell() -> None:
    fit = refit(STEP_LAW_RATE, noise=0.2)
    for index, cell in enumerate(fit.cells):
        others = [other for other in fit.cells if other is not cell]
        without = fit_law("learning_rate", others, draws=0).law.predict(cell.parameters, cell.tokens)
        assert fit.left_out[index] == pytest.approx(without)
        off = abs(math.log(without) - np.log(cell.value[cell.near]).mean())
        assert fit.leave_one_out.factor[index] == pytest.approx(math.exp(off))
        assert fit.leave_one_out.excess[index] == pytest.approx(float(cell.excess(without)))


def test_band_holds_the_law_and_widens_beyond_the_cells() -> None:
    fit = refit(STEP_LAW_RATE, noise=0.1)
    n, d = np.array([6e6, 1e10]), np.array([4e8, 1e12])
    band = fit.band(n, d)
    assert band is not None
    assert ((band[0] <= fit.law.predict(n, d)) & (fit.law.predict(n, d) <= band[1])).all()
    assert np.ptp(np.log(band[:, 1])) > np.ptp(np.log(band[:, 0]))


@pytest.mark.parametrize(
    ("grid", "variables"),
    [
        (GRID, "ND"),
        ([(n, 20 * n) for n in (1e6, 3e6, 1e7)], "C"),
        ([(n, 1e9) for n in (1e6, 3e6, 1e7)], "N"),
        ([(n, 1e15 / n) for n in (1e6, 3e6, 1e7)], "N"),
        ([(1e6, d) for d in (1e8, 3e8)], "D"),
    ],
)
def test_law_is_in_what_varies(grid: np.ndarray, variables: str) -> None:
    fit = refit(STEP_LAW_RATE, grid=np.array(grid))
    assert fit.law.variables == variables
    predicted = fit.law.predict(*np.array(grid).T)
    np.testing.assert_allclose(predicted, STEP_LAW_RATE.predict(*np.array(grid).T))


def test_published_laws_by_hand() -> None:
    # 1.79 * 1e9^-.713 * 1e11^.307 = 1.79 * 10^(-6.417 + 3.377); .58 * 10^6.281.
    assert STEP_LAW_RATE.predict(1e9, 1e11) == pytest.approx(1.79 * 10**-3.04)
    assert STEP_LAW_BATCH.predict(1e9, 1e11) == pytest.approx(0.58 * 10**6.281)
    # C = 6 * 1e9 * 1e11 / 6 = 1e20: .3118 * 10^-2.5 and .292 * 10^6.542.
    assert DEEPSEEK_RATE.predict(1e9, 1e11 / 6) == pytest.approx(0.3118 * 10**-2.5)
    assert DEEPSEEK_BATCH.predict(1e9, 1e11 / 6) == pytest.approx(0.2920 * 10**6.542)
    assert STEP_LAW_RATE.formula == "learning_rate = 1.79 N^-0.713 D^0.307"


def sweep(values: list[float], loss: list[float], n: float = 1e6, d: float = 1e8) -> Trials:
    count = len(values)
    return Trials("learning_rate", np.array(values), np.full(count, n), np.full(count, d), np.array(loss))


def test_cell_of_a_parabola() -> None:
    values = 1e-3 * 2.0 ** np.arange(-2, 3)
    (cell,) = cells(sweep([*values], [*(2 * (1 + 0.002 * np.arange(-2, 3) ** 2))]))
    assert cell.best == 1e-3
    assert cell.optimum == pytest.approx(1e-3)
    assert cell.near.tolist() == [False, True, True, True, False]
    assert cell.interior
    np.testing.assert_allclose(cell.penalty, 0.002)
    assert np.isnan(cell.excess(values[-1] * 1.01))
    low, high = cell.width
    assert values[0] < low < values[1]
    assert values[3] < high < values[4]
    np.testing.assert_allclose(cell.excess([low, high]), 0.0025)


@pytest.mark.parametrize("loss", [[2, 2.1, 2.3], [2.3, 2.1, 2]])
def test_optimum_at_a_border_is_flagged_and_stays_in_the_sweep(loss: list[float]) -> None:
    (cell,) = cells(sweep([1e-3, 2e-3, 4e-3], loss))
    assert not cell.interior
    assert 1e-3 <= cell.optimum <= 4e-3
    assert cell.best in (1e-3, 4e-3)


def test_two_values_and_a_hollow_parabola_give_the_best_trial() -> None:
    for values, loss in (([1e-3, 2e-3], [2, 2.1]), ([1e-3, 2e-3, 4e-3], [2, 2.004, 2.004])):
        (cell,) = cells(sweep(values, loss))
        assert cell.optimum == 1e-3
        assert not cell.interior


def test_other_hyperparameters_are_profiled_but_every_near_trial_counts() -> None:
    (cell,) = cells(sweep([1e-3, 2e-3, 2e-3, 2e-3, 4e-3], [2.1, 2.002, 2, 2.5, 2.1]))
    values, loss = cell.profile
    assert values.tolist() == [1e-3, 2e-3, 4e-3]
    assert loss.tolist() == [2.1, 2, 2.1]
    assert cell.near.tolist() == [False, True, True, False, False]


def test_tokens_rounded_to_whole_steps_are_one_cell() -> None:
    both = sweep([1e-3, 2e-3, 1e-3, 2e-3], [2.1, 2, 2.2, 2])
    (one,) = cells(both._replace(tokens=np.array([1e8, 1.003e8, 1e8, 1e8])))
    assert one.value.size == 4
    assert len(cells(both._replace(tokens=np.array([1e8, 1e8, 2e8, 2e8])))) == 2


def test_misses_count_what_a_value_costs() -> None:
    (cell,) = cells(sweep([1e-3, 2e-3, 4e-3], [2.02, 2, 2.04]))
    errors = misses(np.array([4e-3]), [cell], np.array([math.log(2e-3)]))
    assert errors.factor[0] == pytest.approx(2)
    assert errors.excess[0] == pytest.approx(0.02)
    assert np.isnan(misses(np.array([8e-3]), [cell], np.array([math.log(2e-3)])).excess[0])


def test_report() -> None:
    text = "\n".join(as_lines(planted(STEP_LAW_RATE)))
    assert "law        learning_rate = 1.79 N^-0.713 D^0.307\n" in text
    assert "N          -0.713   95 % [-0.713, -0.713]" in text
    (step_law,) = [line for line in text.splitlines() if line.startswith("Step Law ")]
    assert step_law.split()[-7:] == ["1", "1", "+0.00", "%", "+0.00", "%", "12/12"]
    assert "border" not in text
    few = "\n".join(as_lines(planted(STEP_LAW_RATE, GRID[:2], shift=3.0)))
    assert "so only a bound: N 1e+06 D 1e+08, N 1e+06 D 5e+08" in few
    assert "bootstrap  none" in few
    assert re.search(r"^this +\S+ D\^\S+ +- +- +- +- +0/2$", few, re.MULTILINE)  # one cell is left: no law


def run(name: str, rate: float | None, loss: float, batch: float | None = 1e5, size: float = 1e6) -> RunRecord:
    tokens = np.array([5e7, 1e8])
    curve = Curve(tokens, 6 * size * tokens, np.array([loss + 1, loss]))
    return RunRecord(name, curve, NON_EMBEDDING, 2 * size, size, learning_rate=rate, batch_tokens=batch)


def test_trials_of_runs() -> None:
    runs = [run("a", 1e-3, 3), run("b", 2e-3, 2.9)]
    found = trials(runs)
    assert found.value.tolist() == [1e-3, 2e-3]
    assert found.parameters.tolist() == [1e6, 1e6]
    assert found.tokens.tolist() == [1e8, 1e8]
    assert found.loss_nats_per_token.tolist() == [3, 2.9]
    assert trials(runs, "batch_tokens").value.tolist() == [1e5, 1e5]


ONE_CELL = sweep([1e-3, 2e-3, 4e-3], [2.1, 2, 2.1])


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (ONE_CELL, "needs cells of several sizes or numbers of tokens, not 1 cell"),
        (sweep([], []), "no trial"),
        (sweep([1e-3, 1e-3], [2, 2.1]), "the 2 trials at N 1e[+]06, D 1e[+]08 have one learning_rate, 0.001"),
        (sweep([1e-3, 2e-3], [2, 2]), "have one loss, 2"),
        (sweep([1e-3, 2e-3], [2, math.nan]), "a loss of nan: it must be finite and positive"),
        (sweep([-1e-3, 2e-3], [2, 2.1]), "a learning_rate of -0.001: it must be"),
        (planted(STEP_LAW_RATE, np.array([(1e6, 1e8), (1.01e6, 1e8)])), "vary N and D too little"),
    ],
)
def test_nonsense_is_told_in_one_line(bad: Trials, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        as_lines(bad)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("grid", "variables", "message"),
    [
        ([(1e6, 1e8), (1e6, 1e9)], "N", "these 2 cells vary N by too little"),
        ([(n, 20 * n) for n in (1e6, 3e6, 1e7)], "ND", "vary N and D too little, or not independently"),
        ([(1e6, 1e8), (2e6, 1e9)], "ND", "these 2 cells vary N and D too little"),
        ([(1e6, 1e8), (2e6, 1e9)], "X", "no law of learning_rate in 'X': choose from ND, C, N, D"),
    ],
)
def test_laws_that_cells_cannot_tell_are_refused(grid: list[tuple[float, float]], variables: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        refit(STEP_LAW_RATE, variables, grid=np.array(grid))


@pytest.mark.parametrize(
    ("runs", "of", "message"),
    [
        ([], "learning_rate", "no run"),
        ([run("a", 1e-3, 3)], "weight_decay", "no law of 'weight_decay': choose from learning_rate, batch_tokens"),
        ([run("a", None, 3)], "learning_rate", "run 'a' does not state its learning_rate"),
        ([run("a", 1e-3, 3, None)], "batch_tokens", "run 'a' does not state its batch_tokens"),
        ([run("a", 1e-3, 3), replace(run("b", 1e-3, 3), corpus="x")], "learning_rate", "differ in corpus"),
    ],
)
def test_runs_that_are_no_trials(runs: list[RunRecord], of: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        trials(runs, of)
