"""Rows of a host: exactly those that its devices hold, in whatever order the mesh has these."""

import itertools
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from pagnol_jax.data.batches import Batch
from pagnol_jax.sharding.mesh import AXES
from pagnol_jax.train.rows import Rows, blocks

SHAPE = (16, 8)
MESHES = [(8, 1, 1, 1), (2, 4, 1, 1), (2, 1, 2, 2), (1, 2, 1, 4), (1, 1, 8, 1), (1, 1, 1, 8)]


class Recorder:
    """Batches whose inputs are row * 100 + column; keeps the rows that were asked for."""

    batch_size, length = SHAPE

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []

    def batch(self, step: int, lo: int, hi: int) -> Batch:
        self.asked.append((lo, hi))
        rows = np.arange(lo, hi)[:, None] * 100 + np.arange(SHAPE[1]) + step * 10_000
        return Batch(*(rows + field for field in range(5)))

    def validation(self, corpus: str, most: int | None, lo: int, hi: int) -> Any:
        return (self.batch(step, lo, hi) for step in range(most or 1))


def sharding(sizes: tuple[int, ...], order: list[int]) -> NamedSharding:
    devices = np.array(jax.devices())[order].reshape(sizes)
    return NamedSharding(jax.sharding.Mesh(devices, AXES), P(("data", "fsdp"), "sequence"))


def host(whole: NamedSharding, held: set[int]) -> Any:
    """The sharding as a host sees it that holds some of the devices."""

    def mine(shape: tuple[int, int]) -> dict[Any, Any]:
        return {device: index for device, index in whole.devices_indices_map(shape).items() if device.id in held}

    return SimpleNamespace(addressable_devices_indices_map=mine)


@settings(deadline=None, max_examples=80)
@given(sizes=st.sampled_from(MESHES), order=st.permutations(range(8)), held=st.sets(st.integers(0, 7), min_size=1))
def test_blocks_are_the_rows_of_the_devices(sizes: tuple[int, ...], order: list[int], held: set[int]) -> None:
    whole = sharding(sizes, order)
    found = blocks(host(whole, held), SHAPE)
    rows = [row for lo, hi in found for row in range(lo, hi)]
    index = whole.devices_indices_map(SHAPE)
    needed = {row for device in jax.devices() if device.id in held for row in range(SHAPE[0])[index[device][0]]}
    assert rows == sorted(needed)
    assert all(hi < lo for (_, hi), (lo, _) in itertools.pairwise(found)), "neighbours are one block"


@pytest.mark.parametrize("sizes", MESHES)
def test_every_device_gets_its_part(sizes: tuple[int, ...]) -> None:
    data = Recorder()
    rows = Rows(data, sharding(sizes, [3, 1, 4, 0, 5, 2, 6, 7]))  # type: ignore[arg-type]
    with rows.batches(3) as batches:
        batch = rows.put(next(batches))
    assert data.asked[0] == (0, SHAPE[0])
    for made, expected in zip(batch, Recorder().batch(3, 0, SHAPE[0]), strict=True):
        np.testing.assert_array_equal(np.asarray(made), expected)
        assert made.sharding.is_equivalent_to(rows.sharding, 2)


def test_a_host_with_scattered_rows_makes_these_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a torus, where a host's devices are no neighbours in the mesh."""
    data = Recorder()
    whole = sharding((8, 1, 1, 1), [0, 2, 4, 6, 1, 3, 5, 7])  # rows of devices 0 and 1: 0, 1 and 8, 9
    rows = Rows(data, host(whole, {0, 1}))  # type: ignore[arg-type]
    with rows.batches(0) as batches:
        local = next(batches)
    assert set(data.asked) == {(0, 2), (8, 10)}
    assert local.inputs[:, 0].tolist() == [0, 100, 800, 900]
    assert [batch.inputs[:, 0].tolist() for batch in rows.validation("a", 1)] == [[0, 100, 800, 900]]
    monkeypatch.setattr(rows, "sharding", whole)
    parts = {}

    def callback(shape: Any, sharding: Any, part: Any) -> None:
        parts.update({d.id: part(i) for d, i in sharding.devices_indices_map(shape).items() if d.id in (0, 1)})

    monkeypatch.setattr(jax, "make_array_from_callback", callback)
    rows.put(local)
    assert {device: part[:, 0].tolist() for device, part in parts.items()} == {0: [4, 104], 1: [804, 904]}
