"""A section of the page of published laws: it measures numbers, and tells them in Markdown."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
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
    """A title, what measures its numbers, and what makes lines of Markdown of them."""

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


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    return ["| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows)]


def interval(low: float, high: float, spec: str = ".4f") -> str:
    return f"[{low:{spec}}, {high:{spec}}]"
