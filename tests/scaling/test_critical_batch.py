import math
from dataclasses import replace

import numpy as np
import pytest

from pagnol_jax.errors import UserError
from pagnol_jax.scaling import NON_EMBEDDING, Curve, RunRecord
from pagnol_jax.scaling import critical_batch as critical
from pagnol_jax.scaling.critical_batch import critical_batch_at, fit_critical_batch, least_compute, pairs_at_loss

S_MIN, E_MIN = 2000.0, 4e8
BATCHES = 2.0 ** np.arange(13, 23)


def hyperbola(noise: float = 0.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    steps = S_MIN * (1 + E_MIN / S_MIN / BATCHES) * np.exp(noise * np.random.default_rng(seed).normal(size=10))
    return steps, steps * BATCHES


def test_critical_batch_is_had_back_exactly() -> None:
    steps, tokens = hyperbola()
    np.testing.assert_allclose((steps / S_MIN - 1) * (tokens / E_MIN - 1), 1)
    fit = fit_critical_batch(steps, tokens, draws=20)
    np.testing.assert_allclose(fit.minima, [S_MIN, E_MIN], rtol=1e-10)
    assert fit.batch_tokens == pytest.approx(E_MIN / S_MIN)
    np.testing.assert_allclose(fit.interval, E_MIN / S_MIN, rtol=1e-8)
    two = fit_critical_batch(steps[[2, 7]], tokens[[2, 7]])
    np.testing.assert_allclose(two.minima, [S_MIN, E_MIN], rtol=1e-10)
    assert two.interval is None


def test_interval_of_the_critical_batch_holds_it() -> None:
    intervals = [fit_critical_batch(*hyperbola(0.1, seed), draws=60).interval for seed in range(15)]
    assert np.mean([low <= E_MIN / S_MIN <= high for low, high in intervals]) >= 0.75  # type: ignore[misc]
    text = "\n".join(critical.as_lines(fit_critical_batch(*hyperbola(), draws=20)))
    assert "B_crit     2e+05 tokens   95 % [2e+05, 2e+05] of 20 resamples of pairs" in text


def test_pairs_at_a_loss_are_read_off_the_curves() -> None:
    steps, tokens = hyperbola()
    runs = []
    for batch, reached in zip(BATCHES, tokens, strict=True):
        seen = reached * np.array([0.1, 0.5, 2, 10])  # log-linear between checkpoints, and so exact
        loss = 3 - 0.5 * np.log(seen / reached)
        runs.append(RunRecord("r", Curve(seen, 6e6 * seen, loss), NON_EMBEDDING, 2e6, 1e6, batch_tokens=batch))
    found = pairs_at_loss(runs, 3)
    np.testing.assert_allclose(found, (steps, tokens))
    with pytest.raises(UserError, match=r"run 'r' goes from .* it does not cross a loss of 1"):
        pairs_at_loss(runs, 1)
    with pytest.raises(UserError, match="it does not cross a loss of 9"):
        pairs_at_loss(runs, 9)
    with pytest.raises(UserError, match="does not state its batch_tokens"):
        pairs_at_loss([replace(runs[0], batch_tokens=None)], 3)


@pytest.mark.parametrize(
    ("steps", "tokens", "message"),
    [
        ([100, math.nan], [1e6, 1e6], "finite and positive, not nan"),
        ([100, -1], [1e6, 1e6], "not -1"),
        ([100, 110], [1e6, 1.1e6], "two batch sizes"),
        ([], [], "two batch sizes"),
        ([100, 200, 400], [1e6, 1e6, 1e6], "do not show the least number of steps: add runs at larger batches"),
        ([100, 100, 100], [1e6, 2e6, 4e6], "do not show the least number of tokens: add runs at smaller batches"),
    ],
)
def test_pairs_without_a_critical_batch(steps: list[float], tokens: list[float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        fit_critical_batch(steps, tokens)


def test_kaplan_by_hand() -> None:
    # At L = 2^.21 the batch is B*/2; a batch at the critical one costs twice the least compute.
    assert critical_batch_at(2**0.21, 1e8) == pytest.approx(5e7)
    assert critical_batch_at(4.0, 32.0, alpha=0.5) == pytest.approx(2)
    assert least_compute(6.0, 3e5, 3e5) == pytest.approx(3)
    assert least_compute(6.0, 0, 3e5) == 6
