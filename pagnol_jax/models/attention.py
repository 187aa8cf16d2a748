"""One attention, from multi-query to multi-head, over packed, prefixed or cached sequences."""

from typing import Any

import flax.linen as nn
import jax

from pagnol_jax.models import kernels
from pagnol_jax.models.cache import Cache
from pagnol_jax.models.config import GPTConfig
from pagnol_jax.models.layers import Linear, Normed, residual_stddev
from pagnol_jax.models.masks import Mask
from pagnol_jax.sharding.rules import constrain


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    mask: Mask,
    slopes: jax.Array | None = None,
    kernel: str = "auto",
) -> jax.Array:
    """Softmax attention of query [B, T, H, D] over key and value [B, T, K, D], softmax in float32.

    `slopes` [H] are ALiBi's (constants: no gradient of them is defined), `kernel` a name in `kernels.KERNELS`.
    Returns [B, T, H, D] in the dtype of `value`. Over a cache, see `Cache.attend`.
    Raises UserError for another kernel.
    """
    return kernels.select(kernel)(query, key, value, mask, slopes)


class Attention(nn.Module):
    """x [B, T, d_model] -> [B, T, d_model]; with a cache (and `layer` an int), also the cache
    with this layer's keys and values."""

    config: GPTConfig

    @nn.compact
    def __call__(
        self,
        x: jax.Array | Normed,
        positions: jax.Array,
        mask: Mask,
        layer: Any,
        cache: Cache | None,
    ) -> tuple[jax.Array, Cache | None]:
        c = self.config

        def project(name: str, heads: int, axis: str) -> jax.Array:
            axes = ("embed", axis, "head_dim")
            shape = (heads, c.head_dim)
            y = Linear((c.d_model,), shape, axes, c.qkv_bias, c.init_stddev, c.dtype, name=name)(x)
            return constrain(y, "batch", "length", axis, "head_dim")

        query = project("query", c.num_heads, "heads")
        key = project("key", c.kv_heads, "kv_heads")
        value = project("value", c.kv_heads, "kv_heads")
        if c.position.rotate:
            query, key = (
                c.position.rotate(query, positions),
                c.position.rotate(key, positions),
            )
        slopes = c.position.slopes(c.num_heads) if c.position.slopes else None
        if cache is None:
            out = attend(query, key, value, mask, slopes, c.attention)
        else:
            cache = cache.write(layer, key, value)
            out = cache.attend(layer, query, mask, slopes)
        axes = ("heads", "head_dim", "embed")
        shape = (c.num_heads, c.head_dim)
        out = Linear(
            shape,
            (c.d_model,),
            axes,
            c.use_bias,
            residual_stddev(c),
            c.dtype,
            name="out",
        )(out)
        return out, cache
