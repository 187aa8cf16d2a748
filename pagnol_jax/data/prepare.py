"""From a mixture to its batches: the cache is opened at once where it is built, and built where it is not."""

from __future__ import annotations

import contextlib
import fcntl
import multiprocessing
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from pagnol_jax.data import mirror
from pagnol_jax.data.batches import MixtureBatches
from pagnol_jax.data.cache import build, fingerprints
from pagnol_jax.data.disk import at, cache_root, is_remote
from pagnol_jax.data.mixture import Mixture, check, folder_name
from pagnol_jax.data.store import MANIFEST, REBUILD, Cache, open_cache
from pagnol_jax.errors import UserError


def open_batches(
    mixture: Mixture, batch_size: int, length: int, seed: int = 0, cache_dir: str | Path | None = None
) -> MixtureBatches:
    """The mixture's batches, its cache built first if need be."""
    return MixtureBatches(prepare(mixture, cache_dir), mixture.rates, batch_size, length, seed)


def prepare(
    mixture: Mixture, cache_dir: str | Path | None = None, workers: int | None = None, overwrite: bool = False
) -> Cache:
    """Opens the mixture's cache, at once where it is built; else trains the tokenizer and builds it.

    cache_dir: `$PAGNOL_CACHE` by default, else `cache_root()`. One in an object store is copied to `cache_root()`,
    or built there and copied back. workers: processes, by default one a core. Raises UserError where the corpora
    changed since the cache was built (unless `overwrite`), and for bad input.
    """
    check(mixture)
    folder, remote = _folders(mixture, cache_dir)
    try:
        if overwrite and remote:
            mirror.clear(remote, folder)
        elif overwrite:
            shutil.rmtree(folder, ignore_errors=True)
        if remote:
            with _only_builder(folder):
                _copy_or_build(mixture, folder, remote, workers)
        elif not (folder / MANIFEST).exists():
            with _only_builder(folder):
                if not (folder / MANIFEST).exists():
                    build(mixture, folder, workers or os.cpu_count() or 1)
        return _opened(mixture, folder)
    except OSError as error:
        what = error.strerror or error
        raise UserError(f"{error.filename or remote or folder}: {what}; finished shards are kept") from None


def _copy_or_build(mixture: Mixture, folder: Path, remote: Path, workers: int | None) -> None:
    if (remote / MANIFEST).exists():
        return mirror.download(remote, folder)
    if not (folder / MANIFEST).exists():
        build(mixture, folder, workers or os.cpu_count() or 1)
    mirror.upload(folder, remote)


def open_built(mixture: Mixture, cache_dir: str | Path | None = None) -> Cache:
    """The mixture's cache, never building it; raises UserError where it is missing or its sources changed."""
    folder, remote = _folders(mixture, cache_dir)
    if remote and (remote / MANIFEST).exists():
        with _only_builder(folder):
            mirror.download(remote, folder)
    return _opened(mixture, folder)


def _opened(mixture: Mixture, folder: Path) -> Cache:
    cache = open_cache(folder)
    _notice_changes(mixture, cache)
    return cache


def _folders(mixture: Mixture, cache_dir: str | Path | None) -> tuple[Path, Path | None]:
    """Where the cache is on disk, and where in an object store if it is kept there."""
    root = cache_dir or os.environ.get("PAGNOL_CACHE") or cache_root()
    name = folder_name(mixture)
    if is_remote(root):
        return cache_root() / "tokens" / name, at(root) / "tokens" / name
    return Path(root) / "tokens" / name, None


def _notice_changes(mixture: Mixture, cache: Cache) -> None:
    """Raises UserError where a source is at hand and is not what the cache was built from."""
    for name, fingerprint in fingerprints(mixture, strict=False).items():
        if fingerprint not in (None, cache.manifest["sources"][name]):
            raise UserError(f"the {name} changed since {cache.folder} was built from it: {REBUILD}")


@contextlib.contextmanager
def _only_builder(folder: Path) -> Iterator[None]:
    """Holds the folder's lock; a second builder waits for the first (a killed one's lock is free)."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):  # else it would wait for its own parent
        raise RuntimeError("a script that builds a cache needs its `if __name__ == '__main__':`")
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{folder}: another process builds this cache; waiting for it", file=sys.stderr)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
