"""Flash attention (Dao et al. 2022) for TPUs with what splash attention lacks: prefix masks and ALiBi.

Biases and masks are made in the kernel from slot numbers, slopes and one int32 a slot; nothing of size [T, T] exists.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from pagnol_jax.models.kernels import flash_calls as calls
from pagnol_jax.models.kernels.blocks import pad, padded
from pagnol_jax.models.masks import Mask

PADDING = 2**30 - 1  # twice this and one is the greatest int32


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: Mask,
    slopes: jax.Array | None,
    offset: jax.Array | int,
    interpret: bool,
) -> jax.Array:
    """A `LocalKernel` for scaled queries, any mask and ALiBi; K and V are never repeated, `slopes` get no gradient."""
    length, slots = query.shape[1], key.shape[1]
    rows, columns = padded(length), padded(slots)
    # Padded queries are cut off again, padded keys lie in every query's future.
    q, k, v = (pad(x, n, 1).swapaxes(1, 2) for x, n in ((query, rows), (key, columns), (value, columns)))
    tags: calls.Tags = (None, None)
    if mask.segment_ids is not None or mask.bidirectional is not None:
        keys = tags_of(mask)
        queries = lax.dynamic_slice_in_dim(keys, offset, length, axis=1)
        tags = pad(queries, rows, 1), pad(keys, columns, 1)
    return _flash(q, k, v, tags, slopes, offset, interpret).swapaxes(1, 2)[:, :length]


def tags_of(mask: Mask) -> jax.Array:
    """All that the mask says of a slot, int32 [B, S]: twice its segment, plus one if it is bidirectional."""
    segment, flag = (jnp.int32(0) if x is None else x.astype(jnp.int32) for x in (mask.segment_ids, mask.bidirectional))
    # Padding closes a sequence: as the last segment, it does not widen the range of segments that a block spans.
    return 2 * jnp.where(segment == 0, PADDING, segment) + flag


@functools.partial(jax.custom_vjp, nondiff_argnums=(6,))
def _flash(query, key, value, tags, slopes, offset, interpret):
    """query [B, H, T, D], key and value [B, K, S, D], tags [B, T] and [B, S] (or None twice) -> [B, H, T, D]."""
    return calls.forward(query, key, value, tags, slopes, offset, interpret)[0]


def _flash_forward(query, key, value, tags, slopes, offset, interpret):
    out, logsumexp = calls.forward(query, key, value, tags, slopes, offset, interpret)
    out, logsumexp = (checkpoint_name(x, "attention") for x in (out, logsumexp))
    return out, (query, key, value, tags, slopes, offset, out, logsumexp)


def _flash_backward(interpret, residuals, cotangent):
    query, key, value, tags, slopes, offset, out, logsumexp = residuals
    # What softmax subtracts from each gradient of a score: [B, H, 1, T].
    delta = jnp.sum(out.astype(jnp.float32) * cotangent.astype(jnp.float32), axis=-1)[:, :, None]
    rows = cotangent, logsumexp, delta
    gradients = calls.backward(query, key, value, tags, slopes, offset, rows, interpret)
    return *gradients, None, None, None


_flash.defvjp(_flash_forward, _flash_backward)
