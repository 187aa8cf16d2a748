"""Building a token cache: once, in parallel, resumable shard by shard.

Finished shards are renamed into place with a record of their own, so a build that was killed goes on where it
stopped; the manifest, written last, makes the cache readable (`store.open_cache`).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pagnol_jax.data.cache_worker import Job, build_shard, watch_parent
from pagnol_jax.data.disk import write_whole
from pagnol_jax.data.mixture import Mixture, definition, split_corpus, split_texts
from pagnol_jax.data.store import SPLITS, save_manifest, token_dtype
from pagnol_jax.data.vocabulary import Tokenizer
from pagnol_jax.errors import UserError

Record = dict[str, Any]  # of a shard, as in the manifest
Records = dict[tuple[str, str, int], Record]  # by corpus, split and number
SAMPLE_BYTES = 64 << 20  # of text at most, to train a tokenizer on


def build(mixture: Mixture, folder: Path, workers: int) -> None:
    """Trains the tokenizer, writes shards and manifest, in `workers` processes; completes a stopped build."""
    counts = _list_shards(mixture)
    sources = fingerprints(mixture, strict=True)
    _drop_unfinished(folder, sources)
    (folder / "shards").mkdir(exist_ok=True)
    tokenizer = _tokenizer(mixture, folder)
    dtype = token_dtype(tokenizer.vocab_size).str
    jobs = [
        Job(mixture, name, split, number, shards, folder, tokenizer.fingerprint, dtype)
        for (name, split), shards in counts.items()
        for number in range(shards)
    ]
    records = _run(jobs, workers)
    corpora = {name: {"splits": _splits(name, records)} for name in mixture.corpora}
    _check_filled(mixture, corpora)
    manifest = {
        "name": mixture.name,
        "definition": definition(mixture),
        "sources": sources,
        "dtype": dtype,
        "tokenizer": {
            "fingerprint": tokenizer.fingerprint,
            "vocab_size": tokenizer.vocab_size,
            "pad_id": tokenizer.pad_id,
            "eos_id": tokenizer.eos_id,
            "sep_id": tokenizer.sep_id,
        },
        "corpora": corpora,
    }
    save_manifest(folder, manifest)


def fingerprints(mixture: Mixture, strict: bool) -> dict[str, str | None]:
    """Of every corpus, and of a tokenizer file. A source that is not there is None, or an error if strict."""
    makers = {f"corpus {name}": corpus.fingerprint for name, corpus in mixture.corpora.items()}
    makers |= {f"validation of {name}": corpus.fingerprint for name, corpus in mixture.validation.items()}
    if not mixture.tokenizer.needs_text:
        makers["tokenizer"] = lambda: mixture.tokenizer.make(()).fingerprint
    found: dict[str, str | None] = {}
    for name, make in makers.items():
        try:
            found[name] = make()
        except UserError:
            if strict:
                raise
            found[name] = None
    return found


def _list_shards(mixture: Mixture) -> dict[tuple[str, str], int]:
    """The number of shards of each corpus and split; fetches what must be fetched first."""
    keys = [(name, split) for name in mixture.corpora for split in SPLITS]
    return {key: len(split_corpus(mixture, *key).shards()) for key in keys}


def _drop_unfinished(folder: Path, sources: dict[str, str | None]) -> None:
    """Removes half-written files, and everything if the sources are not those the build began with."""
    path = folder / "sources.json"
    begun = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    if begun is not None and begun != sources:
        tqdm.write(f"{folder}: the sources changed since this build began; it starts again")
        shutil.rmtree(folder / "shards", ignore_errors=True)
        (folder / "tokenizer.json").unlink(missing_ok=True)
    for unfinished in folder.rglob("*.tmp"):
        unfinished.unlink()
    write_whole(path, json.dumps(sources))


def _tokenizer(mixture: Mixture, folder: Path) -> Tokenizer:
    """The tokenizer in the folder, made first if it is not there."""
    path = folder / "tokenizer.json"
    if not path.exists():
        with tqdm(desc="tokenizer: text", unit="B", unit_scale=True) as progress:
            mixture.tokenizer.make(training_texts(mixture, progress)).save(path)
    return Tokenizer.load(path)


def training_texts(mixture: Mixture, progress: Any) -> Iterator[str]:
    """Training documents, up to SAMPLE_BYTES, as evenly from the corpora (in bytes) as these are long."""
    readers = {name: _training_split(mixture, name) for name in mixture.corpora}
    taken = dict.fromkeys(readers, 0)
    while taken and progress.n < SAMPLE_BYTES:
        name = min(taken, key=lambda name: taken[name])
        text = next(readers[name], None)
        if text is None:
            if not taken.pop(name):
                raise _empty(mixture, name)
            continue
        taken[name] += len(text.encode())
        progress.update(len(text.encode()))
        yield text


def _training_split(mixture: Mixture, name: str) -> Iterator[str]:
    """All shards in a scattered, fixed order, so that the first of them are a fair sample."""
    shards = mixture.corpora[name].shards()
    for index in sorted(range(len(shards)), key=lambda index: hashlib.blake2b(b"%d" % index).digest()):
        yield from split_texts(mixture, name, "train", shards[index])


def _run(jobs: list[Job], workers: int) -> Records:
    """Does what is not done yet in other processes (TensorFlow stays out of this one)."""
    records = {job.key: record for job in jobs if (record := job.finished()) is not None}
    todo = [job for job in jobs if job.key not in records]
    if not todo:
        return records
    pool = ProcessPoolExecutor(min(workers, len(todo)), get_context("spawn"), watch_parent, (os.getpid(),))
    with pool, tqdm(total=len(jobs), initial=len(records), desc="tokens: shards", unit="shard") as progress:
        futures = {pool.submit(build_shard, job): job for job in todo}
        try:
            for job, record in _as_done(futures, progress):
                records[job.key] = record
        except BrokenProcessPool:
            raise UserError(
                "a worker process died (out of memory?): try again with fewer --workers; shards are kept"
            ) from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return records


def _as_done(futures: dict[Future[Record], Job], progress: Any) -> Iterator[tuple[Job, Record]]:
    left = set(futures)
    done_tokens = 0
    while left:
        done, left = wait(left, timeout=0.5, return_when="FIRST_COMPLETED")
        for future in done:
            record = future.result()
            done_tokens += record["tokens"]
            progress.update()
            yield futures[future], record
        tokens = done_tokens + sum(futures[future].tokens_so_far() for future in left)
        rate = tokens / max(progress.format_dict["elapsed"], 1e-9)
        progress.set_postfix_str(f"{tokens / 1e6:.1f} Mtokens, {rate / 1e3:.0f} ktokens/s")


def _splits(name: str, records: Records) -> dict[str, list[Record]]:
    keys = sorted(key for key in records if key[0] == name)
    return {split: [records[key] for key in keys if key[1] == split] for split in SPLITS}


def _check_filled(mixture: Mixture, corpora: dict[str, Any]) -> None:
    for name, corpus in corpora.items():
        documents = {s: sum(record["documents"] for record in corpus["splits"][s]) for s in SPLITS}
        if not documents["train"]:
            raise _empty(mixture, name)
        if not documents["validation"]:
            held = f"none of {documents['train']} documents fell in the held-out {mixture.holdout:.2%}"
            raise UserError(f"corpus {name!r}: {held}: raise holdout or give a validation corpus")


def _empty(mixture: Mixture, name: str) -> UserError:
    return UserError(f"corpus {name!r} is empty: no text to train on in {mixture.corpora[name].definition}")
