"""What the reports share: aligned tables, and numbers of any size in three digits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from pagnol_jax.scaling.record import Array


def aligned(rows: Iterable[Sequence[str]], *, right: bool = True, least: int = 0) -> list[str]:
    """Rows of cells as lines: the first column to the left, at least so wide, the others to the right or left."""
    columns = list(zip(*rows, strict=True))
    first, *widths = (max(map(len, column)) for column in columns)
    side: Callable[[str, int], str] = str.rjust if right else str.ljust
    first = max(first, least)
    return [
        "  ".join([row[0].ljust(first), *map(side, row[1:], widths)]).rstrip() for row in zip(*columns, strict=True)
    ]


def count(value: float | Array | None) -> str:
    """A number of parameters or tokens: 21.2M; a dash where there is none."""
    if value is None or not np.isfinite(value):
        return "-"
    power = min(int(np.log10(max(float(value), 1)) // 3), 4)
    return f"{value / 1000**power:.3g}{' KMGT'[power].strip()}".replace("e+03", "000")
