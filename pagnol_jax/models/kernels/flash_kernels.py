"""What a TPU core does with one block of queries and one of keys: forward, and two kernels going back.

Scores are kept transposed, [keys, queries]: a softmax then reduces over sublanes, its statistics are rows that
broadcast for free, and the output is gathered as [D, queries], full lanes whatever the size of a head.
References to arrays are blocks in VMEM, those of `Spans` and slopes scalars; tags and slopes may be None.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl

MASKED = -0.7 * float(jnp.finfo(jnp.float32).max)  # far from overflow when another score is subtracted


def product(a: jax.Array, b: jax.Array, over: tuple[int, int]) -> jax.Array:
    """Matrix product in float32 that sums axis over[0] of `a` with over[1] of `b`."""
    return lax.dot_general(a, b, (((over[0],), (over[1],)), ((), ())), preferred_element_type=jnp.float32)


def scores(query, key, slope, query_tags, key_tags, distance: jax.Array) -> jax.Array:
    """Masked and biased scores [keys, queries] of scaled query [queries, D] and key [keys, D], in float32.

    Tags are [1, queries] and [keys, 1]; `distance` is the slot of the first query less that of the first key.
    """
    shape = (key.shape[0], query.shape[0])
    distance = distance + lax.broadcasted_iota(jnp.int32, shape, 1) - lax.broadcasted_iota(jnp.int32, shape, 0)
    raw = product(key, query, (1, 1))
    if slope is not None:
        raw = raw - slope * distance.astype(jnp.float32)
    allowed = distance >= 0
    if query_tags is not None:
        allowed |= (query_tags & key_tags & 1) == 1
        allowed &= (query_tags >> 1) == (key_tags >> 1)
    return jnp.where(allowed, raw, MASKED)


def _block_scores(offset, slopes, head, query, key, query_tags, key_tags, block):
    """`scores` of references, for the `block` (of queries, of keys) at hand."""
    distance = offset[0] + block[0] * query.shape[0] - block[1] * key.shape[0]
    slope = None if slopes is None else slopes[head]
    row, column = (None, None) if query_tags is None else (query_tags[...], key_tags[:, :1])
    return scores(query[...], key[...], slope, row, column, distance)


def forward(
    offset, low, high, slopes, query, key, value, query_tags, key_tags, out, logsumexp, top, total, summed
) -> None:
    """Grid (batch, heads, blocks of queries, blocks of keys); `top` and `total` [1, queries], `summed` [D, queries]."""
    head, i, j = pl.program_id(1), pl.program_id(2), pl.program_id(3)
    row = pl.program_id(0) * pl.num_programs(2) + i
    last = pl.num_programs(3) - 1

    @pl.when(j == 0)
    def _() -> None:
        top[...] = jnp.full_like(top, MASKED)
        total[...] = jnp.zeros_like(total)
        summed[...] = jnp.zeros_like(summed)

    @pl.when((low[row] <= j) & (j <= high[row]))
    def _() -> None:
        raw = _block_scores(offset, slopes, head, query, key, query_tags, key_tags, (i, j))
        before = top[...]
        now = jnp.maximum(before, raw.max(axis=0, keepdims=True))
        weights = jnp.exp(raw - now)
        shrink = jnp.exp(before - now)
        top[...] = now
        total[...] = total[...] * shrink + weights.sum(axis=0, keepdims=True)
        summed[...] = summed[...] * shrink + product(value[...], weights.astype(value.dtype), (0, 0))

    @pl.when(j == last)
    def _() -> None:
        out[...] = (summed[...] / total[...]).T.astype(out.dtype)
        logsumexp[...] = top[...] + jnp.log(total[...])


def _weights_and_errors(raw, value, cotangent, logsumexp, delta):
    """Softmax weights and the gradient of the scores, [keys, queries] each; `delta` is what softmax subtracts."""
    weights = jnp.exp(raw - logsumexp[...])
    return weights, weights * (product(value[...], cotangent[...], (1, 1)) - delta[...])


def backward_query(
    offset,
    low,
    high,
    slopes,
    query,
    key,
    value,
    query_tags,
    key_tags,
    cotangent,
    logsumexp,
    delta,
    gradient,
    summed,
) -> None:
    """Grid as in `forward`; `summed` [D, queries]."""
    head, i, j = pl.program_id(1), pl.program_id(2), pl.program_id(3)
    row = pl.program_id(0) * pl.num_programs(2) + i
    last = pl.num_programs(3) - 1

    @pl.when(j == 0)
    def _() -> None:
        summed[...] = jnp.zeros_like(summed)

    @pl.when((low[row] <= j) & (j <= high[row]))
    def _() -> None:
        raw = _block_scores(offset, slopes, head, query, key, query_tags, key_tags, (i, j))
        _, errors = _weights_and_errors(raw, value, cotangent, logsumexp, delta)
        summed[...] += product(key[...], errors.astype(key.dtype), (0, 0))

    @pl.when(j == last)
    def _() -> None:
        gradient[...] = summed[...].T.astype(gradient.dtype)


def backward_keys(
    offset,
    low,
    high,
    slopes,
    query,
    key,
    value,
    query_tags,
    key_tags,
    cotangent,
    logsumexp,
    delta,
    key_gradient,
    value_gradient,
    key_sum,
    value_sum,
) -> None:
    """Grid (batch, key heads, blocks of keys, query heads of a key head, blocks of queries); sums are [keys, D]."""
    j, shared, i = pl.program_id(2), pl.program_id(3), pl.program_id(4)
    row = pl.program_id(0) * pl.num_programs(2) + j
    groups, last = pl.num_programs(3), pl.num_programs(4) - 1
    head = pl.program_id(1) * groups + shared

    @pl.when((shared == 0) & (i == 0))
    def _() -> None:
        key_sum[...] = jnp.zeros_like(key_sum)
        value_sum[...] = jnp.zeros_like(value_sum)

    @pl.when((low[row] <= i) & (i <= high[row]))
    def _() -> None:
        raw = _block_scores(offset, slopes, head, query, key, query_tags, key_tags, (i, j))
        weights, errors = _weights_and_errors(raw, value, cotangent, logsumexp, delta)
        value_sum[...] += product(weights.astype(cotangent.dtype), cotangent[...], (1, 0))
        key_sum[...] += product(errors.astype(query.dtype), query[...], (1, 0))

    @pl.when((shared == groups - 1) & (i == last))
    def _() -> None:
        key_gradient[...] = key_sum[...].astype(key_gradient.dtype)
        value_gradient[...] = value_sum[...].astype(value_gradient.dtype)
