"""What the figures' tests draw, fits to runs simulated from Hoffmann's law, and how they look at it."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from scaling.simulated import HOFFMANN, grid, losses

from pagnol_jax.scaling import TOTAL, Curve, Points, RunRecord, every_point
from pagnol_jax.scaling.allocate import optimum
from pagnol_jax.scaling.envelope import EnvelopeFit, fit_envelope
from pagnol_jax.scaling.isoflop import IsoflopFit, fit_isoflop
from pagnol_jax.scaling.laws import CHINCHILLA
from pagnol_jax.scaling.objectives import huber, least_squares
from pagnol_jax.scaling.parametric import LawFit, fit_law
from pagnol_jax.scaling.plots import DARK, LIGHT
from pagnol_jax.scaling.valleys import Minimum, constant_noise, group_valleys

NOISE = 0.003  # std of log loss between runs
MAGIC = {".png": b"\x89PNG", ".pdf": b"%PDF", ".svg": b"<?xml"}
# Every ground, and every kind of file.
GROUNDS = pytest.mark.parametrize(("theme", "suffix"), [(LIGHT, ".png"), (DARK, ".pdf"), (DARK, ".svg")])


def check_written(path: Path) -> None:
    assert path.read_bytes().startswith(MAGIC[path.suffix])
    assert path.stat().st_size > 5_000


@cache
def isoflop_fit(minimum: Minimum, budgets: int = 6) -> IsoflopFit:
    """Nine sizes around the best one at each budget."""
    compute = np.repeat(np.geomspace(1e18, 1e20, budgets), 9)
    size = optimum(CHINCHILLA, HOFFMANN, compute).parameters * np.tile(np.geomspace(1 / 6, 6, 9), budgets)
    tokens = compute / (6 * size)
    points = Points(np.arange(size.size), tokens, compute, losses({"N": size, "D": tokens}, NOISE), size)
    return fit_isoflop(group_valleys(points), minimum, draws=100)


@cache
def law_fits() -> Sequence[tuple[str, LawFit]]:
    """By two objectives, on six sizes at five horizons."""
    inputs = grid(6, 5)
    loss, objectives = losses(inputs, NOISE), (huber(), least_squares())
    return [(one.name, fit_law(CHINCHILLA, inputs, loss, objective=one, draws=40)) for one in objectives]


def whole_curves(sizes: int = 7, factor: float = 1.0, seed: int = 0) -> list[RunRecord]:
    """Curves of 1 to 160 tokens per parameter; losses times `factor`, and 1 % of noise from run to run if seeded."""
    random, runs = np.random.default_rng(seed), []
    for index, size in enumerate(np.geomspace(4e7, 4e9, sizes)):
        tokens = size * np.geomspace(1, 160, 40)
        loss = factor * losses({"N": np.full(40, size), "D": tokens}) * np.exp(0.01 * random.normal() * (seed > 0))
        runs.append(RunRecord(f"run{index}", Curve(tokens, 6 * size * tokens, loss), TOTAL, size, bytes_per_token=4.0))
    return runs


@cache
def envelope_fit() -> EnvelopeFit:
    return fit_envelope(every_point(whole_curves(9)), constant_noise(0.0005), draws=100)


def texts(figure: Figure) -> list[tuple[str, Bbox]]:
    """Every text that is seen, those of the ticks included, and the pixels it takes."""
    figure.draw_without_rendering()
    axes = [axis for part in figure.axes for axis in (part.xaxis, part.yaxis)]
    hidden = {id(label) for axis in axes for label in _out_of_view(axis)}
    found = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]  # type: ignore[attr-defined]
    return [(text.get_text(), text.get_window_extent()) for text in found if id(text) not in hidden]  # type: ignore[attr-defined]


def _out_of_view(axis: Axis) -> list[Text]:
    """Labels of ticks beyond the limits, which matplotlib keeps and does not draw."""
    low, high = sorted(axis.get_view_interval())
    ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
    out = [tick for tick in ticks if not low * (1 - 1e-9) <= tick.get_loc() <= high * (1 + 1e-9)]
    return [label for tick in out for label in (tick.label1, tick.label2)]


def overlaps(figure: Figure) -> list[tuple[str, str]]:
    """Pairs of texts that cover each other, and texts that leave the figure."""
    found, edge = texts(figure), figure.bbox.padded(1)
    outside = [(text, "edge") for text, box in found if not (edge.contains(*box.min) and edge.contains(*box.max))]
    return outside + [
        (one, other)
        for index, (one, box) in enumerate(found)
        for other, place in found[:index]
        if box.padded(-0.5).overlaps(place.padded(-0.5))
    ]


def smallest_type(figure: Figure) -> float:
    """Points of the least text."""
    return min(text.get_fontsize() for text in figure.findobj(Text) if text.get_text().strip())  # type: ignore[attr-defined]
