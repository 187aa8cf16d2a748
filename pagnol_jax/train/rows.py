"""The rows of a batch that this host's devices hold, and these rows as parts of global arrays."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager

import jax
import numpy as np
from jax.sharding import NamedSharding

from pagnol_jax.data.batches import Batch, MixtureBatches, ahead


class Rows:
    """What a host makes of the batches [B, T] of a run, which `sharding` lays over the mesh.

    A host's rows are blocks, wherever its devices stand in the mesh. Where the length of a row is split over several
    hosts, each of them makes the whole row and gives its devices their columns.
    """

    def __init__(self, data: MixtureBatches, sharding: NamedSharding) -> None:
        self.data, self.sharding = data, sharding
        self.shape = (data.batch_size, data.length)
        self.blocks = blocks(sharding, self.shape)
        self.rows = np.concatenate([np.arange(lo, hi) for lo, hi in self.blocks])

    def batches(self, start: int) -> AbstractContextManager[Iterator[Batch]]:
        """This host's rows of the training batches from step `start` on, made ahead by a thread."""
        return ahead(self.batch, start)

    def batch(self, step: int) -> Batch:
        """This host's rows of the training batch of a step."""
        return self._joined([self.data.batch(step, lo, hi) for lo, hi in self.blocks])

    def validation(self, corpus: str, most: int | None) -> Iterator[Batch]:
        """This host's rows of the validation batches of a corpus, of `most` windows at most."""
        parts = (self.data.validation(corpus, most, lo, hi) for lo, hi in self.blocks)
        return (self._joined(list(batches)) for batches in zip(*parts, strict=True))

    def put(self, batch: Batch) -> Batch:
        """Global arrays [B, T] of this host's rows [rows, T]."""
        return jax.tree.map(self._put, batch)

    def _put(self, local: np.ndarray) -> jax.Array:
        def part(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None
            lo, hi, _ = index[0].indices(self.shape[0])
            place = int(np.searchsorted(self.rows, lo))
            return local[place : place + hi - lo, index[1]]

        return jax.make_array_from_callback(self.shape, self.sharding, part)

    @staticmethod
    def _joined(parts: list[Batch]) -> Batch:
        return parts[0] if len(parts) == 1 else Batch(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def blocks(sharding: NamedSharding, shape: tuple[int, int]) -> list[tuple[int, int]]:
    """[lo, hi) of the rows of `shape` that this process's devices hold, in order, neighbours made one."""
    indices = sharding.addressable_devices_indices_map(shape).values()
    held = {index[0].indices(shape[0])[:2] for index in indices if index is not None}
    found: list[tuple[int, int]] = []
    for lo, hi in sorted(held):
        first = found.pop()[0] if found and found[-1][1] == lo else lo
        found.append((first, hi))
    return found
