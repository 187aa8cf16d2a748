"""Gadre et al. 2024 (arXiv 2403.08540): four extrapolation errors from five and six small runs."""

from pathlib import Path

import pytest

from benchmarks.published import gadre
from benchmarks.published.section import Options


def test_extrapolation_errors(data_dir: Path) -> None:
    errors = gadre.measure(Options(data_dir / "scaling", draws=0, repeats=0, processes=1))["errors"]
    found = {(one["run"].split(",")[0], one["predicted"]): one["percent"] for one in errors}
    assert found["open_lm_1b", "C4 loss"] == pytest.approx(0.7103, rel=1e-3)
    assert found["open_lm_1b", "error of 17 tasks"] == pytest.approx(3.6365, rel=0.02)
    assert found["open_lm_7b", "C4 loss"] == pytest.approx(0.7320, rel=1e-3)
    assert found["open_lm_7b", "error of 17 tasks"] == pytest.approx(0.0464, rel=0.02)


def test_constants(data_dir: Path) -> None:
    fits = gadre.fit(gadre.read(data_dir / "scaling"))
    law, errors = ({name: one.value for name, one in fit.constants.items()} for fit in fits)
    # The repository's form is alpha N^b + beta 6^(b/2) (M N)^b + E with b = -2 eta.
    assert law["A"] * 6 ** -law["eta"] == pytest.approx(166.2, rel=1e-3)
    assert (law["B"], -2 * law["eta"], law["E"]) == pytest.approx((366.7, -0.27285, 1.83665), rel=1e-4)
    assert (errors["k"], errors["gamma"], errors["epsilon"]) == pytest.approx((2.206, 0.7146, 0.857), rel=1e-3)
