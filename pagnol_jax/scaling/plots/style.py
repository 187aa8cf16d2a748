"""What all figures share: grounds and colours, type, the files they are written to, legible axes, lines, tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnchoredOffsetbox, HPacker, TextArea, VPacker
from matplotlib.ticker import (
    EngFormatter,
    FixedLocator,
    FuncFormatter,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    NullLocator,
)

from pagnol_jax.errors import UserError, writing
from pagnol_jax.scaling.record import Array

Colour = str | tuple[float, ...]


class Theme(NamedTuple):
    """Colours of a figure.

    `ramp` is the stretch of the viridis map that runs from small to large; `series` tell methods or groups apart, also
    to the colour-blind (they differ in lightness as well as in hue).
    """

    ground: str
    ink: str
    faint: str
    law: str
    ramp: tuple[float, float]
    series: tuple[str, ...]


LIGHT = Theme(
    ground="white",
    ink="#222222",
    faint="#d9d9d9",
    law="#c1272d",
    ramp=(0.70, 0.05),
    series=("#0b6fb8", "#c8500a", "#0a7f5c", "#7b3294", "#222222"),
)
DARK = Theme(
    ground="#15171c",
    ink="#e6e6e6",
    faint="#3a3d45",
    law="#ff7b6b",
    ramp=(0.95, 0.42),
    series=("#5fb4f0", "#ff9d4d", "#46d6a3", "#d9a0ea", "#e6e6e6"),
)

WIDTH, HEIGHT = 4.8, 3.4  # inches; legible when a journal's column shrinks it to 3.3
SMALL = 7.0  # points, the least type
FORMATS = (".png", ".pdf", ".svg")
MARKERS, GLYPHS = "os^Dv", "●■▲◆▼"  # of series, drawn and written; as many as a theme has colours
LOSS = "Validation loss (nats per token)"


@contextmanager
def styled(theme: Theme) -> Iterator[None]:
    """Type and colours of axes that are made within: what a notebook needs before it calls a `draw_` function."""
    style: dict[str, Any] = {
        "font.family": "DejaVu Sans", "mathtext.fontset": "dejavusans", "font.size": 8, "axes.linewidth": 0.6,
        "figure.facecolor": theme.ground, "axes.facecolor": theme.ground,
        "text.color": theme.ink, "axes.edgecolor": theme.ink, "axes.labelcolor": theme.ink,
        "xtick.color": theme.ink, "ytick.color": theme.ink, "pdf.fonttype": 42,
    }  # fmt: skip
    with matplotlib.rc_context(style):  # type: ignore[arg-type]
        yield


def check(output: Path) -> None:
    """Raises UserError for a file that is no figure; a command that trains first asks before hours go by."""
    if output.suffix not in FORMATS:
        raise UserError(f"{output}: a figure is one of {', '.join(FORMATS)}")


@contextmanager
def written(output: Path, theme: Theme, height: float = HEIGHT) -> Iterator[Figure]:
    """A figure `height` inches high, written to `output` when the block ends.

    Raises UserError for a file that is no .png, .pdf or .svg, or that cannot be written.
    """
    check(output)
    with styled(theme):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        yield figure
        with writing(output):
            figure.savefig(output, dpi=300)


def ramp(keys: Sequence[float] | Array, theme: Theme) -> list[Colour]:
    """Colours by the rank of each key, from small to large."""
    ranks = np.unique(keys, return_inverse=True)[1]
    return [matplotlib.colormaps["viridis"](np.interp(rank, [0, max(ranks.max(), 1)], theme.ramp)) for rank in ranks]


class Series(NamedTuple):
    """How one of several methods or groups is drawn."""

    colour: str
    marker: str
    glyph: str


def series(count: int, theme: Theme) -> list[Series]:
    """Of `count` methods or groups. Raises UserError for more than can be told apart."""
    if count > len(MARKERS):
        raise UserError(f"a figure tells {len(MARKERS)} series apart, not {count}")
    return [Series(*how) for how in zip(theme.series, MARKERS, GLYPHS, strict=True)][:count]


def tidy(axes: Axes) -> None:
    """Thin ticks, two spines."""
    axes.tick_params(which="both", width=0.5, direction="out")
    axes.spines[["top", "right"]].set_visible(False)


def log_ticks(axis: Axis, *, counts: bool = False, most: int = 9) -> None:
    """Ticks of a log axis with its final limits: decades, or 1, 2 and 5 of each; `counts` are written 100M, 1G."""
    low, high = np.log10(axis.get_view_interval())
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high - low < 1.5 else (1,), numticks=most))
    axis.set_minor_locator(LogLocator(subs=range(2, 10), numticks=99))
    axis.set_minor_formatter(NullFormatter())
    if counts:
        axis.set_major_formatter(EngFormatter(sep=""))


def plain_ticks(axis: Axis, most: int = 9) -> None:
    """Round values, evenly spaced, on a log axis with its final limits: for losses, which span less than a decade."""
    ticks = MaxNLocator(most, steps=[1, 2, 2.5, 5, 10]).tick_values(*axis.get_view_interval())
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def draw_line(axes: Axes, line: Array, span: tuple[float, float], colour: Colour) -> None:
    """A fitted line [P, 2]: solid over the `span` of its data, dotted beyond."""
    fitted = (line[:, 0] >= span[0]) & (line[:, 0] <= span[1])
    axes.plot(*line.T, color=colour, linewidth=0.8, linestyle=(0, (1, 1.5)), zorder=3)
    axes.plot(*line[fitted].T, color=colour, linewidth=1.2, zorder=3)


def write_table(
    axes: Axes, rows: Sequence[Sequence[str]], colours: Sequence[Colour], place: str, anchor: tuple[float, float]
) -> None:
    """Rows of text in columns, a colour a row; `place` ("upper left") of the table goes to `anchor` of the axes."""
    columns: list[Artist] = [
        VPacker(
            children=[
                TextArea(text, textprops={"color": colour, "size": SMALL})
                for text, colour in zip(column, colours, strict=True)
            ],
            align="left",
            pad=0,
            sep=2,
        )
        for column in zip(*rows, strict=True)
    ]
    table = HPacker(children=columns, align="top", pad=0, sep=5)
    box = AnchoredOffsetbox(
        place, child=table, pad=0, borderpad=0, frameon=False, bbox_to_anchor=anchor, bbox_transform=axes.transAxes
    )
    axes.add_artist(box)


def interval_text(interval: Sequence[float] | Array, spec: str) -> str:
    """`[−0.05, 0.02]`."""
    return minus(f"[{interval[0]:{spec}}, {interval[1]:{spec}}]")


def minus(text: str) -> str:
    """Text with proper minus signs."""
    return text.replace("-", "\u2212")


def scientific(value: float) -> str:
    """A number to three digits: $1.25\\times10^{16}$, or plain where that is short."""
    if 1e-3 <= abs(value) < 1e4:
        return f"{value:.3g}"
    digits, power = f"{value:.2e}".split("e")
    return f"${float(digits):g}\\times10^{{{int(power)}}}$"
