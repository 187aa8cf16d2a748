"""Keys and values of tokens already read, and attention over them."""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp

from pagnol_jax.models.config import GPTConfig
from pagnol_jax.models.masks import Mask

QUERY_BLOCK = 256


@flax.struct.dataclass
class Cache:
    """Per layer, keys and values [B * K, S, D] of S slots; `index` (scalar int32) is the next token's slot.

    One array a layer, batch and heads merged: on CPU a decoding loop then writes a token in place and reads a
    layer where it lies, while one stacked array, or a reshape after the write, is copied at every token.
    """

    keys: tuple[jax.Array, ...]
    values: tuple[jax.Array, ...]
    index: jax.Array

    @classmethod
    def empty(cls, config: GPTConfig, batch_size: int, slots: int) -> "Cache":
        shape = (batch_size * config.kv_heads, slots, config.head_dim)
        keys, values = (tuple(jnp.zeros(shape, config.dtype) for _ in range(config.num_layers)) for _ in range(2))
        return cls(keys, values, jnp.zeros((), jnp.int32))

    def write(self, layer: int, key: jax.Array, value: jax.Array) -> "Cache":
        """Puts key and value [B, T, K, D] of `layer` at slots index..index+T-1; `index` itself stays."""
        start = (0, self.index, 0)
        written = [
            jax.lax.dynamic_update_slice(old[layer], _rows(new), start)
            for old, new in ((self.keys, key), (self.values, value))
        ]
        keys, values = (
            (*old[:layer], new, *old[layer + 1 :]) for old, new in zip((self.keys, self.values), written, strict=True)
        )
        return dataclasses.replace(self, keys=keys, values=values)

    def attend(self, layer: int, query: jax.Array, mask: Mask, slopes: jax.Array | None) -> jax.Array:
        """Softmax attention, in float32, of query [B, T, H, D], whose first token stands at slot `index`,
        over the slots of `layer`. `slopes` [H] are ALiBi's. Returns [B, T, H, D]."""
        key, value = self.keys[layer], self.values[layer]
        blocks = []
        for start in range(0, query.shape[1], QUERY_BLOCK):
            block = query[:, start : start + QUERY_BLOCK]
            slots = (
                self.index + start + jnp.arange(block.shape[1]),
                jnp.arange(key.shape[1]),
            )
            blocks.append(_attend_block(block, key, value, mask.allowed(*slots), slots=slots, slopes=slopes))
        return blocks[0] if len(blocks) == 1 else jnp.concatenate(blocks, axis=1)


def _rows(x: jax.Array) -> jax.Array:
    """[B, T, K, D] -> [B * K, T, D]."""
    batch, length, heads, head_dim = x.shape
    return x.swapaxes(1, 2).reshape(batch * heads, length, head_dim)


def _attend_block(query, key, value, allowed, *, slots, slopes):
    """query [B, T, H, D], key and value [B * K, S, D], allowed [B or 1, T, S] -> [B, T, H, D]."""
    batch, length, heads, head_dim = query.shape
    groups = batch * heads // key.shape[0]
    # The G heads that share a key are G rows of one matrix.
    rows = _rows(query * head_dim**-0.5).reshape(key.shape[0], groups * length, head_dim)
    scores = jnp.einsum("btd,bsd->bts", rows, key, preferred_element_type=jnp.float32)
    scores = scores.reshape(batch, heads, length, -1)
    if slopes is not None:
        distance = (slots[0][:, None] - slots[1][None, :]).astype(jnp.float32)
        scores = scores - slopes[:, None, None] * distance
    scores = jnp.where(allowed[:, None], scores, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(value.dtype)
    out = jnp.einsum("bts,bsd->btd", weights.reshape(key.shape[0], groups * length, -1), value)
    return out.reshape(batch, heads, length, head_dim).swapaxes(1, 2)
