"""Tables of runs (CSV, JSON lines, Parquet), read into the same records as our own run folders."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

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
    nats_per_token,
)

Value = TypeVar("Value")

# Field of the record -> the column names that are understood without being told.
COLUMNS: dict[str, tuple[str, ...]] = {
    "name": ("run", "curve", "name"),
    "loss": ("loss_nats_per_token", "test_loss", "validation_loss", "loss"),
    "bits_per_byte": ("loss_bits_per_byte", "bits_per_byte"),
    "loss_unit": ("loss_unit",),
    "compute_flops": ("compute_flops", "flops"),
    "compute_pf_days": ("compute_pf_days", "pf_days"),
    "tokens": ("tokens",),
    "parameters": ("parameters", "params"),
    "parameters_non_embedding": ("parameters_non_embedding", "params_non_embedding", "params_no_embed"),
    "attention_flops_per_token": ("attention_flops_per_token",),
    "bytes_per_token": ("bytes_per_token",),
    "convention": ("compute_convention",),
    "tokenizer": ("tokenizer",),
    "corpus": ("corpus",),
    "annealed": ("annealed",),
    "learning_rate": ("learning_rate", "lr"),
    "batch_tokens": ("batch_tokens", "tokens_per_step"),
    "unique_tokens": ("unique_tokens",),
}
NATS, BITS = "nats_per_token", "bits_per_byte"
LOSS_UNITS = {NATS: NATS, BITS: BITS}
FLAGS = {"true": True, "1": True, "false": False, "0": False}


class Row(NamedTuple):
    """A row of a table: where it stands ("line 3"), and its cells as text by column."""

    where: str
    cells: Mapping[str, str]


def _row(where: str, cells: Mapping[str, object]) -> Row:
    return Row(where, {column: "" if cell is None else str(cell) for column, cell in cells.items()})


def _read_csv(path: Path) -> list[Row]:
    rows = []
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        for cells in reader:
            if None in cells:
                raise UserError(f"{path} line {reader.line_num} has more cells than the header")
            rows.append(_row(f"line {reader.line_num}", cells))
    return rows


def _read_json_lines(path: Path) -> list[Row]:
    rows = []
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                cells = json.loads(line)
            except ValueError:
                raise UserError(f"{path} line {number} is not JSON") from None
            if not isinstance(cells, dict):
                raise UserError(f"{path} line {number} is not a JSON object")
            rows.append(_row(f"line {number}", cells))
    return rows


def _read_parquet(path: Path) -> list[Row]:
    from pyarrow import ArrowException, parquet  # slow to import

    try:
        table = parquet.ParquetFile(path).read()
    except ArrowException as error:
        raise UserError(f"{path} is not a readable Parquet file: {str(error).splitlines()[0]}") from None
    return [_row(f"row {number}", cells) for number, cells in enumerate(table.to_pylist(), start=1)]


Reader = Callable[[Path], list[Row]]
READERS: dict[str, Reader] = {".csv": _read_csv, ".jsonl": _read_json_lines, ".parquet": _read_parquet}


class _Cells(NamedTuple):
    """The rows of one run, with what is needed to say where a bad cell is."""

    path: Path
    name: str
    rows: list[Row]
    fields: Mapping[str, str]

    def _cell(self, row: Row, field: str) -> str:
        """Its text; empty where the table has no such column, or the row no such key."""
        return row.cells.get(self.fields.get(field, ""), "")

    def _number(self, row: Row, field: str) -> float:
        cell = self._cell(row, field)
        try:
            return float(cell)
        except ValueError:
            where = f"{self.path} {row.where}"
            raise UserError(f"{where}: {self.fields[field]} is {cell!r}, not a number") from None

    def numbers(self, field: str) -> Array:
        return np.array([self._number(row, field) for row in self.rows])

    def largest(self, field: str) -> float | None:
        """The largest value of a column over a run; None where it says nothing."""
        return max((self._number(row, field) for row in self.rows if self._cell(row, field)), default=None)

    def text(self, field: str) -> str | None:
        """The one value of a column that is constant over a run; None where it says nothing."""
        values = {self._cell(row, field) for row in self.rows}
        if len(values) > 1:
            raise UserError(f"{self.path}: run {self.name!r} has several values of {self.fields[field]}")
        return values.pop() or None

    def number(self, field: str) -> float | None:
        """As `text`, a number."""
        return None if self.text(field) is None else self._number(self.rows[0], field)

    def one_of(self, field: str, values: Mapping[str, Value]) -> Value | None:
        """As `text`, what its name stands for, in small letters or capitals."""
        name = self.text(field)
        if name is not None and name.lower() not in values:
            raise UserError(f"{self.path}: {self.fields[field]} {name!r} is none of {', '.join(values)}")
        return None if name is None else values[name.lower()]


def read_table(path: Path, columns: Mapping[str, str] | None = None) -> list[RunRecord]:
    """Records of a table with one row per checkpoint; without a column of names, every row is a run.

    Args:
      path: a CSV file with a header, JSON lines, or a Parquet file. It needs a loss in nats per token, or in
        bits per byte with the bytes per token that convert it, and compute (FLOP or PF-days) or else tokens and
        a size, from which compute is 6 * N_non_embedding * D, or 6 * N_total * D for want of it or as stated.
      columns: field of `COLUMNS` -> column of this table, for columns of other names.

    Raises:
      UserError: unreadable file, missing or ambiguous column, a cell that is not a number.
    """
    try:
        rows = READERS[path.suffix](path)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} is not a readable table: {error}") from None
    if not rows:
        raise UserError(f"{path} holds no row")
    fields = _resolve(path, list(dict.fromkeys(column for row in rows for column in row.cells)), columns or {})
    groups: dict[str, list[Row]] = {}
    for row in rows:
        name = row.cells.get(fields["name"]) if "name" in fields else f"{path.stem} {row.where}"
        if not name:
            raise UserError(f"{path} {row.where}: {fields['name']} is empty")
        groups.setdefault(name, []).append(row)
    return [_record(_Cells(path, name, group, fields)) for name, group in groups.items()]


def _resolve(path: Path, header: Sequence[str], chosen: Mapping[str, str]) -> dict[str, str]:
    """Field -> column, as told or by name. Raises UserError on two answers, or none where one is needed."""
    fields: dict[str, str] = {}
    for field, names in COLUMNS.items():
        found = [chosen[field]] if field in chosen else [name for name in names if name in header]
        if len(found) > 1:
            raise UserError(f"{path}: both {' and '.join(found)} could be the {field}: say --columns {field}=...")
        if found and found[0] not in header:
            raise UserError(f"{path} has no column {found[0]!r}; it has {', '.join(header)}")
        if found:
            fields[field] = found[0]
    if "bits_per_byte" in chosen and "loss" not in chosen:
        fields.pop("loss", None)
    if not {"loss", "bits_per_byte"} & fields.keys():
        raise UserError(f"{path} has no loss column: say --columns loss=... (it has {', '.join(header)})")
    if {"compute_flops", "compute_pf_days"} <= fields.keys():
        raise UserError(f"{path} mixes units: it states compute in FLOP and in PF-days; keep one of the columns")
    return fields


def _record(cells: _Cells) -> RunRecord:
    tokens = cells.numbers("tokens") if "tokens" in cells.fields else np.full(len(cells.rows), np.nan)
    compute, convention = _compute(cells, tokens)
    return RunRecord(
        name=cells.name,
        curve=Curve(tokens, compute, _loss(cells)),
        convention=convention,
        parameters=cells.number("parameters"),
        parameters_non_embedding=cells.number("parameters_non_embedding"),
        attention_flops_per_token=cells.number("attention_flops_per_token"),
        annealed=cells.one_of("annealed", FLAGS),
        tokenizer=cells.text("tokenizer"),
        bytes_per_token=cells.number("bytes_per_token"),
        corpus=cells.text("corpus"),
        learning_rate=cells.largest("learning_rate"),
        batch_tokens=cells.number("batch_tokens"),
        unique_tokens=cells.number("unique_tokens"),
    )


def _compute(cells: _Cells, tokens: Array) -> tuple[Array, Convention | None]:
    """Compute in FLOP [P] as the table states it, else from tokens and size, and its convention."""
    stated = cells.one_of("convention", CONVENTIONS)
    for field, flops in (("compute_flops", 1.0), ("compute_pf_days", PF_DAY.flops)):
        if field in cells.fields:
            return flops * cells.numbers(field), stated
    for field, convention in (("parameters_non_embedding", NON_EMBEDDING), ("parameters", TOTAL)):
        size = cells.number(field)
        if size is not None and "tokens" in cells.fields and stated in (None, convention):
            return 6 * size * tokens, convention
    what = "tokens and parameters" + (f" that {stated.name} counts by" if stated else "")
    raise UserError(f"{cells.path} has neither compute nor the {what}: say --columns compute_flops=...")


def _loss(cells: _Cells) -> Array:
    """Loss in nats per token [P]. Bits per byte convert exactly by the bytes of a token, and not without."""
    field = "loss" if "loss" in cells.fields else "bits_per_byte"
    loss = cells.numbers(field)
    if _loss_unit(cells, field) == NATS:
        return loss
    bytes_per_token = cells.number("bytes_per_token")
    if bytes_per_token is None:
        raise UserError(
            f"{cells.path}: run {cells.name!r} has its loss in bits per byte but no bytes per token, "
            "by which nats per token are had: say --columns bytes_per_token=..."
        )
    return nats_per_token(loss, bytes_per_token)


def _loss_unit(cells: _Cells, field: str) -> str:
    """The unit that the name of the loss column tells, else the one that the table states, else nats per token."""
    column, stated = cells.fields[field], cells.one_of("loss_unit", LOSS_UNITS)
    named = BITS if field == "bits_per_byte" else next((unit for unit in LOSS_UNITS if column.endswith(unit)), None)
    if named and stated and named != stated:
        raise UserError(
            f"{cells.path} mixes units: its loss column is {column}, its {cells.fields['loss_unit']} {stated}"
        )
    return named or stated or NATS
