"""One shard of a token cache, from the seqio Task to a file; runs in a process of its own."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pagnol_jax.data.disk import write_whole
from pagnol_jax.data.mixture import Mixture
from pagnol_jax.data.vocabulary import Tokenizer


class Job(NamedTuple):
    """A shard to write: the `number`-th of `shards` of a corpus's split, into a cache folder."""

    mixture: Mixture
    corpus: str
    split: str
    number: int
    shards: int
    folder: Path
    tokenizer_fingerprint: str
    dtype: str

    @property
    def key(self) -> tuple[str, str, int]:
        """Names the job, and orders the shards of a corpus."""
        return self.corpus, self.split, self.number

    @property
    def file(self) -> str:
        """The shard's path within the cache."""
        return f"shards/{self.corpus}.{self.split}.{self.number:05d}.bin"

    @property
    def unfinished(self) -> Path:
        """Where it is written until it is whole."""
        return self.folder / f"{self.file}.tmp"

    @property
    def record_path(self) -> Path:
        """What says that it is whole."""
        return (self.folder / self.file).with_suffix(".json")

    def finished(self) -> dict[str, Any] | None:
        """The record of a shard already built with this tokenizer."""
        try:
            record: dict[str, Any] = json.loads(self.record_path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        same = record.pop("tokenizer", None) == self.tokenizer_fingerprint
        return record if same and (self.folder / self.file).exists() else None

    def tokens_so_far(self) -> int:
        """Written to disk by now (for the progress bar)."""
        try:
            return self.unfinished.stat().st_size // np.dtype(self.dtype).itemsize
        except FileNotFoundError:
            return 0


_load = functools.lru_cache(maxsize=2)(Tokenizer.load)


def watch_parent(parent: int) -> None:
    """Ends this process soon after its parent has gone, killed or not."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one process a core already

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def build_shard(job: Job) -> dict[str, Any]:
    """Writes the shard and its record, and returns the record."""
    from pagnol_jax.data.quiet_tensorflow import seqio, tf
    from pagnol_jax.data.tasks import make_task

    tokenizer = _load(job.folder / "tokenizer.json")
    task = make_task(job.mixture, job.corpus, tokenizer)
    dataset = task.get_dataset(
        sequence_length=None,
        split=job.split,
        shuffle=False,
        shard_info=seqio.ShardInfo(job.number, job.shards),
    )
    try:
        record = _write(job, dataset.as_numpy_iterator())
    except tf.errors.OpError:
        raise task.source.failure or OSError("the seqio pipeline failed") from None
    write_whole(job.record_path, json.dumps(record | {"tokenizer": tokenizer.fingerprint}))
    return record


def _write(job: Job, examples: Any) -> dict[str, Any]:
    documents = tokens = text_bytes = 0
    digest = hashlib.blake2b(digest_size=16)
    with open(job.unfinished, "wb") as file:
        for example in examples:
            content = example["targets"].astype(job.dtype).tobytes()
            file.write(content)
            digest.update(content)
            documents += 1
            tokens += len(example["targets"])
            text_bytes += int(example["bytes"])
        file.flush()
        os.fsync(file.fileno())
    job.unfinished.replace(job.folder / job.file)
    sizes = {"documents": documents, "tokens": tokens, "bytes": text_bytes}
    return {"file": job.file, **sizes, "checksum": digest.hexdigest()}
