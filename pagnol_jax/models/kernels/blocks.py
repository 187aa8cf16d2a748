"""Lengths and block sizes that the TPU's kernels take."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

LANES = 128
# Slots of a block of queries, by the start of a device's kind. MaxText's default is 512 for every TPU; its recipes for
# v6e (benchmarks/maxtext_trillium_model_configs.py) have 1,024 or more.
QUERIES = {"TPU v6": 1024}


def padded(length: int) -> int:
    """The next length that divides into large blocks."""
    step = LANES if length <= 8 * LANES else 2 * LANES if length <= 16 * LANES else 4 * LANES
    return -(-length // step) * step


def block(length: int, most: int) -> int:
    """The largest multiple of 128 that divides `length` and is at most `most`."""
    return max(size for size in range(LANES, min(length, most) + 1, LANES) if length % size == 0)


def sizes(length: int, slots: int) -> tuple[int, int]:
    """Blocks of queries and of keys, for `length` queries over `slots` keys on the current mesh's devices."""
    device = jax.sharding.get_abstract_mesh().abstract_device or jax.devices()[0]
    most = next((most for kind, most in QUERIES.items() if device.device_kind.startswith(kind)), 512)
    # Larger blocks of keys are read less often; blocks under half of the length leave out more of the future.
    return block(length, max(512, min(most, length // 2))), block(slots, 512 if slots <= 2048 else 1024)


def pad(x: jax.Array, length: int, axis: int) -> jax.Array:
    """`x` with zeros after its end along `axis`, up to `length`."""
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, length - x.shape[axis])
    return jnp.pad(x, widths) if any(after for _, after in widths) else x


class Spans(NamedTuple):
    """Which blocks of the other side each block meets: low..high, int32 [B * n] each, every other one masked whole.

    `offset` int32 [1] is the slot of the first query.
    """

    offset: jax.Array
    low: jax.Array
    high: jax.Array


def spans(
    query_tags: jax.Array | None,
    key_tags: jax.Array | None,
    offset: jax.Array | int,
    shape: tuple[int, int, int],
    sizes: tuple[int, int],
) -> tuple[Spans, Spans]:
    """Spans of keys for each block of queries, and of queries for each block of keys.

    `shape` is (B, T, S), `sizes` the slots of a block of queries and of keys, tags those of `flash.tags_of`. Blocks
    meet if the ranges of their segments do, and the keys are not all in the future; or the ranges of their prefixes.
    """
    batch, length, slots = shape
    first_query = offset + jnp.arange(0, length, sizes[0])
    near = (jnp.arange(0, slots, sizes[1])[None, :] < first_query[:, None] + sizes[0])[None]  # [1, blocks, blocks]
    if query_tags is not None and key_tags is not None:
        near &= _meet(query_tags, key_tags, sizes, every=True)
        near |= _meet(query_tags, key_tags, sizes, every=False)
    near = jnp.broadcast_to(near, (batch, *near.shape[1:]))
    start = jnp.asarray(offset, jnp.int32)[None]
    return Spans(start, *_ends(near)), Spans(start, *_ends(near.swapaxes(1, 2)))


def _meet(query_tags: jax.Array, key_tags: jax.Array, sizes: tuple[int, int], every: bool) -> jax.Array:
    """Whether segments of a block of queries may be those of a block of keys, [B, m, n]; of prefix slots alone, or
    of every slot."""
    least, most = _range(query_tags, sizes[0], every)
    key_least, key_most = _range(key_tags, sizes[1], every)
    return (least[:, :, None] <= key_most[:, None, :]) & (key_least[:, None, :] <= most[:, :, None])


def _range(tags: jax.Array, size: int, every: bool) -> tuple[jax.Array, jax.Array]:
    """Least and greatest segment among the slots of every block, int32 [B, n]; without any, one that meets none."""
    tags = tags.reshape(tags.shape[0], -1, size)
    counts = ((tags & 1) == 1) | every
    limits = jnp.iinfo(jnp.int32)
    least = jnp.where(counts, tags >> 1, limits.max).min(axis=2)
    return least, jnp.where(counts, tags >> 1, limits.min).max(axis=2)


def _ends(near: jax.Array) -> tuple[jax.Array, jax.Array]:
    """First and last true of near [B, m, n] along n, int32 [B * m]; all of n where nothing is true."""
    low, after = jnp.argmax(near, axis=2), jnp.argmax(near[:, :, ::-1], axis=2)
    return low.astype(jnp.int32).ravel(), (near.shape[2] - 1 - after).astype(jnp.int32).ravel()
