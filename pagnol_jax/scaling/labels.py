"""Placing text on a figure so that it covers neither a curve nor another text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

from pagnol_jax.scaling.record import Array

_SIZE = 7.0  # of the font, in points
_SPOT = 6.0  # half the side of a marker, in pixels of a canvas of 100 per inch
# Offsets from the labelled point, in points, with the alignment that makes the text grow away from it.
_GAP = 5.0
_ACROSS = {1: "left", 0: "center", -1: "right"}
_UP = {1: "bottom", 0: "center", -1: "top"}
_SIDES = [
    (dx * _GAP, dy * _GAP, _ACROSS[dx], _UP[dy])
    for dx, dy in ((1, 1), (1, 0), (0, 1), (1, -1), (-1, -1), (0, -1), (-1, 1), (-1, 0))
]


class Label(NamedTuple):
    """A text, its colour and the data points [P, 2] beside any of which it may stand, the best first."""

    text: str
    colour: str | tuple[float, ...]
    anchors: Array


def place_labels(
    axes: Axes, labels: Sequence[Label], curves: Sequence[Array], spots: Array, taken: Sequence[Text]
) -> None:
    """Writes every label where it covers least: no other text and no spot if that can be, then few curves.

    Args:
      axes: with its final limits and scales.
      labels: in order of precedence.
      curves: data points [P, 2] of each line drawn.
      spots: data points [S, 2] of the markers.
      taken: texts on the axes already.
    """
    axes.figure.draw_without_rendering()  # type: ignore[union-attr]  # settles the layout, hence the pixels
    frame = axes.get_window_extent()
    ink = np.unique(np.concatenate([_dense(axes.transData.transform(curve)) for curve in curves]).round(), axis=0)
    boxes = [text.get_window_extent().padded(2) for text in taken]
    boxes += [Bbox([spot, spot]).padded(_SPOT) for spot in axes.transData.transform(spots)]
    for label in labels:
        candidates: list[tuple[float, int, Annotation, Bbox]] = []
        for rank, anchor in enumerate(label.anchors):
            for preference, (dx, dy, horizontal, vertical) in enumerate(_SIDES):
                text = axes.annotate(
                    label.text, anchor, (dx, dy), textcoords="offset points", ha=horizontal, va=vertical,
                    fontsize=_SIZE, color=label.colour, zorder=6,
                )  # fmt: skip
                box = text.get_window_extent().padded(1)
                cost = _cost(box, frame, ink, boxes) + 0.3 * rank + 0.1 * preference
                candidates.append((cost, len(candidates), text, box))
        _, _, best, box = min(candidates)
        boxes.append(box)
        for *_, text, _ in candidates:
            if text is not best:
                text.remove()


def _cost(box: Bbox, frame: Bbox, ink: Array, boxes: Sequence[Bbox]) -> float:
    """Pixels of curve under the box; covering a text or a marker is worse, leaving the frame worst."""
    covered = ((ink > box.min) & (ink < box.max)).all(1).sum()
    outside = not (frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1)
    return float(covered) + 1e6 * outside + 1e4 * sum(box.overlaps(other) for other in boxes)


def _dense(pixels: Array) -> Array:
    """A polyline resampled every two pixels or so, so that counting its points measures its length."""
    lengths = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(pixels, axis=0).T))])
    at = np.linspace(0, lengths[-1], int(lengths[-1] / 2) + 1)
    return np.stack([np.interp(at, lengths, column) for column in pixels.T], axis=1)
