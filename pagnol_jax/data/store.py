"""Reading a token cache: NumPy and JSON only, memory-mapped, open in milliseconds.

A cache is a folder: `manifest.json`, `tokenizer.json` and `shards/CORPUS.SPLIT.NUMBER.bin`, the token ids
of whole documents one after the other, little-endian uint16 (uint32 where the vocabulary is larger than
65,536), each document ended by `<SEP>`.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pagnol_jax.data.disk import write_whole
from pagnol_jax.errors import UserError

if TYPE_CHECKING:
    from pagnol_jax.data.vocabulary import Tokenizer

FORMAT = 1  # of the cache folder; another number is another cache
SPLITS = ("train", "validation")
MANIFEST = "manifest.json"
BLOCK = 1 << 22


class Size(NamedTuple):
    """What a split holds. bytes: UTF-8 bytes of the normalised text; tokens: with `<EOS>` and `<SEP>`."""

    documents: int
    tokens: int
    bytes: int


class TokenStream:
    """The tokens of one split as one long array: `<SEP>`, then every document, each ended by `<SEP>`.

    The leading `<SEP>` lets the first document's first token be predicted like any other's.
    """

    def __init__(self, paths: Sequence[Path], counts: Sequence[int], dtype: np.dtype, sep_id: int) -> None:
        self._paths, self._dtype = list(paths), dtype
        self._lead = np.array([sep_id], dtype)
        self._ends = np.cumsum([1, *counts])
        self._open: dict[int, np.ndarray] = {0: self._lead}

    def __len__(self) -> int:
        return int(self._ends[-1])

    def read(self, starts: np.ndarray, count: int) -> np.ndarray:
        """int32 [N, count]: the `count` tokens from each of `starts` [N] on; IndexError past the end."""
        if len(starts) and (int(np.min(starts)) < 0 or int(np.max(starts)) + count > len(self)):
            raise IndexError(f"tokens past the end of a stream of {len(self)}")
        tokens = np.empty((len(starts), count), np.int32)
        pieces = np.searchsorted(self._ends, starts, side="right")
        for row, start, first in zip(tokens, starts.tolist(), pieces.tolist(), strict=True):
            filled, piece = 0, first
            while filled < count:
                end = int(self._ends[piece])
                block = self._piece(piece)
                at = start + filled - (end - len(block))
                taken = min(count - filled, end - start - filled)
                row[filled : filled + taken] = block[at : at + taken]
                filled, piece = filled + taken, piece + 1
        return tokens

    def _piece(self, index: int) -> np.ndarray:
        block = self._open.get(index)
        if block is None:
            path = self._paths[index - 1]
            mapped = np.memmap(path, self._dtype, "r") if path.stat().st_size else np.empty(0, self._dtype)
            block = self._open[index] = mapped.view(np.ndarray)
        return block


class Cache:
    """An open token cache."""

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder, self.manifest = folder, manifest
        self.name: str = manifest["name"]
        self.corpora: tuple[str, ...] = tuple(manifest["corpora"])
        self.vocab_size: int = manifest["tokenizer"]["vocab_size"]
        self.pad_id: int = manifest["tokenizer"]["pad_id"]
        self.sep_id: int = manifest["tokenizer"]["sep_id"]
        self.tokenizer_fingerprint: str = manifest["tokenizer"]["fingerprint"]
        self.fingerprint: str = manifest["checksum"]

    @functools.cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer the cache was built with; UserError if its file was changed since."""
        from pagnol_jax.data.vocabulary import Tokenizer

        path = self.folder / "tokenizer.json"
        tokenizer = Tokenizer.load(path)
        if tokenizer.fingerprint != self.tokenizer_fingerprint:
            raise UserError(f"{path}: not the tokenizer this cache was built with: {REBUILD}")
        return tokenizer

    def shards(self, corpus: str, split: str) -> list[dict[str, Any]]:
        """The manifest's records of the files of one split."""
        if corpus not in self.corpora:
            raise UserError(f"{self.folder}: no corpus {corpus!r}; it has {', '.join(self.corpora)}")
        records: list[dict[str, Any]] = self.manifest["corpora"][corpus]["splits"][split]
        return records

    def size(self, corpus: str, split: str) -> Size:
        """Documents, tokens and bytes of one split (`train` or `validation`)."""
        records = self.shards(corpus, split)
        return Size(*(sum(record[field] for record in records) for field in Size._fields))

    def stream(self, corpus: str, split: str) -> TokenStream:
        """The tokens of one split."""
        records = self.shards(corpus, split)
        paths = [self.folder / record["file"] for record in records]
        dtype = np.dtype(self.manifest["dtype"])
        return TokenStream(paths, [record["tokens"] for record in records], dtype, self.sep_id)

    def verify(self) -> None:
        """Reads every file again; raises UserError naming one whose checksum differs."""
        for corpus in self.corpora:
            for record in (r for split in SPLITS for r in self.shards(corpus, split)):
                if file_checksum(self.folder / record["file"]) != record["checksum"]:
                    raise UserError(f"{self.folder / record['file']}: damaged (checksum differs): {REBUILD}")


REBUILD = "build it anew with 'pagnol data build --overwrite'"


def open_cache(folder: str | Path) -> Cache:
    """Opens a built cache; raises UserError where it is missing, unfinished, damaged or of another format."""
    folder = Path(folder)
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        genuine = manifest.get("checksum") == manifest_checksum(manifest)
    except FileNotFoundError:
        raise UserError(f"{folder}: no token cache, or one not finished: run 'pagnol data build'") from None
    except (ValueError, AttributeError):
        raise UserError(f"{path}: damaged: {REBUILD}") from None
    if not genuine:
        raise UserError(f"{path}: damaged (checksum differs): {REBUILD}")
    if manifest["definition"]["format"] != FORMAT:
        raise UserError(f"{folder}: format {manifest['definition']['format']}, this is {FORMAT}: {REBUILD}")
    cache = Cache(folder, manifest)
    _check_sizes(cache)
    return cache


def _check_sizes(cache: Cache) -> None:
    width = np.dtype(cache.manifest["dtype"]).itemsize
    for corpus in cache.corpora:
        for record in (r for split in SPLITS for r in cache.shards(corpus, split)):
            path = cache.folder / record["file"]
            if not path.exists() or path.stat().st_size != record["tokens"] * width:
                raise UserError(f"{path}: missing or cut short: {REBUILD}")


def save_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Writes the manifest with its checksum: from then on the cache is finished."""
    manifest = manifest | {"checksum": manifest_checksum(manifest)}
    write_whole(folder / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False))


def manifest_checksum(manifest: dict[str, Any]) -> str:
    """16 hex digits of all of a manifest but its checksum."""
    content = {key: value for key, value in manifest.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def file_checksum(path: Path) -> str:
    """BLAKE2b of a file, 32 hex digits."""
    digest = hashlib.blake2b(digest_size=16)
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def token_dtype(vocab_size: int) -> np.dtype:
    """The smallest little-endian unsigned type that holds every id."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")
