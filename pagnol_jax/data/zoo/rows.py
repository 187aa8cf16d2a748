"""Rows of categorical fields with a yes or no each: how they are split, and batches as a function of the step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from pagnol_jax.data.permutation import mix, permute
from pagnol_jax.errors import UserError

SHARES = {"train": 0.8, "validation": 0.1}  # the rest is the test's
_SPLIT = 0x53504C4954  # which permutation: that of the split, or that of an epoch
_EPOCH = 0x45504F4348


class Rows(NamedTuple):
    """Examples of a click model.

    ids: int32 [N, F], the value of each field, counted within the field. labels: uint8 [N], 0 or 1.
    sizes: [F], values of each field. fingerprint: what tells these rows from others.
    """

    ids: np.ndarray
    labels: np.ndarray
    sizes: tuple[int, ...]
    fingerprint: str


class Batch(NamedTuple):
    """ids: int32 [B, F]. labels: float32 [B]."""

    ids: np.ndarray
    labels: np.ndarray


# (positions int64 [B], rows of the training part, seed, epoch) -> positions int64 [B]
Order = Callable[[np.ndarray, int, int, int], np.ndarray]


def reshuffled(positions: np.ndarray, size: int, seed: int, epoch: int) -> np.ndarray:
    """Another order every epoch."""
    return _permuted(positions, size, _key(seed, _EPOCH + epoch))


def as_split(positions: np.ndarray, size: int, seed: int, epoch: int) -> np.ndarray:
    """The order in which the split drew the rows, the same every epoch: as published, where loaders do not shuffle."""
    return positions


class Batches:
    """The rows of three parts, 80/10/10 at random. `self(step)` is a training batch, a pure function of the step.

    An epoch ends with its last whole batch (batch normalisation wants no small ones).
    Raises UserError for parts that would be empty, or less than a batch to train on, and for a seed that is no whole
    number from 0 to 2^63 - 1.
    """

    def __init__(self, rows: Rows, batch_size: int, seed: int, order: Order = reshuffled) -> None:
        if not isinstance(seed, int) or not 0 <= seed < 2**63:
            raise UserError(f"seed {seed!r} is not a whole number from 0 to 2^63 - 1")
        self.rows, self.batch_size, self.seed, self.order = rows, batch_size, seed, order
        total = len(rows.labels)
        train, validation = (int(total * SHARES[part]) for part in ("train", "validation"))
        self.starts = {"train": (0, train), "validation": (train, validation)}
        self.starts["test"] = (train + validation, total - train - validation)
        if not validation:
            raise UserError(f"{total} rows are too few to split into train, validation and test")
        if train < batch_size:
            raise UserError(f"batch_size {batch_size} is more than the {train} rows to train on")

    @property
    def steps_per_epoch(self) -> int:
        return self.count("train") // self.batch_size

    def count(self, part: str) -> int:
        """Rows of a part."""
        return self.starts[part][1]

    def __call__(self, step: int) -> Batch:
        epoch, number = divmod(step, self.steps_per_epoch)
        positions = number * self.batch_size + np.arange(self.batch_size)
        return self._take("train", self.order(positions, self.count("train"), self.seed, epoch))

    def whole(self, part: str, batch_size: int) -> Iterator[Batch]:
        """All of a part in the split's order; the last batch may be short."""
        for start in range(0, self.count(part), batch_size):
            yield self._take(part, np.arange(start, min(start + batch_size, self.count(part))))

    def indexes(self, part: str, positions: np.ndarray) -> np.ndarray:
        """int64 [B]: the rows that `positions` of a part are."""
        return _permuted(self.starts[part][0] + positions, len(self.rows.labels), _key(self.seed, _SPLIT))

    def _take(self, part: str, positions: np.ndarray) -> Batch:
        rows = self.indexes(part, positions)
        return Batch(self.rows.ids[rows], self.rows.labels[rows].astype(np.float32))


def _key(seed: int, purpose: int) -> np.uint64:
    return mix(mix(np.array([seed], np.uint64)) ^ np.array([purpose], np.uint64))[0]


def _permuted(positions: np.ndarray, size: int, key: np.uint64) -> np.ndarray:
    count = len(positions)
    return permute(positions, np.full(count, size), np.full(count, key))
