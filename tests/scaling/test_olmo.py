"""The OLMo ladder (Bhagia et al. 2024, arXiv 2412.04403): 16 runs up to 1.3B, held against 3B, 7B and 13B."""

import csv
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import least_squares

from benchmarks.published.olmo import predict_large, read_ladder, small
from pagnol_jax.scaling import FLOP, final_points
from pagnol_jax.scaling.holdout import HeldOut
from pagnol_jax.scaling.law_report import as_text, fit_report, size_exponent
from pagnol_jax.scaling.laws import CHINCHILLA


@pytest.fixture(scope="module")
def folder(data_dir: Path) -> Path:
    return data_dir / "scaling"


@pytest.fixture(scope="module", params=["huber", "squares"])
def held(request: pytest.FixtureRequest, folder: Path) -> HeldOut:
    return predict_large(read_ladder(folder), request.param, draws=60)


def test_runs(folder: Path) -> None:
    runs = read_ladder(folder)
    fitted = small(runs)
    assert (len(runs), len(fitted)) == (22, 16)
    ratios = [run.curve.tokens[-1] / run.parameters for run in fitted]  # type: ignore[operator]
    assert sorted({round(ratio / 20) for ratio in ratios}) == [1, 2, 5, 10]


def test_constants_and_errors(held: HeldOut) -> None:
    fit, a = held.fit, size_exponent(held.fit)
    assert fit.loss.size == 16
    assert a is not None
    expected = {"Huber(0.001)": (1.04, 0.584, -1.9, -3.7), "least squares": (1.53, 0.368, -1.4, -2.4)}
    floor, exponent, error_7b, error_13b = expected[fit.objective.name]
    assert fit.constants["E"].value == pytest.approx(floor, abs=0.005)
    assert a.value == pytest.approx(exponent, abs=5e-4)
    assert fit.rms_percent == pytest.approx(0.3, abs=0.05)
    assert [error.value for error in held.errors[-2:]] == pytest.approx([error_7b, error_13b], abs=0.05)
    for error, power in zip(held.errors[-2:], held.power_errors[-2:], strict=True):
        assert error.low < error.value < error.high
        assert power < error.value - 2  # the plain power law has no floor


def test_least_squares_by_scipy(folder: Path) -> None:
    """From the table itself, by another solver."""
    with (folder / "olmo_ladder" / "c4_final.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if float(row["xC"]) >= 1 and "rerun" not in row["run"]]
    rows = [row for row in rows if not row["run"].startswith("3B")]
    size, tokens, loss = (
        np.array([float(row[name]) for row in rows]) for name in ("params", "tokens", "c4_loss_final")
    )

    def residuals(p: np.ndarray) -> np.ndarray:
        terms = np.exp(p[0] - p[3] * np.log(size / 5e8)) + np.exp(p[1] - p[4] * np.log(tokens / 3e10)) + np.exp(p[2])
        return np.log(terms) - np.log(loss)

    theirs = least_squares(residuals, [-0.5, -0.5, 0.5, 0.3, 0.3], xtol=1e-15, ftol=1e-15, gtol=1e-15)
    held = predict_large(read_ladder(folder), "squares", draws=2)
    assert held.fit.value == pytest.approx(theirs.cost / len(rows), rel=1e-6)
    np.testing.assert_allclose(held.fit.parameters[3:], theirs.x[3:], rtol=1e-4)


def test_report_warns_that_a_is_not_pinned_down(folder: Path) -> None:
    runs = small(read_ladder(folder))
    said = as_text(fit_report(CHINCHILLA, runs, final_points(runs), "squares", FLOP, draws=60))
    assert "a is not pinned down by these runs" in said
    assert "a depends on the objective, 0.359 to 0.663" in said
