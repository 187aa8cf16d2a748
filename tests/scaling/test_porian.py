"""All 15 exponents of Porian et al. 2024 (arXiv 2406.19146) from their IsoFLOP points.

`pytest -s tests/scaling/test_porian.py` prints the table, published values beside ours.
"""

import csv
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pagnol_jax.scaling.isoflop import IsoflopFit, fit_isoflop, reservations
from pagnol_jax.scaling.points import Points
from pagnol_jax.scaling.valleys import absolute_noise, group_valleys

KEYS = ("dataset", "hparams", "warmup", "decay", "param_count", "val")
NATS = {"rw": 0.002, "owt2": 0.01}  # noise of the loss in their configs.py
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


@cache
def published(folder: Path) -> dict[str, dict[str, Any]]:
    fits = json.loads((folder / "published_fits.json").read_text())
    return {" ".join(fit[key] for key in KEYS): fit for fit in fits}


@cache
def refitted(folder: Path, name: str) -> IsoflopFit:
    with (folder / "isoflop_points.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if " ".join(row[key] for key in KEYS) == name]
    columns = ("tokens", "flops", "loss", "params")
    points = Points(np.arange(len(rows)), *(np.array([float(row[column]) for row in rows]) for column in columns))
    return fit_isoflop(group_valleys(points), noise=absolute_noise(NATS[name.split(maxsplit=1)[0]]))


def by_budget(published_values: dict[str, float | None]) -> np.ndarray:
    """Values in order of compute, NaN where their minimum lies at a border."""
    pairs = sorted((float(compute), value) for compute, value in published_values.items())
    return np.array([np.nan if value is None else value for _, value in pairs])


def test_every_published_configuration_is_checked(data_dir: Path) -> None:
    assert set(published(data_dir / "scaling" / "porian")) == set(CONFIGURATIONS)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_exponent_and_its_interval(data_dir: Path, name: str) -> None:
    folder = data_dir / "scaling" / "porian"
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
    folder = data_dir / "scaling" / "porian"
    fit, theirs = refitted(folder, name), published(folder)[name]
    sizes, stds = by_budget(theirs["n_star"]), by_budget(theirs["n_star_log_std"])
    np.testing.assert_array_equal(fit.trusted, np.isfinite(sizes))
    np.testing.assert_allclose(fit.parameters_median[fit.trusted], sizes[fit.trusted], rtol=0.04)
    np.testing.assert_allclose(fit.log_std[fit.trusted], stds[fit.trusted], rtol=0.12)


def test_untrusted_budgets_are_named(data_dir: Path) -> None:
    fit = refitted(data_dir / "scaling" / "porian", "rw base long kaplan attention train")
    assert not fit.trusted[:2].any()
    assert fit.trusted[2:].all()
    assert "left out: 1.25e+16, 2.5e+16 FLOP" in reservations(fit)[0]
