from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.offsetbox import TextArea
from scaling.figures import (
    GROUNDS,
    check_written,
    envelope_fit,
    isoflop_fit,
    law_fits,
    overlaps,
    smallest_type,
    texts,
    whole_curves,
)

from pagnol_jax.errors import UserError
from pagnol_jax.scaling.approaches import Approach, by_envelope, by_isoflop, by_law
from pagnol_jax.scaling.compare import Comparison, compare
from pagnol_jax.scaling.plots import (
    DARK,
    LIGHT,
    Theme,
    draw_approaches,
    draw_comparison,
    draw_disagreement,
    plot_approaches,
    plot_comparison,
    styled,
)
from pagnol_jax.scaling.plots.approaches import HEIGHT
from pagnol_jax.scaling.valleys import akima, parabola

EXPONENT = 0.28 / (0.34 + 0.28)  # of Hoffmann's law


@cache
def approaches() -> list[Approach]:
    laws = [by_law(fit, f"3  {name}") for name, fit in law_fits()]
    valleys = [
        by_isoflop(isoflop_fit(akima), "2  IsoFLOP, Akima"),
        by_isoflop(isoflop_fit(parabola), "2  IsoFLOP, parabola"),
    ]
    return [by_envelope(envelope_fit()), *valleys, *laws]


@cache
def comparison() -> Comparison:
    english = [replace(run, bytes_per_token=5.0) for run in whole_curves(7, 1.1, seed=1)]
    return compare(whole_curves(7, seed=2), english, ("French", "English"), draws=60)


@GROUNDS
def test_are_written(tmp_path: Path, theme: Theme, suffix: str) -> None:
    plot_approaches(approaches(), tmp_path / f"a{suffix}", theme=theme)
    plot_comparison(comparison(), tmp_path / f"b{suffix}", theme=theme)
    check_written(tmp_path / f"a{suffix}")
    check_written(tmp_path / f"b{suffix}")


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_texts_are_apart_and_large_enough(theme: Theme) -> None:
    with styled(theme):
        first = Figure(figsize=(4.8, HEIGHT), layout="constrained")
        above, below = first.subplots(2, 1)
        draw_approaches(above, approaches(), theme=theme)
        draw_disagreement(below, approaches(), theme=theme)
        second = Figure(figsize=(4.8, 3.4), layout="constrained")
        draw_comparison(second.add_subplot(), comparison(), theme=theme)
    for figure in (first, second):
        assert overlaps(figure) == []
        assert smallest_type(figure) >= 7


@pytest.mark.parametrize("factor", [1.5, 20.0])
def test_a_large_disagreement_is_legible(factor: float) -> None:
    one, other = approaches()[-2:]
    other = other._replace(sizes=lambda compute: factor * one.sizes(compute))
    figure = Figure(figsize=(4.8, 2), layout="constrained")
    axes = figure.add_subplot()
    draw_disagreement(axes, [one, other])
    assert overlaps(figure) == []
    assert axes.get_ylim()[0] < factor**-0.5 < factor**0.5 < axes.get_ylim()[1]
    assert sum(text.replace(".", "").isdigit() for text, _ in texts(figure)) >= 3  # ticks of the ratio


def test_a_fit_without_draws_has_no_band() -> None:
    name, fit = law_fits()[0]
    figure = Figure()
    draw_approaches(figure.add_subplot(), [by_law(fit._replace(draws=fit.draws[:0]), name)])
    assert "none" in {text for text, _ in texts(figure)}


def test_table_gives_the_exponent_of_every_approach() -> None:
    figure = Figure()
    draw_approaches(figure.add_subplot(), approaches())
    said = {text for text, _ in texts(figure)}
    for one in approaches():
        a, low, high = one.exponent
        assert {one.name, f"{a:.3f}", f"[{low:.3f}, {high:.3f}]"} < said
        assert a == pytest.approx(EXPONENT, abs=0.05)
        assert low < a < high


def test_lines_are_those_of_the_fits_and_lie_in_their_bands() -> None:
    compute = np.geomspace(1e17, 1e23, 30)
    for one in approaches():
        low, high = one.band(compute)
        assert (low <= one.sizes(compute)).all()
        assert (one.sizes(compute) <= high).all()
        slope = np.polyfit(np.log(compute), np.log(one.sizes(compute)), 1)[0]
        assert slope == pytest.approx(one.exponent[0])


def test_draws_what_there_is_to_ten_times_the_data() -> None:
    some = approaches()[-2:]
    axes = Figure().add_subplot()
    draw_disagreement(axes, some)
    dotted = axes.lines[::2]
    assert len(dotted) == 2
    assert axes.get_xlim()[1] == pytest.approx(10 * some[0].span[1])
    # Ratios to the geometric mean of two multiply to one.
    product = np.asarray(dotted[0].get_ydata()) * np.asarray(dotted[1].get_ydata())
    np.testing.assert_allclose(product, 1)
    with pytest.raises(UserError, match="no approach"):
        draw_approaches(axes, [])
    with pytest.raises(UserError, match="5 series apart, not 6"):
        draw_approaches(axes, 2 * approaches()[:3])


@pytest.mark.parametrize("unit", ["nats per token", "bits per byte"])
def test_groups_in_any_unit(unit: str) -> None:
    axes = Figure().add_subplot()
    draw_comparison(axes, comparison(), loss_unit=unit, law="power law")
    assert axes.get_ylabel() == f"Validation loss ({unit})"
    french, english = (np.asarray(dots.get_offsets()) for dots in _dots(axes))
    factor = 1.0 if unit == "nats per token" else 4 / 5  # bits of 4 bytes a token and of 5
    expected = factor * 1.1 * np.exp(0.01 * (_noise(1) - _noise(2)))
    np.testing.assert_allclose(english[:, 1] / french[:, 1], expected)
    said = [area.get_text() for area in axes.findobj(TextArea)]  # column by column
    assert said[4:6] == ["French", "English"]
    assert said[7].startswith("\u22120.0")


def test_further_groups_are_drawn_with_the_first_two() -> None:
    third = compare(whole_curves(7, seed=2), whole_curves(7, 1.2, seed=3), ("French", "Latin"), draws=60)
    axes = Figure().add_subplot()
    draw_comparison(axes, comparison(), others=[third], loss_unit="nats per token", law="power law")
    french, english, latin = (np.asarray(dots.get_offsets()) for dots in _dots(axes))
    assert french[0, 1] < english[0, 1] < latin[0, 1]
    assert {"French", "English", "Latin"} <= {area.get_text() for area in axes.findobj(TextArea)}


def _dots(axes):  # type: ignore[no-untyped-def]
    return [dots for dots in axes.collections if len(dots.get_offsets()) == 7]


def _noise(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=7)


def test_unknown_laws_and_units_are_told() -> None:
    axes = Figure().add_subplot()
    with pytest.raises(UserError, match="do not share the law 'kaplan'"):
        draw_comparison(axes, comparison(), law="kaplan")
    with pytest.raises(UserError, match="do not compare in furlongs"):
        draw_comparison(axes, comparison(), loss_unit="furlongs")
