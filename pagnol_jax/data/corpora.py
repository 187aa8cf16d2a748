"""A corpus is a value: where documents come from, in shards that can be read in parallel.

    jsonl('$PAGNOL_DATA_DIR/corpora/fr/*.train.jsonl.zst')      text('novels/*.txt')
    cc100('fr.txt.xz')      parquet('part-*.parquet', column='content')      sample(text('law/*.txt'), 0.5)
    tfds('wiki40b/fr')      hub('HuggingFaceFW/fineweb-2', 'fra_Latn')      debian_fr()

The last three live in `remote` and `debian`. Patterns may hold `$VARS` and `~`, and `.zst`, `.gz` and `.xz`
files are read as they are.
"""

from __future__ import annotations

import functools
import glob
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from pagnol_jax.data.readers import (
    Document,
    Shard,
    read_cc100,
    read_jsonl,
    read_parquet,
    read_text,
)
from pagnol_jax.errors import UserError

PART_BYTES = 8 << 20  # a file is cut into parts of about this size (as stored) for parallel reading
MAX_PARTS = 16  # every part reads the file from its start
SAMPLE_BYTES = 1 << 20
SAMPLES = 64


class Corpus(NamedTuple):
    """Documents from somewhere, as three functions that can be sent to another process.

    definition: the constructor call, which names the corpus in manifests (no machine path if `$VARS` are
      used). shards: what can be read apart; raises UserError where there is nothing. read: the documents
      of one shard, always in the same order. fingerprint: changes when the content does; cheap.
    """

    definition: str
    shards: Callable[[], list[Shard]]
    read: Callable[[Shard], Iterator[Document]]
    fingerprint: Callable[[], str]


def jsonl(pattern: str, field: str = "text") -> Corpus:
    """JSON Lines, `.jsonl`, `.jsonl.zst` or `.jsonl.gz`, the text under `field`."""
    definition = f"jsonl({pattern!r}, field={field!r})"
    return _file_corpus(definition, pattern, partial(read_jsonl, field=field), file_parts)


def text(pattern: str) -> Corpus:
    """Plain text, one file a document."""
    return _file_corpus(f"text({pattern!r})", pattern, read_text, whole_file)


def cc100(pattern: str) -> Corpus:
    """Plain text with a blank line between documents and a paragraph a line, as CC-100 has it."""
    return _file_corpus(f"cc100({pattern!r})", pattern, read_cc100, file_parts)


def parquet(pattern: str, column: str = "text") -> Corpus:
    """Parquet files, the text in `column`."""
    definition = f"parquet({pattern!r}, column={column!r})"
    return _file_corpus(definition, pattern, partial(read_parquet, column=column), file_parts)


def files(pattern: str) -> Corpus:
    """`jsonl`, `text` or `parquet`, by the end of the pattern."""
    kind = Path(re.sub(r"\.(zst|gz|xz)$", "", pattern)).suffix
    if kind not in _BY_SUFFIX:
        raise UserError(f"{pattern}: ends in none of {', '.join(_BY_SUFFIX)} (or these with .zst, .gz or .xz)")
    return _BY_SUFFIX[kind](pattern)


def sample(corpus: Corpus, fraction: float) -> Corpus:
    """About `fraction` of a corpus' documents, chosen by their text alone: to match corpora in size.

    Raises UserError unless 0 < fraction <= 1.
    """
    if not 0 < fraction <= 1:
        raise UserError(f"a sample is a fraction above 0 and at most 1 of a corpus, not {fraction}")
    definition = f"sample({corpus.definition}, {fraction})"
    return corpus._replace(definition=definition, read=partial(_read_sample, corpus.read, fraction))


def _read_sample(read: Callable[[Shard], Iterator[Document]], fraction: float, shard: Shard) -> Iterator[Document]:
    return (document for document in read(shard) if _hash(document.text, b"sample") < fraction)


def held_out(text: str, fraction: float) -> bool:
    """Whether a document belongs to the held-out split: by its text alone, whatever the order or the file.

    Equal texts fall on the same side, so a duplicate of a training document is never held out.
    """
    return _hash(text) < fraction


def _hash(text: str, person: bytes = b"") -> float:
    """Uniform in [0, 1), another one for every `person`."""
    digest = hashlib.blake2b(text.encode(), digest_size=8, person=person).digest()
    return int.from_bytes(digest, "big") / 2**64


_BY_SUFFIX: dict[str, Callable[[str], Corpus]] = {".jsonl": jsonl, ".txt": text, ".parquet": parquet}


def _file_corpus(
    definition: str,
    pattern: str,
    read: Callable[[Shard], Iterator[Document]],
    parts_of: Callable[[str], int],
) -> Corpus:
    files = partial(find_files, pattern)
    return Corpus(definition, partial(_file_shards, files, parts_of), read, partial(_files_digest, files))


def _file_shards(files: Callable[[], list[str]], parts_of: Callable[[str], int]) -> list[Shard]:
    counts = [(path, parts_of(path)) for path in files()]
    return [Shard(path, part, parts) for path, parts in counts for part in range(parts)]


def whole_file(path: str) -> int:
    """One part."""
    return 1


def file_parts(path: str) -> int:
    """The number of parts a file is read in, by its size alone."""
    return min(MAX_PARTS, max(1, -(-os.path.getsize(path) // PART_BYTES)))


def find_files(pattern: str) -> list[str]:
    """The files a pattern names, sorted; raises UserError where a variable is unset or nothing matches."""
    expanded = os.path.expanduser(os.path.expandvars(pattern))
    if "$" in expanded:
        variable = expanded[expanded.index("$") :].split("/")[0].strip("${}")
        raise UserError(f"{pattern}: the environment variable {variable} is not set")
    files = sorted(path for path in glob.glob(expanded, recursive=True) if os.path.isfile(path))
    if not files:
        raise UserError(f"{expanded}: no such file")
    return files


def _files_digest(files: Callable[[], list[str]]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for path in files():
        digest.update(f"{Path(path).name}\0{_file_digest(path, *_stamp(path))}\0".encode())
    return digest.hexdigest()


def _stamp(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns


@functools.lru_cache(maxsize=4096)
def _file_digest(path: str, size: int, modified_ns: int) -> str:
    """Of all bytes up to 64 MiB, and of 64 samples of 1 MiB beyond (size included)."""
    digest = hashlib.blake2b(str(size).encode(), digest_size=16)
    stride = max(SAMPLE_BYTES, size // SAMPLES)
    with open(path, "rb") as file:
        for start in range(0, size, stride):
            file.seek(start)
            digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()
