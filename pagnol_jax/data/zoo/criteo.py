"""Criteo's click logs: 13 whole numbers and 26 categories a row, streamed into a memory-mapped cache of ids.

Formats: the Display Advertising Challenge's `train.txt` (tab-separated, no header: label, I1-I13, C1-C26) and any file
separated by commas or tabs whose header names Label, I1-I13 and C1-C26, in any case and order; both also as .gz.
"""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from pagnol_jax.data.disk import cache_root, write_whole
from pagnol_jax.data.zoo.criteo_vocabulary import (
    CATEGORIES,
    INTEGERS,
    Encoder,
    Vocabulary,
    category_keys,
    counted,
    integer_keys,
)
from pagnol_jax.data.zoo.rows import Rows
from pagnol_jax.errors import UserError

NAMES = ("label", *(f"i{i + 1}" for i in range(INTEGERS)), *(f"c{i + 1}" for i in range(CATEGORIES)))
VERSION = 1  # of the cache; another number is another cache
BLOCK = 8 << 20  # bytes of text at a time


class Layout(NamedTuple):
    """How a file is written. columns: where each of NAMES stands; width: columns of a row."""

    separator: bytes
    header: bool
    columns: tuple[int, ...]
    width: int


class Block(NamedTuple):
    """Some rows. keys: uint64 [N, 39], a number for every value of a field; labels: uint8 [N]."""

    keys: np.ndarray
    labels: np.ndarray


def criteo(path: str, vocabulary: Vocabulary | None = None, cache: str | None = None) -> Rows:
    """The rows of a file, from its cache if there is one; else written there in one pass, after a first that counts.

    vocabulary: counted() as published, or hashed(size), which needs no first pass. cache: folder of caches (default
    `$PAGNOL_CACHE/criteo`). Memory is a block's, and while counting 16 bytes a distinct value. A cache appears whole,
    by a rename: what a kill leaves is begun again.
    Raises UserError for a file that is not there or empty, and with its line number for a row that is not one.
    """
    vocabulary = vocabulary or counted()
    source = Path(path)
    if not source.is_file():
        raise UserError(f"{path}: no such file; Criteo's train.txt is asked for (--gin.CRITEO='\"FILE\"')")
    status = source.stat()
    identity = {"source": str(source.resolve()), "bytes": status.st_size, "modified": status.st_mtime_ns}
    identity |= {"vocabulary": vocabulary.name, "version": VERSION}
    fingerprint = hashlib.blake2b(json.dumps(identity).encode(), digest_size=8).hexdigest()
    folder = (Path(cache) if cache else cache_root() / "criteo") / fingerprint
    if not folder.is_dir():
        _build(source, vocabulary, folder, identity)
    return _open(folder)


def _open(folder: Path) -> Rows:
    try:
        note = json.loads((folder / "rows.json").read_text(encoding="utf-8"))
        labels = np.fromfile(folder / "labels.u8", np.uint8)
        ids = np.memmap(folder / "ids.i32", "<i4", "r", shape=(note["rows"], len(note["sizes"])))
        if len(labels) != note["rows"]:
            raise ValueError("labels are missing")
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{folder}: damaged ({error}); remove it, and it is made again") from None
    return Rows(ids, labels, tuple(note["sizes"]), folder.name)


def _build(source: Path, vocabulary: Vocabulary, folder: Path, identity: dict[str, Any]) -> None:
    """Writes the cache beside its place, and moves it there; one process at a time."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = folder.with_suffix(".tmp")
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.is_dir():  # by whoever held the lock
            return
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        layout = find_layout(source)
        encoder = vocabulary.fit(lambda: (block.keys for block in blocks(source, layout, "counting")))
        rows = _write(unfinished, blocks(source, layout, "writing ids"), encoder)
        if not rows:
            raise UserError(f"{source}: no rows")
        write_whole(unfinished / "rows.json", json.dumps(identity | {"rows": rows, "sizes": list(encoder.sizes)}))
        unfinished.rename(folder)


def _write(folder: Path, found: Iterator[Block], encoder: Encoder) -> int:
    """Ids and labels, row after row, on disk when this returns the number of rows."""
    rows = 0
    with (folder / "ids.i32").open("wb") as ids, (folder / "labels.u8").open("wb") as labels:
        for block in found:
            ids.write(encoder.encode(block.keys).astype("<i4").tobytes())
            labels.write(block.labels.tobytes())
            rows += len(block.labels)
        for file in (ids, labels):
            file.flush()
            os.fsync(file.fileno())
    return rows


def find_layout(source: Path) -> Layout:
    """From the first line. Raises UserError for an empty file, and for columns that are not Criteo's."""
    with _told(source), _opened(source)[0] as file:
        first = file.readline().rstrip(b"\r\n")
    if not first:
        raise UserError(f"{source}: empty")
    separator = b"\t" if b"\t" in first else b","
    fields = [field.strip().lower().decode(errors="replace") for field in first.split(separator)]
    if "label" in fields:
        if missing := [name for name in NAMES if name not in fields]:
            raise UserError(f"{source}: line 1: the header has no column {missing[0].upper()}")
        return Layout(separator, True, tuple(fields.index(name) for name in NAMES), len(fields))
    return Layout(separator, False, tuple(range(len(NAMES))), len(NAMES))


def blocks(source: Path, layout: Layout, purpose: str) -> Iterator[Block]:
    """The rows of a file, a few megabytes of text at a time. Raises UserError with the line that is wrong."""
    file, raw = _opened(source)
    size = source.stat().st_size
    with _told(source), file, tqdm(total=size, desc=f"{source.name}: {purpose}", unit="B", unit_scale=True) as bar:
        number = 1 + layout.header
        if layout.header:
            file.readline()
        while lines := file.readlines(BLOCK):
            yield _parse(source, layout, lines, number)
            number += len(lines)
            bar.update(raw.tell() - bar.n)


def _opened(source: Path) -> tuple[Any, Any]:
    """A file to read lines from, and the file on disk whose position says how far one is."""
    raw = source.open("rb")
    return (gzip.open(raw) if source.suffix == ".gz" else raw), raw


@contextlib.contextmanager
def _told(source: Path) -> Iterator[None]:
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{source}: {error}") from None


def _parse(source: Path, layout: Layout, lines: list[bytes], number: int) -> Block:
    """Lines, the first of which is line `number`."""
    rows = [line.rstrip(b"\r\n").split(layout.separator) for line in lines]
    for offset, row in enumerate(rows):
        if len(row) != layout.width:
            what = f"{len(row)} columns where {layout.width} are expected"
            raise UserError(f"{source}: line {number + offset}: {what}")
    columns = list(zip(*rows, strict=True))
    label, *fields = (np.array(columns[index], "S") for index in layout.columns)
    if (wrong := ~np.isin(label, [b"0", b"1"])).any():
        first = int(wrong.argmax())
        raise UserError(
            f"{source}: line {number + first}: label {label[first].decode(errors='replace')!r} is not 0 or 1"
        )
    keys = np.empty((len(rows), len(fields)), np.uint64)
    for index, values in enumerate(fields):
        try:
            keys[:, index] = integer_keys(values) if index < INTEGERS else category_keys(values)
        except ValueError:
            first = next(i for i, value in enumerate(values) if not _is_number(value))
            shown = values[first].decode(errors="replace")
            raise UserError(f"{source}: line {number + first}: I{index + 1} {shown!r} is not a number") from None
    return Block(keys, (label == b"1").astype(np.uint8))


def _is_number(value: bytes) -> bool:
    try:
        return not value or np.isfinite(float(value))
    except ValueError:
        return False
