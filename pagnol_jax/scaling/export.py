"""Records written as a table that `tables.read_table` reads back: runs to keep or publish without their folders."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pagnol_jax.errors import UserError, writing
from pagnol_jax.scaling.record import CONVENTIONS, RunRecord

Rows = list[dict[str, Any]]


def rows_of(runs: Sequence[RunRecord]) -> Rows:
    """One row per checkpoint, units in the names; what a run does not state is left out."""
    names = {convention: name for name, convention in CONVENTIONS.items()}
    rows = []
    for run in runs:
        facts = {
            "run": run.name,
            "parameters": run.parameters,
            "parameters_non_embedding": run.parameters_non_embedding,
            "attention_flops_per_token": run.attention_flops_per_token,
            "compute_convention": names.get(run.convention) if run.convention else None,
            "learning_rate": run.learning_rate,
            "batch_tokens": run.batch_tokens,
            "unique_tokens": run.unique_tokens,
            "annealed": run.annealed,
            "tokenizer": run.tokenizer,
            "bytes_per_token": run.bytes_per_token,
            "corpus": run.corpus,
        }
        for tokens, compute, loss in zip(*run.curve, strict=True):
            stated = {"tokens": float(tokens)} if np.isfinite(tokens) else {}
            checkpoint = stated | {"compute_flops": float(compute), "loss_nats_per_token": float(loss)}
            rows.append({name: value for name, value in (facts | checkpoint).items() if value is not None})
    return rows


def _columns(rows: Rows) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _write_csv(rows: Rows, path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, _columns(rows), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _write_json_lines(rows: Rows, path: Path) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _write_parquet(rows: Rows, path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    columns = {name: [row.get(name) for row in rows] for name in _columns(rows)}
    parquet.write_table(pyarrow.table(columns), path)


WRITERS: dict[str, Callable[[Rows, Path], None]] = {
    ".csv": _write_csv,
    ".jsonl": _write_json_lines,
    ".parquet": _write_parquet,
}


def write_table(runs: Sequence[RunRecord], path: Path) -> None:
    """Writes the table. Raises UserError for another kind of file, or one that cannot be written."""
    if path.suffix not in WRITERS:
        raise UserError(f"{path}: a table is one of {', '.join(WRITERS)}")
    with writing(path):
        WRITERS[path.suffix](rows_of(runs), path)
