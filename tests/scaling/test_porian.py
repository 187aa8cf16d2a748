"""All 15 exponents of Porian et al. 2024 (arXiv 2406.19146) from their IsoFLOP points.

`pytest -s tests/scaling/test_porian.py` prints the table, published values beside ours.
"""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.published import porian
from pagnol_jax.scaling.isoflop import IsoflopFit, reservations

CONFIGURATIONS = [
    "rw base long kaplan kaplan train",
    "rw base long kaplan standard val",
    "rw base short kaplan standard val",
    "rw base short chinchilla standard val",
    "rw tuned short const standard val",
    "rw base long kaplan attention train",
    "rw base short kaplan attention train",
    "rw base short chinchilla attention train",
    "rw tuned short const attention train",
    "owt2 base long kaplan kaplan train",
    "owt2 base long kaplan standard val",
    "owt2 base short kaplan standard val",
    "owt2 base short chinchilla standard val",
    "owt2 tuned short const standard val",
    "rw tuned long const kaplan train",
]


read = cache(porian.read)


@cache
def refitted(folder: Path, name: str) -> IsoflopFit:
    return porian.refit(read(folder)[0], name, draws=1000)


def published(folder: Path) -> dict[str, dict[str, Any]]:
    return read(folder)[1]


def by_budget(published_values: dict[str, float | None]) -> np.ndarray:
    """Values in order of compute, NaN where their minimum lies at a border."""
    pairs = sorted((float(compute), value) for compute, value in published_values.items())
    return np.array([np.nan if value is None else value for _, value in pairs])


def test_every_published_configuration_is_checked(data_dir: Path) -> None:
    assert set(published(data_dir / "scaling")) == set(CONFIGURATIONS)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_exponent_and_its_interval(data_dir: Path, name: str) -> None:
    folder = data_dir / "scaling"
    fit, theirs = refitted(folder, name), published(folder)[name]
    low, high = theirs["ci95"]
    ours = np.percentile(fit.law.draws[:, 1], (2.5, 97.5))
    print(
        f"\n{name:42s} a {fit.law.exponent:.4f} published {theirs['n_exponent']:.4f}  "
        f"OLS {fit.line_unweighted[1]:.4f} published {theirs['n_exponent_basic']:.4f}  "
        f"95 % [{ours[0]:.4f}, {ours[1]:.4f}] published [{low:.4f}, {high:.4f}]"
    )
    assert low < fit.law.exponent < high
    assert fit.law.exponent == pytest.approx(theirs["n_exponent"], abs=0.003)
    assert fit.law.coefficient == pytest.approx(theirs["n_coef"], rel=0.12)
    assert fit.line_unweighted[1] == pytest.approx(theirs["n_exponent_basic"], abs=0.008)
    assert fit.line_unweighted[1] == pytest.approx(theirs["n_exponent"], abs=0.008)
    np.testing.assert_allclose(ours, (low, high), atol=0.005)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_minima_and_their_spread(data_dir: Path, name: str) -> None:
    folder = data_dir / "scaling"
    fit, theirs = refitted(folder, name), published(folder)[name]
    sizes, stds = by_budget(theirs["n_star"]), by_budget(theirs["n_star_log_std"])
    np.testing.assert_array_equal(fit.trusted, np.isfinite(sizes))
    np.testing.assert_allclose(fit.parameters_median[fit.trusted], sizes[fit.trusted], rtol=0.04)
    np.testing.assert_allclose(fit.log_std[fit.trusted], stds[fit.trusted], rtol=0.12)


def test_untrusted_budgets_are_named(data_dir: Path) -> None:
    fit = refitted(data_dir / "scaling", "rw base long kaplan attention train")
    assert not fit.trusted[:2].any()
    assert fit.trusted[2:].all()
    assert "left out: 1.25e+16, 2.5e+16 FLOP" in reservations(fit)[0]
