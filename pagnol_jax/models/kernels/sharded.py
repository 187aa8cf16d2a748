"""A kernel of one device on every device of the mesh.

Batch and heads never meet in attention: each device keeps its own. Along a split length there are two ways.
Where the heads of a device divide by the parts of the length, an all-to-all trades length for heads, and each device
sees the whole length of its share of heads (Jacobs et al. 2023, DeepSpeed-Ulysses); keys and values with fewer heads
are gathered along the length instead. Where they do not divide (PAGnol-XL has 25), each device keeps its queries and
gathers all keys and values.
"""

import math
from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P

from pagnol_jax.models.masks import Mask
from pagnol_jax.sharding.rules import spec

Kernel = Callable[[jax.Array, jax.Array, jax.Array, Mask, jax.Array | None], jax.Array]


class LocalKernel(Protocol):
    """Attention on one device: query [B, T, H, D] of slots offset..offset+T-1 over key and value [B, S, K, D],
    `mask` over the S slots, `slopes` [H] -> [B, T, H, D]. `offset` may be traced, and is 0 where T equals S."""

    def __call__(
        self,
        query: jax.Array,
        key: jax.Array,
        value: jax.Array,
        mask: Mask,
        slopes: jax.Array | None,
        offset: jax.Array | int,
    ) -> jax.Array: ...


def sharded(local: LocalKernel) -> Kernel:
    """`local` on each device of the mesh set by `jax.set_mesh`, arrays divided by the table of sharding rules."""

    def attend(
        query: jax.Array, key: jax.Array, value: jax.Array, mask: Mask, slopes: jax.Array | None = None
    ) -> jax.Array:
        mesh = jax.sharding.get_abstract_mesh()
        if mesh.empty or mesh.size == 1:
            return local(query, key, value, mask, slopes, 0)
        queries = spec(("batch", "length", "heads", "head_dim"), query.shape, mesh)
        keys = spec(("batch", "length", "kv_heads", "head_dim"), key.shape, mesh)
        batch, length, heads, _ = queries
        groups = query.shape[2] // key.shape[2]

        def on_device(query, key, value, mask, slopes):
            # Heads before this device's, among those whose keys it holds and among all.
            first = lax.axis_index(heads) * query.shape[2] if heads else 0
            before = 0 if keys[2] else first
            return _along(length, local, query, key, value, mask, slopes, first, before, groups)

        # Every device sees the whole mask of its sequences: two numbers a slot.
        specs = (queries, keys, keys, P(batch), P())
        mapped = jax.shard_map(on_device, in_specs=specs, out_specs=queries, check_vma=False)
        return mapped(query, key, value, mask, slopes)

    return attend


def _along(length, local, query, key, value, mask, slopes, first, before, groups):
    """Attention of one device whose sequences are split over mesh axis `length` (None: whole).

    `first` of all query heads, and `before` of those whose keys are here, come before the device's own.
    """
    heads, parts = query.shape[2], lax.axis_size(length) if length else 1

    def trade(x: jax.Array, split: int, whole: int) -> jax.Array:  # axis `split` is split, axis `whole` made whole
        return lax.all_to_all(x, length, split, whole, tiled=True)

    if parts == 1 or heads % parts:
        key, value = (_gather(_owned(x, before, heads, groups), length) for x in (key, value))
        offset = lax.axis_index(length) * query.shape[1] if length else 0
        return local(query, key, value, mask, _slice(slopes, first, heads), offset)
    share = heads // parts
    mine = lax.axis_index(length) * share
    if key.shape[2] * groups == heads and key.shape[2] % parts == 0:
        key, value = (trade(x, 2, 1) for x in (key, value))
    else:
        key, value = (_owned(_gather(x, length), before + mine, share, groups) for x in (key, value))
    out = local(trade(query, 2, 1), key, value, mask, _slice(slopes, first + mine, share), 0)
    return trade(out, 1, 2)


def _gather(x: jax.Array, length: str | None) -> jax.Array:
    """x [B, T / parts, K, D] of every part of the length -> [B, T, K, D]."""
    if not length:
        return x
    # Heads merged: a TPU pads a head narrower than 128 and would send the padding; and going back it would reduce
    # the whole length on every device instead of scattering the sum.
    merged = lax.all_gather(x.reshape(*x.shape[:2], -1), length, axis=1, tiled=True)
    return merged.reshape(*merged.shape[:2], *x.shape[2:])


def _slice(slopes, first, heads):
    return None if slopes is None else lax.dynamic_slice_in_dim(slopes, first, heads)


def _owned(keys: jax.Array, first: jax.Array | int, heads: int, groups: int) -> jax.Array:
    """Of keys [B, S, K, D], each shared by `groups` query heads, those of query heads first..first+heads-1.

    Where a device's heads end amid a group, runs of gcd(heads, groups) heads get a copy each.
    """
    run = math.gcd(heads, groups)
    if heads == keys.shape[2] * groups:
        return keys
    owned = [lax.dynamic_slice_in_dim(keys, (first + start) // groups, 1, axis=2) for start in range(0, heads, run)]
    return jnp.concatenate(owned, axis=2)
