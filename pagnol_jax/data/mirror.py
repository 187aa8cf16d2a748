"""Token caches in an object store: built or copied once a host, then read from its disk, memory-mapped."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pagnol_jax.data.disk import write_whole
from pagnol_jax.data.store import MANIFEST, SPLITS, file_checksum, open_cache

BLOCK = 16 << 20  # bytes at a time
TOKENIZER = "tokenizer.json"


def download(remote: Path, local: Path) -> None:
    """Copies a built cache to disk, whole shards; what is there already and is the same stays.

    A copy that was killed goes on. The manifest comes last: until then nothing opens the copy.
    """
    text = (remote / MANIFEST).read_text()
    if (local / MANIFEST).exists() and (local / MANIFEST).read_text(encoding="utf-8") == text:
        return
    (local / MANIFEST).unlink(missing_ok=True)
    (local / "shards").mkdir(parents=True, exist_ok=True)
    manifest = json.loads(text)
    _copy(remote / TOKENIZER, local / f"{TOKENIZER}.tmp", None)
    (local / f"{TOKENIZER}.tmp").replace(local / TOKENIZER)
    todo = [record for record in _records(manifest) if not _is_there(local, record)]
    with _progress(f"{manifest['name']}: from {remote.parent}", sum(map(_size(manifest), todo))) as progress:
        for record in todo:
            unfinished = local / f"{record['file']}.tmp"
            _copy(remote / record["file"], unfinished, progress)
            unfinished.replace(local / record["file"])
    write_whole(local / MANIFEST, text)


def upload(local: Path, remote: Path) -> None:
    """Copies a cache that was built on disk to the object store, the manifest last."""
    (remote / MANIFEST).unlink(missing_ok=True)
    manifest = open_cache(local).manifest
    records = list(_records(manifest))
    with _progress(f"{manifest['name']}: to {remote.parent}", sum(map(_size(manifest), records))) as progress:
        for record in records:
            _copy(local / record["file"], remote / record["file"], progress)
    _copy(local / TOKENIZER, remote / TOKENIZER, None)
    _copy(local / MANIFEST, remote / MANIFEST, None)


def _records(manifest: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for corpus in manifest["corpora"].values():
        for split in SPLITS:
            yield from corpus["splits"][split]


def _is_there(local: Path, record: dict[str, Any]) -> bool:
    path = local / record["file"]
    return path.exists() and file_checksum(path) == record["checksum"]


def _size(manifest: dict[str, Any]) -> Any:
    width = int(manifest["dtype"][-1])  # '<u2' or '<u4'
    return lambda record: record["tokens"] * width


def _progress(what: str, size: int) -> Any:
    return tqdm(desc=what, total=size, unit="B", unit_scale=True, disable=not size)


def _copy(source: Path, target: Path, progress: Any) -> None:
    with source.open("rb") as reader, target.open("wb") as writer:
        while block := reader.read(BLOCK):
            writer.write(block)
            if progress is not None:
                progress.update(len(block))


def clear(remote: Path, local: Path) -> None:
    """Removes both copies of a cache, so that it is built anew."""
    if remote.exists():
        remote.rmtree()  # type: ignore[attr-defined]
    shutil.rmtree(local, ignore_errors=True)
