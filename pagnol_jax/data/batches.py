"""Batches that are a pure function of (mixture, seed, step). NumPy only.

Documents are laid end to end and cut into windows, so every slot of a batch is filled; every step costs the
same, and may be asked for at any time, by any host, in any order.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import queue
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from pagnol_jax.data.permutation import mix, permute
from pagnol_jax.data.store import Cache, TokenStream
from pagnol_jax.errors import UserError

LONGEST_PERIOD = 1 << 16


class Batch(NamedTuple):
    """Windows of packed documents, all [B, T].

    inputs, targets: int32 tokens; targets are the inputs shifted by one. segment_ids: int32, the document
    counted from 1 in its window, 0 for padding. positions: int32, from 0 in each document. weights: float32,
    1 where the target counts.

    `<SEP>` ends a document as a target and opens the next as an input: it has the next one's segment id and
    position 0. So the first token of a document is predicted from `<SEP>` alone, nothing is ever predicted
    from another document, and every target counts.
    """

    inputs: np.ndarray
    targets: np.ndarray
    segment_ids: np.ndarray
    positions: np.ndarray
    weights: np.ndarray


class Schedule(NamedTuple):
    """Which corpus fills which slot, over one period of P slots.

    corpus: int64 [P]. rank: int64 [P], the slots of the same corpus before it. counts: int64 [corpora].
    """

    corpus: np.ndarray
    rank: np.ndarray
    counts: np.ndarray


class MixtureBatches:
    """The batches of a mixture, from a built cache.

    rates: relative share of windows per corpus of the cache. length: T. Raises UserError where a corpus is
    shorter than one window.

    Attributes: corpora (names), rates, bytes_per_token (of each held-out split: loss in nats per token / ln 2
    / bytes_per_token is bits per byte), tokens_per_epoch (targets in one pass over every corpus),
    tokens_per_step, vocab_size, tokenizer (its fingerprint, size and special ids), tokenizer_file,
    corpora_fingerprints, fingerprint (of all that decides the batches).
    """

    def __init__(self, cache: Cache, rates: Mapping[str, float], batch_size: int, length: int, seed: int = 0) -> None:
        self.cache, self.batch_size, self.length, self.seed = cache, batch_size, length, seed
        self.rates = dict(rates)
        self.corpora = tuple(sorted(rates))
        self.corpora_fingerprints = {name: cache.manifest["sources"][f"corpus {name}"] for name in self.corpora}
        self.tokenizer: dict[str, Any] = cache.manifest["tokenizer"]
        self.tokenizer_file = cache.folder / "tokenizer.json"
        self.tokens_per_step = batch_size * length
        self.vocab_size = cache.vocab_size
        self.schedule = interleave([rates[name] for name in self.corpora])
        self._streams = [cache.stream(name, "train") for name in self.corpora]
        self._windows = np.array([(len(stream) - 1) // length for stream in self._streams])
        for name, windows in zip(self.corpora, self._windows, strict=True):
            if not windows:
                tokens = cache.size(name, "train").tokens
                raise UserError(f"corpus {name!r}: {tokens} tokens do not fill one window of {length}")
        self._keys = np.array([_key(f"{seed}/{name}") for name in self.corpora], np.uint64)
        self.tokens_per_epoch = int(self._windows.sum()) * length
        self.bytes_per_token = {name: self._bytes_per_token(name) for name in self.corpora}
        content = [cache.fingerprint, sorted(rates.items()), batch_size, length, seed]
        self.fingerprint = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]

    def batch(self, step: int, lo: int = 0, hi: int | None = None) -> Batch:
        """The batch of one step (from 0 on), or only its rows [lo, hi), as a host of many needs it."""
        first = step * self.batch_size
        slots = np.arange(first + lo, first + (self.batch_size if hi is None else hi))
        turns, places = np.divmod(slots, len(self.schedule.corpus))
        corpora = self.schedule.corpus[places]
        drawn = turns * self.schedule.counts[corpora] + self.schedule.rank[places]
        windows = self._windows[corpora]
        passes, index = np.divmod(drawn, windows)
        # Each pass over a corpus takes its windows in an order of its own.
        keys = mix(passes.astype(np.uint64) + self._keys[corpora])
        starts = permute(index, windows, keys) * self.length
        tokens = np.empty((len(slots), self.length + 1), np.int32)
        for corpus in set(corpora.tolist()):
            rows = np.flatnonzero(corpora == corpus)
            tokens[rows] = self._streams[corpus].read(starts[rows], self.length + 1)
        return packed(tokens, self.cache.sep_id)

    def validation(self, corpus: str, most: int | None = None, lo: int = 0, hi: int | None = None) -> Iterator[Batch]:
        """The held-out split of one corpus once, in order; what is missing in the last batch has weight 0.

        Every token of the split is a target exactly once, or with `most` those of that many windows, spread evenly
        over the split. [lo, hi) as in `batch`.
        """
        stream = self.cache.stream(corpus, "validation")
        windows = -(-(len(stream) - 1) // self.length)
        count = min(most or windows, windows)
        spread = np.arange(count) * windows // count  # all of them, in order, where count == windows
        for first in range(0, count, self.batch_size):
            rows = np.full(self.batch_size, windows)  # past the end: an empty row
            rows[: count - first] = spread[first : first + self.batch_size]
            yield self._in_order(stream, rows[lo:hi])

    def passes(self, step: int) -> dict[str, float]:
        """How often each corpus has been read, on average, in the `step` batches from 0 on."""
        shares = self.schedule.counts / len(self.schedule.corpus)
        windows = step * self.batch_size * shares
        return dict(zip(self.corpora, (windows / self._windows).tolist(), strict=True))

    def _in_order(self, stream: TokenStream, windows: np.ndarray) -> Batch:
        starts = windows * self.length
        targets = np.clip(len(stream) - 1 - starts, 0, self.length)  # in each window
        tokens = np.full((len(starts), self.length + 1), self.cache.pad_id, np.int32)
        full = targets == self.length
        tokens[full] = stream.read(starts[full], self.length + 1)
        for row in np.flatnonzero(~full & (targets > 0)):
            tokens[row, : targets[row] + 1] = stream.read(starts[row : row + 1], int(targets[row]) + 1)
        batch = packed(tokens, self.cache.sep_id)
        real = np.arange(self.length) < targets[:, None]
        return Batch(
            inputs=np.where(real, batch.inputs, self.cache.pad_id),
            targets=np.where(real, batch.targets, self.cache.pad_id),
            segment_ids=np.where(real, batch.segment_ids, 0),
            positions=np.where(real, batch.positions, 0),
            weights=real.astype(np.float32),
        )

    def _bytes_per_token(self, corpus: str) -> float:
        size = self.cache.size(corpus, "validation")
        return size.bytes / max(size.tokens, 1)


def packed(tokens: np.ndarray, sep_id: int) -> Batch:
    """The batch of windows [B, T + 1] of a stream of documents ended by `sep_id`."""
    inputs = np.ascontiguousarray(tokens[:, :-1])
    opens = inputs == sep_id
    opens[:, 0] = True
    steps = np.arange(inputs.shape[1], dtype=np.int32)
    starts = np.maximum.accumulate(np.where(opens, steps, np.int32(0)), axis=1)
    return Batch(
        inputs=inputs,
        targets=np.ascontiguousarray(tokens[:, 1:]),
        segment_ids=np.cumsum(opens, axis=1, dtype=np.int32),
        positions=steps - starts,
        weights=np.ones(inputs.shape, np.float32),
    )


def interleave(rates: list[float]) -> Schedule:
    """Spreads the corpora evenly over a period in which each has its exact share of slots.

    The period is the common denominator of the shares (of the rates as decimals are written); where that is
    above 65,536 the shares are rounded to multiples of 1/65,536.
    """
    exact = [Fraction(repr(rate)) for rate in rates]
    shares = [rate / sum(exact) for rate in exact]
    period = math.lcm(*(share.denominator for share in shares))
    if period <= LONGEST_PERIOD:
        counts = np.array([int(share * period) for share in shares])
    else:
        counts = _rounded([float(share) for share in shares], LONGEST_PERIOD)
    corpus = np.repeat(np.arange(len(counts)), counts)
    rank = np.concatenate([np.arange(count) for count in counts])
    order = np.lexsort((corpus, (rank + 0.5) / counts[corpus]))
    return Schedule(corpus[order], rank[order], counts)


def _rounded(shares: list[float], period: int) -> np.ndarray:
    """Whole slots that sum to the period, each within one of its share and at least one."""
    exact = np.array(shares) * period
    counts = np.maximum(np.floor(exact).astype(np.int64), 1)
    for corpus in np.argsort(counts - exact)[: max(period - int(counts.sum()), 0)]:
        counts[corpus] += 1
    return counts


def _key(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")


@contextlib.contextmanager
def ahead(make: Callable[[int], Batch], start_step: int = 0, depth: int = 2) -> Iterator[Iterator[Batch]]:
    """What `make` gives for the steps from `start_step` on without end, up to `depth` of them ahead, in a thread."""
    with contextlib.closing(_ahead(make, start_step, depth)) as batches:
        yield batches


def _ahead(make: Callable[[int], Batch], step: int, depth: int) -> Generator[Batch]:
    ready: queue.Queue[Batch | BaseException] = queue.Queue(depth)
    stopped = threading.Event()

    def put(item: Batch | BaseException) -> None:
        while not stopped.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def work(step: int) -> None:
        try:
            while not stopped.is_set():
                put(make(step))
                step += 1
        except BaseException as error:
            put(error)

    threading.Thread(target=work, args=(step,), name="batches", daemon=True).start()
    try:
        while True:
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
