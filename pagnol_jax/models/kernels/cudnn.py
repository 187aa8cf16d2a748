"""cuDNN's flash attention, on one NVIDIA GPU."""

from typing import Literal

import jax
import jax.numpy as jnp

from pagnol_jax.models.masks import Mask

HALVES = (jnp.bfloat16, jnp.float16)


def takes(query: jax.Array) -> bool:
    """Whether cuDNN knows queries [B, T, H, D] of this kind: half precision, D a multiple of 8, T even."""
    length, head_dim = query.shape[1], query.shape[3]
    return query.dtype in HALVES and head_dim % 8 == 0 and head_dim <= 128 and length % 2 == 0


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: Mask,
    slopes: jax.Array | None,
    offset: jax.Array | int,
    implementation: Literal["cudnn", "xla"] = "cudnn",
) -> jax.Array:
    """A `LocalKernel`; 'xla' computes the same on a CPU.

    A causal mask costs no memory. cuDNN takes any other mask, and ALiBi, as a bias in the dtype of the query, and the
    bias is made whole: [B, 1, T, S] for segments and prefixes, [1, H, T, S] for ALiBi, [B, H, T, S] for both. ALiBi's
    biases are rounded to that dtype, 2^-9 of their size in bfloat16.
    """
    length, slots = query.shape[1], key.shape[1]
    rows, columns = offset + jnp.arange(length), jnp.arange(slots)
    causal = length == slots and mask.bidirectional is None
    whole = causal and mask.segment_ids is None
    bias = None
    if slopes is not None:
        distance = (rows[:, None] - columns[None, :]).astype(jnp.float32)
        bias = (-slopes[:, None, None] * distance)[None].astype(query.dtype)
    return jax.nn.dot_product_attention(
        query,
        key,
        value,
        bias=bias,
        mask=None if whole else mask.allowed(rows, columns)[:, None],
        is_causal=causal,
        implementation=implementation,
    )
