"""Attention as XLA makes it, on any device and any mesh: what the fused kernels are compared with."""

import jax
import jax.numpy as jnp

from pagnol_jax.models.masks import Mask

QUERY_BLOCK = 128


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: Mask,
    slopes: jax.Array | None,
) -> jax.Array:
    """Attention of query [B, T, H, D] over key and value [B, T, K, D]; see `models.attention.attend`.

    At most [B, H, 128, T] scores exist at once going forward; going back autodiff keeps the weights of every block.
    """
    batch, length, heads, head_dim = query.shape
    kv_heads = key.shape[2]
    groups = heads // kv_heads
    # Heads that share keys are further rows of one product: [B, K, T, G, D].
    query = (query * head_dim**-0.5).reshape(batch, length, kv_heads, groups, head_dim).transpose(0, 2, 1, 3, 4)
    key, value = key.transpose(0, 2, 1, 3), value.transpose(0, 2, 1, 3)  # [B, K, S, D]
    # Blocks of queries skip the keys that lie wholly in their future: half of the work of a long sequence.
    blocks = []
    for start in range(0, length, QUERY_BLOCK):
        stop = min(start + QUERY_BLOCK, length)
        seen = stop if mask.bidirectional is None else length
        rows = query[:, :, start:stop].reshape(batch, kv_heads, -1, head_dim)
        bias = _bias(mask, slopes, kv_heads, groups, jnp.arange(start, stop), jnp.arange(seen))
        blocks.append(_attend_block(rows, key[:, :, :seen], value[:, :, :seen], bias))
    out = blocks[0] if len(blocks) == 1 else jnp.concatenate(blocks, axis=2)
    out = out.reshape(batch, kv_heads, length, groups, head_dim).transpose(0, 2, 1, 3, 4)
    return out.reshape(batch, length, heads, head_dim)


def _bias(mask, slopes, kv_heads, groups, query, key):
    """What is added to the scores of slots query [T] at key [S]: float32 [B or 1, K or 1, T * G, S]."""
    bias = jnp.where(mask.allowed(query, key), 0.0, jnp.finfo(jnp.float32).min)[:, None, :, None]
    if slopes is not None:
        distance = (query[:, None] - key[None, :]).astype(jnp.float32)
        bias = bias - slopes.reshape(kv_heads, 1, groups, 1) * distance[:, None]
    shape = *bias.shape[:3], groups, len(key)
    return jnp.broadcast_to(bias, shape).reshape(*bias.shape[:2], -1, len(key))


def _attend_block(query, key, value, bias):
    """query [B, K, R, D], key and value [B, K, S, D], bias [B or 1, K or 1, R, S] -> [B, K, R, D]."""
    scores = jnp.einsum("bkrd,bksd->bkrs", query, key, preferred_element_type=jnp.float32) + bias
    top = jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True))
    weights = jnp.exp(scores - top)
    # Divided after the product with the values: the backward pass then sums over D instead of S.
    out = jnp.einsum("bkrs,bksd->bkrd", weights.astype(value.dtype), value, preferred_element_type=jnp.float32)
    return (out / weights.sum(axis=-1, keepdims=True)).astype(value.dtype)
