"""A section of the page of published laws: it measures numbers, and tells them in Markdown."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from textwrap import fill
from typing import Any, NamedTuple

from pagnol_jax.errors import UserError

Numbers = dict[str, Any]  # as JSON has them
FOLDERS = ("pagnol_figure1", "porian", "gadre_overtraining", "olmo_ladder", "kyo_takano_chinchilla")


class Options(NamedTuple):
    """The folder of public run tables, draws of a bootstrap, repeats of a recovery study, processes that share them."""

    data: Path
    draws: int
    repeats: int
    processes: int


class Section(NamedTuple):
    """A title, what measures its numbers, and what makes blocks of Markdown of them."""

    title: str
    measure: Callable[[Options], Numbers]
    page: Callable[[Numbers], list[str]]


def data_folder() -> Path:
    """$PAGNOL_DATA_DIR/scaling. Raises UserError unless it holds every folder that the sections read."""
    if not os.environ.get("PAGNOL_DATA_DIR"):
        raise UserError("PAGNOL_DATA_DIR is not set: its folder scaling/ holds the public run tables")
    folder = Path(os.environ["PAGNOL_DATA_DIR"]) / "scaling"
    missing = [name for name in FOLDERS if not (folder / name).is_dir()]
    if missing:
        raise UserError(f"{folder} lacks {', '.join(missing)}: no public run tables to fit")
    return folder


def table(rows: Iterable[Mapping[str, str]]) -> str:
    """A Markdown table of rows by the names of their columns."""
    rows = list(rows)
    header = list(rows[0])
    lines = [header, ["---"] * len(header), *(row.values() for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def text(paragraph: str) -> str:
    """A paragraph, broken into lines."""
    return fill(paragraph, 120, break_long_words=False, break_on_hyphens=False)


def interval(low: float, high: float, spec: str = ".4f") -> str:
    """`[low, high]`."""
    return f"[{low:{spec}}, {high:{spec}}]"
