from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from scaling.figures import GROUNDS, NOISE, check_written, law_fits, overlaps, smallest_type
from scaling.simulated import HOFFMANN

from pagnol_jax.errors import UserError
from pagnol_jax.scaling import FLOP, PF_DAY, Points
from pagnol_jax.scaling.allocate import optimum
from pagnol_jax.scaling.laws import CHINCHILLA, CHINCHILLA_TIED, evaluate
from pagnol_jax.scaling.plots import (
    DARK,
    LIGHT,
    Theme,
    draw_bootstrap,
    draw_extrapolation,
    draw_residuals,
    plot_bootstrap,
    plot_extrapolation,
    plot_residuals,
    styled,
)
from pagnol_jax.scaling.plots.law import BOOTSTRAP_HEIGHT, RESIDUALS_HEIGHT

NAME, FIT = law_fits()[0]


def targets() -> Points:
    """Two runs of Hoffmann's law beyond the grid, 2 % above it."""
    size, tokens = np.array([7e9, 13e9]), np.array([4e12, 5e12])
    loss = 1.02 * evaluate(CHINCHILLA, HOFFMANN, N=size, D=tokens)
    return Points(np.arange(2), tokens, 6 * size * tokens, loss, size)


@GROUNDS
def test_are_written(tmp_path: Path, theme: Theme, suffix: str) -> None:
    residuals, bootstrap, fan = (tmp_path / f"{name}{suffix}" for name in ("residuals", "bootstrap", "fan"))
    plot_residuals(FIT, residuals, theme=theme)
    plot_bootstrap(law_fits(), bootstrap, theme=theme)
    plot_extrapolation(FIT, fan, PF_DAY, held_out=targets(), theme=theme)
    for path in (residuals, bootstrap, fan):
        check_written(path)


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_texts_are_apart_and_large_enough(theme: Theme) -> None:
    with styled(theme):
        first = Figure(figsize=(4.8, RESIDUALS_HEIGHT), layout="constrained")
        draw_residuals(first.subplots(1, 3, sharey=True), FIT, theme=theme)
        second = Figure(figsize=(4.8, BOOTSTRAP_HEIGHT), layout="constrained")
        draw_bootstrap(second.subplots(1, 2), law_fits(), theme=theme)
        third = Figure(figsize=(4.8, 3.4), layout="constrained")
        draw_extrapolation(third.add_subplot(), FIT, held_out=targets(), theme=theme)
    for figure in (first, second, third):
        assert overlaps(figure) == []
        assert smallest_type(figure) >= 7


def test_residuals_against_size_tokens_and_compute() -> None:
    axes = Figure().subplots(1, 3)
    draw_residuals(axes, FIT)
    size, tokens = FIT.inputs["N"], FIT.inputs["D"]
    for part, x in zip(axes, (size, tokens, 6 * size * tokens), strict=True):
        shown = np.asarray(part.collections[-1].get_offsets())
        np.testing.assert_allclose(shown[:, 0], x)
        np.testing.assert_allclose(shown[:, 1], 100 * (FIT.loss / FIT.predict(**FIT.inputs) - 1))
        assert np.abs(shown[:, 1]).max() < 100 * 4 * NOISE
        assert part.get_xlim()[0] < x.min() < x.max() < part.get_xlim()[1]
    assert axes[0].get_title("left") == f"{NAME}, rms {FIT.rms_percent:.2g} %"


def test_clouds_show_every_objective_and_its_intervals() -> None:
    axes = Figure().subplots(1, 2)
    draw_bootstrap(axes, law_fits())
    for index, (_, fit) in enumerate(law_fits()):
        draws, across, along, best = axes[0].collections[4 * index : 4 * index + 4]
        assert len(draws.get_offsets()) == len(fit.draws)
        alpha, beta = fit.constants["alpha"], fit.constants["beta"]
        np.testing.assert_allclose(across.get_segments()[0], [[alpha.low, beta.value], [alpha.high, beta.value]])
        np.testing.assert_allclose(along.get_segments()[0], [[alpha.value, beta.low], [alpha.value, beta.high]])
        np.testing.assert_allclose(best.get_offsets()[0], [alpha.value, beta.value])
        a = axes[1].collections[4 * index + 3].get_offsets()[0]
        np.testing.assert_allclose(a, [fit.constants["E"].value, beta.value / (alpha.value + beta.value)])
        assert axes[0].get_xlim()[0] < alpha.low < alpha.high < axes[0].get_xlim()[1]


def test_fan_widens_around_the_optimum() -> None:
    axes = Figure().add_subplot()
    draw_extrapolation(axes, FIT, FLOP, held_out=targets())
    x, best = np.array(axes.lines[0].get_data())
    np.testing.assert_allclose(best, optimum(CHINCHILLA, FIT.parameters, x).loss)
    assert x[-1] == pytest.approx(10 * targets().compute_flops.max())
    # Noise does not keep it from Hoffmann's law.
    np.testing.assert_allclose(best, optimum(CHINCHILLA, HOFFMANN, x).loss, rtol=0.03)
    widths = []
    for fan in axes.collections[:3]:
        edge = fan.get_paths()[0].vertices
        ends = edge[np.isclose(edge[:, 0], x[-1]), 1]
        widths.append(np.ptp(ends))
        assert ends.min() <= best[-1] <= ends.max()
    assert widths[0] > widths[1] > widths[2] > 0


def test_fan_says_how_far_held_out_runs_are() -> None:
    axes = Figure().add_subplot()
    draw_extrapolation(axes, FIT, held_out=targets())
    runs = targets()
    error = 100 * (FIT.predict(N=runs.parameters, D=runs.tokens) / runs.loss_nats_per_token - 1)
    said = {text.get_text() for text in axes.texts}
    assert f"× 7G: \u2212{-error[0]:.1f} %\n× 13G: \u2212{-error[1]:.1f} %" in said
    assert any("power law" in text for text in said)
    assert {"40M", "4G"} < said
    assert any("α = " in text for text in said)


def test_what_cannot_be_drawn_is_told() -> None:
    bare = FIT._replace(draws=FIT.draws[:0])
    tied = FIT._replace(law=CHINCHILLA_TIED, parameters=FIT.parameters[:4], draws=FIT.draws[:, :4])
    axes = Figure().subplots(1, 2)
    for draw, message in (
        (lambda: draw_bootstrap(axes, [("bare", bare)]), "no bootstrap draws"),
        (lambda: draw_bootstrap(axes, [("tied", tied)]), "lacks one of them"),
        (lambda: draw_extrapolation(axes[0], bare), "no bootstrap draws"),
    ):
        with pytest.raises(UserError, match=message):
            draw()
