from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from scaling.figures import GROUNDS, check_written, isoflop_fit, overlaps, smallest_type

from pagnol_jax.scaling import FLOP, PF_DAY
from pagnol_jax.scaling.plots import DARK, LIGHT, Theme, draw_best_sizes, draw_valleys, plot_isoflop, styled
from pagnol_jax.scaling.plots.isoflop import HEIGHT
from pagnol_jax.scaling.valleys import Minimum, akima, parabola


@GROUNDS
def test_is_written(tmp_path: Path, theme: Theme, suffix: str) -> None:
    plot_isoflop(isoflop_fit(akima), tmp_path / f"a{suffix}", theme=theme)
    check_written(tmp_path / f"a{suffix}")


@pytest.mark.parametrize("theme", [LIGHT, DARK])
@pytest.mark.parametrize("budgets", [6, 12])
def test_texts_are_apart_and_large_enough(theme: Theme, budgets: int) -> None:
    with styled(theme):
        figure = Figure(figsize=(4.8, HEIGHT), layout="constrained")
        above, below = figure.subplots(2, 1)
        draw_valleys(above, isoflop_fit(akima, budgets), PF_DAY, theme=theme)
        draw_best_sizes(below, isoflop_fit(akima, budgets), PF_DAY, theme=theme)
    assert overlaps(figure) == []
    assert smallest_type(figure) >= 7
    assert len(above.texts) == 6
    assert above.texts[0].get_text().endswith(" PF-days")


@pytest.mark.parametrize("minimum", [akima, parabola])
def test_a_curve_a_budget_whose_lowest_point_is_the_minimum(minimum: Minimum) -> None:
    axes, fit = Figure().add_subplot(), isoflop_fit(minimum)
    draw_valleys(axes, fit, minimum=minimum)
    assert len(axes.lines) == len(fit.valleys)
    assert len({to_hex(line.get_color()) for line in axes.lines}) == len(fit.valleys)
    for line, valley, size, loss in zip(axes.lines, fit.valleys, fit.parameters, fit.loss_nats_per_token, strict=True):
        x, y = np.array(line.get_data())
        assert (x[0], x[-1]) == pytest.approx((valley.parameters[0], valley.parameters[-1]))
        assert x[y.argmin()] == pytest.approx(size, rel=0.02)
        assert y.min() == pytest.approx(loss, rel=1e-4)


def test_the_axis_shows_every_minimum_and_cuts_the_walls() -> None:
    fit = isoflop_fit(akima)
    steep = fit.valleys[0]._replace(loss_nats_per_token=fit.valleys[0].loss_nats_per_token + np.r_[8, np.zeros(8)])
    axes = Figure().add_subplot()
    draw_valleys(axes, fit._replace(valleys=(steep, *fit.valleys[1:])))
    low, high = axes.get_ylim()
    assert low < fit.loss_nats_per_token.min()
    assert fit.loss_nats_per_token.max() < high < 6


def test_best_sizes_lie_in_their_band() -> None:
    axes, fit = Figure().add_subplot(), isoflop_fit(akima)
    draw_best_sizes(axes, fit, FLOP)
    assert f"{fit.law.exponent:.3f}" in axes.texts[0].get_text()
    x, y = np.array(axes.lines[0].get_data())
    low, high = fit.law.band(x)
    assert (low < y).all()
    assert (y < high).all()
    # At one FLOP the band is the interval of k; far away its slope in log C is the end of the interval of a.
    np.testing.assert_allclose(fit.law.band(np.ones(1))[:, 0], fit.law.coefficient_interval)
    far = np.log(fit.law.band(np.array([1e150, 1e300])))
    np.testing.assert_allclose(np.diff(far)[:, 0] / np.log(1e150), fit.law.exponent_interval, rtol=1e-3)


def test_untrusted_budgets_are_hollow() -> None:
    fit = isoflop_fit(akima)
    fit = fit._replace(interior_share=np.r_[0.2, fit.interior_share[1:]])
    axes = Figure().add_subplot()
    draw_best_sizes(axes, fit)
    full, hollow = axes.collections[-2:]
    assert len(full.get_offsets()) == 5
    assert len(hollow.get_offsets()) == 1
    assert not len(hollow.get_facecolor())
