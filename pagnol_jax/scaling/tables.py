"""Public tables of runs, read into the same records as our own run folders."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pagnol_jax.errors import UserError
from pagnol_jax.scaling.record import (
    CONVENTIONS,
    NON_EMBEDDING,
    PF_DAY,
    TOTAL,
    Array,
    Convention,
    Curve,
    RunRecord,
)

Row = Mapping[str, str | None]

# Field of the record -> the column names that are understood without being told.
COLUMNS: dict[str, tuple[str, ...]] = {
    "name": ("run", "curve", "name"),
    "loss": ("loss_nats_per_token", "test_loss", "validation_loss", "loss"),
    "compute_flops": ("compute_flops", "flops"),
    "compute_pf_days": ("compute_pf_days", "pf_days"),
    "tokens": ("tokens",),
    "parameters": ("parameters", "params"),
    "parameters_non_embedding": ("parameters_non_embedding", "params_non_embedding", "params_no_embed"),
    "bytes_per_token": ("bytes_per_token",),
    "convention": ("compute_convention",),
    "tokenizer": ("tokenizer",),
    "corpus": ("corpus",),
}


def read_csv(path: Path) -> list[Row]:
    """Rows of a CSV file with a header."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, strict=True))


READERS: dict[str, Callable[[Path], list[Row]]] = {".csv": read_csv}


class _Cells(NamedTuple):
    """The rows of one run, with what is needed to say where a bad cell is."""

    path: Path
    name: str
    rows: list[tuple[int, Row]]
    fields: Mapping[str, str]

    def numbers(self, field: str) -> Array:
        return np.array([self._number(line, row[self.fields[field]], field) for line, row in self.rows])

    def _number(self, line: int, cell: str | None, field: str) -> float:
        try:
            return float(cell or "")
        except ValueError:
            where = f"{self.path} line {line}"
            raise UserError(f"{where}: {self.fields[field]} is {cell or ''!r}, not a number") from None

    def number(self, field: str) -> float | None:
        """The one value of a column that is constant over a run; None without that column."""
        text = self.text(field)
        return None if text is None else float(self.numbers(field)[0])

    def text(self, field: str) -> str | None:
        """As `number`, unparsed; an empty cell says nothing."""
        if field not in self.fields:
            return None
        values = {row[self.fields[field]] or "" for _, row in self.rows}
        if len(values) > 1:
            raise UserError(f"{self.path}: run {self.name!r} has several values of {self.fields[field]}")
        return values.pop() or None


def read_table(path: Path, columns: Mapping[str, str] | None = None) -> list[RunRecord]:
    """Records of a table with one row per checkpoint; without a column of names, every row is a run.

    Args:
      path: a CSV file with a header. It needs a loss in nats per token, and compute (FLOP or PF-days) or else
        tokens and a size, from which compute is 6 * N_non_embedding * D, or 6 * N_total * D for want of it.
      columns: field of `COLUMNS` -> column of this table, for columns of other names.

    Raises:
      UserError: unreadable file, missing or ambiguous column, a cell that is not a number.
    """
    try:
        rows = READERS[path.suffix](path)
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a readable table: {error}") from None
    if not rows:
        raise UserError(f"{path} holds no row under a header")
    fields = _resolve(path, list(rows[0]), columns or {})
    groups: dict[str, list[tuple[int, Row]]] = {}
    for line, row in enumerate(rows, start=2):
        name = row[fields["name"]] if "name" in fields else f"{path.stem} line {line}"
        if not name:
            raise UserError(f"{path} line {line}: {fields['name']} is empty")
        groups.setdefault(name, []).append((line, row))
    return [_record(_Cells(path, name, group, fields)) for name, group in groups.items()]


def _resolve(path: Path, header: Sequence[str], chosen: Mapping[str, str]) -> dict[str, str]:
    """Field -> column, as told or by name. Raises UserError on two answers, or none where one is needed."""
    fields: dict[str, str] = {}
    for field, names in COLUMNS.items():
        found = [chosen[field]] if field in chosen else [name for name in names if name in header]
        if len(found) > 1:
            raise UserError(f"{path}: both {' and '.join(found)} could be the {field}: say --columns {field}=...")
        if found and found[0] not in header:
            raise UserError(f"{path} has no column {found[0]!r}; it has {', '.join(map(str, header))}")
        if found:
            fields[field] = found[0]
    if "loss" not in fields:
        raise UserError(f"{path} has no loss column: say --columns loss=... (it has {', '.join(map(str, header))})")
    if {"compute_flops", "compute_pf_days"} <= fields.keys():
        raise UserError(f"{path} mixes units: it states compute in FLOP and in PF-days; keep one of the columns")
    return fields


def _record(cells: _Cells) -> RunRecord:
    tokens = cells.numbers("tokens") if "tokens" in cells.fields else np.full(len(cells.rows), np.nan)
    compute, convention = _compute(cells, tokens)
    return RunRecord(
        name=cells.name,
        curve=Curve(tokens, compute, cells.numbers("loss")),
        convention=convention,
        parameters=cells.number("parameters"),
        parameters_non_embedding=cells.number("parameters_non_embedding"),
        tokenizer=cells.text("tokenizer"),
        bytes_per_token=cells.number("bytes_per_token"),
        corpus=cells.text("corpus"),
    )


def _compute(cells: _Cells, tokens: Array) -> tuple[Array, Convention | None]:
    """Compute in FLOP [P] as the table states it, else from tokens and size, and its convention."""
    for field, flops in (("compute_flops", 1.0), ("compute_pf_days", PF_DAY.flops)):
        if field in cells.fields:
            return flops * cells.numbers(field), _convention(cells)
    for field, convention in (("parameters_non_embedding", NON_EMBEDDING), ("parameters", TOTAL)):
        size = cells.number(field)
        if size is not None and "tokens" in cells.fields:
            return 6 * size * tokens, convention
    raise UserError(f"{cells.path} has neither compute nor tokens and parameters: say --columns compute_flops=...")


def _convention(cells: _Cells) -> Convention | None:
    name = cells.text("convention")
    if name is not None and name not in CONVENTIONS:
        raise UserError(f"{cells.path}: compute convention {name!r} is none of {', '.join(CONVENTIONS)}")
    return None if name is None else CONVENTIONS[name]
