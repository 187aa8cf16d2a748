"""From Criteo's values to ids: a 64-bit key for every value, then vocabularies counted from the data, or hashed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from pagnol_jax.data.permutation import mix
from pagnol_jax.errors import UserError

INTEGERS, CATEGORIES = 13, 26
INTEGER_VALUES = 512  # keys of the integer fields: log(2^31)^2 is 461
_LEAST = -8  # bins below it (values below -6, which Criteo has none of) count as it
MOST_DISTINCT = 1 << 27  # values counted at once: 2 GiB
_MERGE_AT = 1 << 20


class Encoder(NamedTuple):
    """keys uint64 [N, F] -> ids int32 [N, F], below `sizes` [F]."""

    sizes: tuple[int, ...]
    encode: Callable[[np.ndarray], np.ndarray]


class Vocabulary(NamedTuple):
    """name: what tells it from others. fit: gets a function that streams keys uint64 [N, F] from the start."""

    name: str
    fit: Callable[[Callable[[], Iterator[np.ndarray]]], Encoder]


def integer_keys(values: np.ndarray) -> np.ndarray:
    """uint64 [N] of bytes [N]: 0 for no value, else the bin plus 9: v - 2 up to v = 2, floor(log(v)^2) above it.

    The bins are those of the winner of the challenge, as torchfm takes them. Raises ValueError for what is no number.
    """
    present = values != b""
    numbers = np.trunc(values[present].astype(np.float64))
    if not np.isfinite(numbers).all():
        raise ValueError("not finite")
    bins = np.where(numbers > 2, np.floor(np.log(np.maximum(numbers, 1)) ** 2), numbers - 2)
    keys = np.zeros(len(values), np.uint64)
    keys[present] = (np.clip(bins, _LEAST, INTEGER_VALUES + _LEAST - 2) - _LEAST + 1).astype(np.uint64)
    return keys


def category_keys(values: np.ndarray) -> np.ndarray:
    """uint64 [N] of bytes [N]: hashes on which values of up to eight bytes (Criteo's have eight) never collide."""
    width = -(-values.dtype.itemsize // 8)
    words = values.astype(f"S{8 * width}").view(np.uint64).reshape(-1, width)
    keys = mix(words[:, 0])
    for word in words.T[1:]:  # not mixed in where a value has ended: another block's values may be wider
        keys = np.where(word == 0, keys, mix(keys ^ word))
    return keys


def counted(rarer_than: int = 10) -> Vocabulary:
    """Values seen `rarer_than` times at least get an id; all others of a field share its last one (torchfm's way)."""

    def fit(stream: Callable[[], Iterator[np.ndarray]]) -> Encoder:
        tallies = [Tally() for _ in range(INTEGERS + CATEGORIES)]
        for keys in stream():
            for tally, column in zip(tallies, keys.T, strict=True):
                tally.add(column)
            if sum(len(tally) for tally in tallies) > MOST_DISTINCT:
                raise UserError(f"more than {MOST_DISTINCT:,} distinct values: too many to count; hash them instead")
        kept = [tally.frequent(rarer_than) for tally in tallies]

        def encode(keys: np.ndarray) -> np.ndarray:
            found = (_positions(known, column) for known, column in zip(kept, keys.T, strict=True))
            return np.stack(list(found), axis=1)

        return Encoder(tuple(len(known) + 1 for known in kept), encode)

    return Vocabulary(f"counted, rarer than {rarer_than} merged", fit)


def _positions(known: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """int32 [N]: where keys [N] stand in `known` (sorted), its length for those that do not."""
    at = np.searchsorted(known, keys)
    same = known[np.minimum(at, len(known) - 1)] == keys if len(known) else np.zeros(len(keys), bool)
    return np.where(same, at, len(known)).astype(np.int32)


def hashed(size: int) -> Vocabulary:
    """Keys modulo `size` for the categories; the whole numbers keep their bins. Nothing is counted."""
    if size < 1:
        raise UserError(f"a hashed vocabulary of {size} values: at least one is needed")

    def fit(stream: Callable[[], Iterator[np.ndarray]]) -> Encoder:
        sizes = np.array([INTEGER_VALUES] * INTEGERS + [size] * CATEGORIES, np.uint64)
        return Encoder(tuple(int(n) for n in sizes), lambda keys: (keys % sizes).astype(np.int32))

    return Vocabulary(f"hashed to {size}", fit)


class Tally:
    """How often each key was seen, exactly: sorted runs, merged when the new ones outgrow the old."""

    def __init__(self) -> None:
        self.keys, self.counts = np.empty(0, np.uint64), np.empty(0, np.int64)
        self.new: list[tuple[np.ndarray, np.ndarray]] = []
        self.waiting = 0

    def __len__(self) -> int:
        return len(self.keys) + self.waiting

    def add(self, keys: np.ndarray) -> None:
        """Counts keys [N] in."""
        self.new.append(np.unique(keys, return_counts=True))
        self.waiting += len(self.new[-1][0])
        if self.waiting > max(_MERGE_AT, len(self.keys)):
            self.merge()

    def merge(self) -> None:
        keys = np.concatenate([self.keys, *(keys for keys, _ in self.new)])
        counts = np.concatenate([self.counts, *(counts for _, counts in self.new)])
        order = np.argsort(keys, kind="stable")
        keys, counts = keys[order], counts[order]
        starts = np.flatnonzero(np.diff(keys, prepend=keys[:1] + np.uint64(1)))  # keys are sorted: the first differs
        self.keys, self.counts = keys[starts], np.add.reduceat(counts, starts) if len(starts) else counts
        self.new, self.waiting = [], 0

    def frequent(self, least: int) -> np.ndarray:
        """uint64: the keys seen `least` times or more, sorted."""
        self.merge()
        return self.keys[self.counts >= least]
