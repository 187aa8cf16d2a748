"""Splash attention, the flash attention that ships with JAX, for causal masks and packed segments."""

import jax
from jax import lax
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

from pagnol_jax.models.kernels.blocks import LANES, block, pad, padded, sizes


def takes(length: int, slots: int) -> bool:
    """Whether queries of `length` slots are a part of `slots` keys that splash can tell from the others."""
    return length == slots or (slots % length == 0 and length % LANES == 0)


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    segment_ids: jax.Array | None,
    offset: jax.Array | int,
    interpret: bool,
) -> jax.Array:
    """A `LocalKernel` for scaled queries [B, T, H, D], causal among equal `segment_ids` [B, S].

    Keys are never repeated for the heads that share them. `offset` is a multiple of T.
    """
    length, shards = query.shape[1], key.shape[1] // query.shape[1]
    heads, kv_heads = query.shape[2], key.shape[2]
    slots = padded(key.shape[1]) if shards == 1 else key.shape[1]
    rows = slots // shards
    # Slots past the end lie in every real query's future.
    q, k, v = (pad(x, size, 1).swapaxes(1, 2) for x, size in ((query, rows), (key, slots), (value, slots)))
    ids = None
    if segment_ids is not None:
        keys = pad(segment_ids, slots, 1)
        ids = splash.SegmentIds(lax.dynamic_slice_in_dim(keys, offset, rows, axis=1), keys)
    if kv_heads == 1:
        k, v = k[:, 0], v[:, 0]
    kernel = _kernel(heads, slots, shards, offset // length, kv_heads == 1, interpret)
    return jax.vmap(kernel)(q, k, v, ids).swapaxes(1, 2)[:, :length]


def _kernel(heads: int, slots: int, shards: int, shard: jax.Array | int, multi_query: bool, interpret: bool):
    """The kernel of one of `shards` equal parts of the queries: its rows of the tables of blocks."""
    make = splash.make_splash_mqa if multi_query else splash.make_splash_mha
    whole = make(
        masks.MultiHeadMask([masks.CausalMask((slots, slots))] * heads),
        block_sizes=block_sizes(slots // shards, slots),
        head_shards=1,
        q_seq_shards=shards,
        residual_checkpoint_name="attention",
        interpret=interpret,
    )
    if shards == 1:
        return whole

    def part(table: jax.Array) -> jax.Array:
        axis = 0 if table.ndim == 1 else 1  # indices of queries [T], or tables [1, blocks of queries, blocks of keys]
        size = table.shape[axis] // shards
        return lax.dynamic_slice_in_dim(table, shard * size, size, axis)

    return jax.tree.map(part, whole)


def block_sizes(rows: int, slots: int) -> splash.BlockSizes:
    """Blocks for `rows` queries over `slots` keys.

    The backward pass that makes dq, dk and dv at once needs five products instead of seven, but writes one dq per
    block of keys: it is used for at most two.
    """
    queries, keys = sizes(rows, slots)
    fused = slots <= 2048 and rows == slots
    backward = block(slots, max(512, slots // 2)) if fused else keys
    return splash.BlockSizes(
        block_q=queries,
        block_kv=keys,
        block_kv_compute=block(keys, 512),
        block_q_dkv=queries,
        block_kv_dkv=backward,
        block_kv_dkv_compute=block(backward, 512),
        block_q_dq=None if fused else queries,
        block_kv_dq=None if fused else keys,
        use_fused_bwd_kernel=fused,
    )
