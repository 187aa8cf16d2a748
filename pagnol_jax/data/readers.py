"""Bytes on disk to documents, each damage told in one line with file and line number."""

from __future__ import annotations

import gzip
import json
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from pagnol_jax.errors import UserError

CHUNK = 1 << 20
ZSTD_WINDOW = 1 << 27  # bytes: the largest window that `zstd --long=27` writes


class Document(NamedTuple):
    """One text, and where it came from (unique within its corpus)."""

    text: str
    id: str


class Shard(NamedTuple):
    """Every `parts`-th document of a source, from the `part`-th on: the unit of parallel, resumable work."""

    path: str
    part: int = 0
    parts: int = 1


def read_jsonl(shard: Shard, field: str) -> Iterator[Document]:
    """One JSON object a line, its text under `field`; blank lines are passed over."""
    for number, line in numbered_lines(shard):
        if not line.strip():
            continue
        place = f"{shard.path}:{number}"
        try:
            record = json.loads(line)
        except ValueError as error:
            raise UserError(f"{place}: not JSON: {error}") from None
        text = record.get(field) if isinstance(record, dict) else None
        yield Document(checked_text(text, place, field), f"{Path(shard.path).name}:{number}")


def read_text(shard: Shard) -> Iterator[Document]:
    """The whole file is one document."""
    lines = [line for _, line in numbered_lines(shard)]
    yield Document("\n".join(lines), Path(shard.path).name)


def read_cc100(shard: Shard) -> Iterator[Document]:
    """Documents between blank lines, a paragraph a line (the layout of CC-100's text files)."""
    lines: list[str] = []
    start = index = 0
    for number, line in numbered_lines(shard._replace(part=0, parts=1)):
        if line.strip():
            start = start if lines else number
            lines.append(line)
        elif lines:
            if index % shard.parts == shard.part:
                yield Document("\n".join(lines), f"{Path(shard.path).name}:{start}")
            lines, index = [], index + 1
    if lines and index % shard.parts == shard.part:
        yield Document("\n".join(lines), f"{Path(shard.path).name}:{start}")


def read_parquet(shard: Shard, column: str) -> Iterator[Document]:
    """The rows of every `parts`-th row group."""
    import pyarrow
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(shard.path)
        if column not in file.schema_arrow.names:
            names = ", ".join(file.schema_arrow.names)
            raise UserError(f"{shard.path}: no column {column!r}; it has {names}")
        for group in range(shard.part, file.num_row_groups, shard.parts):
            texts = file.read_row_group(group, columns=[column]).column(column).to_pylist()
            for row, text in enumerate(texts):
                place = f"{shard.path}: row {row} of group {group}"
                yield Document(checked_text(text, place, column), f"{Path(shard.path).name}:{group}:{row}")
    except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:
        raise UserError(f"{shard.path}: cannot read as Parquet: {first_line(error)}") from None


def checked_text(text: object, place: str, field: str) -> str:
    """`text` if it is a string that UTF-8 can write; else a UserError naming the place."""
    if not isinstance(text, str):
        raise UserError(f"{place}: no text under {field!r}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{place}: text with half a surrogate pair at character {error.start}") from None
    return text


def numbered_lines(shard: Shard) -> Iterator[tuple[int, str]]:
    """The shard's lines, without their newline, counted from 1 in the whole file."""
    number = 0
    try:
        for number, line in enumerate(_lines(_chunks(shard.path)), start=1):
            if number % shard.parts == (shard.part + 1) % shard.parts:
                yield number, line.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{shard.path}:{number}: not UTF-8: {error.reason} at byte {error.start}") from None
    except (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError) as error:
        raise UserError(f"{shard.path}: damaged or cut short after line {number}: {error}") from None
    except OSError as error:
        raise UserError(f"{shard.path}: cannot read: {error.strerror or error}") from None


def _lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    rest: list[bytes] = []
    for chunk in chunks:
        head, newline, tail = chunk.partition(b"\n")
        rest.append(head)
        if newline:
            yield b"".join(rest)
            *whole, last = tail.split(b"\n")
            yield from whole
            rest = [last]
    if any(rest):
        yield b"".join(rest)


def _chunks(path: str) -> Iterator[bytes]:
    with open(path, "rb") as file:
        yield from _DECOMPRESS.get(Path(path).suffix, _plain)(file)


def _plain(file: BinaryIO | gzip.GzipFile | lzma.LZMAFile) -> Iterator[bytes]:
    while chunk := file.read(CHUNK):
        yield chunk


def _gunzip(file: BinaryIO) -> Iterator[bytes]:
    with gzip.open(file) as content:
        yield from _plain(content)


def _unxz(file: BinaryIO) -> Iterator[bytes]:
    with lzma.open(file) as content:
        yield from _plain(content)


def _unzstd(file: BinaryIO) -> Iterator[bytes]:
    """Frame by frame, so that a file cut short is noticed (a stream reader would just stop)."""
    import zstandard

    frame = None
    for chunk in _plain(file):
        rest = chunk
        while rest:
            frame = frame or zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW).decompressobj()
            try:
                yield frame.decompress(rest)
            except zstandard.ZstdError as error:
                raise EOFError(str(error)) from None
            rest, frame = (frame.unused_data, None) if frame.eof else (b"", frame)
    if frame:
        raise EOFError("its last zstd frame does not end")


_DECOMPRESS: dict[str, Callable[[BinaryIO], Iterator[bytes]]] = {
    ".zst": _unzstd,
    ".gz": _gunzip,
    ".xz": _unxz,
}


def first_line(error: Exception) -> str:
    """The first line of an exception's message, or its type where it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]
