"""One mask type for causal, prefix and packed attention: never a [T, T] array until a kernel asks for a block."""

import flax.struct
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class Mask:
    """Who may attend to whom, over key slots 0..S-1.

    segment_ids: [B, S] int, or None: only equal ids see each other; 0 is padding and sees itself alone.
    bidirectional: [B, S] bool, or None: slots so marked see each other whatever their order (prefix LM).
    """

    segment_ids: jax.Array | None = None
    bidirectional: jax.Array | None = None

    def allowed(self, query: jax.Array, key: jax.Array) -> jax.Array:
        """For slot indices query [Tq] and key [Tk]: bool [B or 1, Tq, Tk]."""
        allowed = (key[None, :] <= query[:, None])[None]
        if self.bidirectional is not None:
            allowed = allowed | _pairs(self.bidirectional, query, key, jnp.logical_and)
        if self.segment_ids is not None:
            allowed = allowed & _pairs(self.segment_ids, query, key, jnp.equal)
        return allowed


def _pairs(values: jax.Array, query: jax.Array, key: jax.Array, relation) -> jax.Array:
    """[B, S] -> relation(values at query [B, Tq, 1], values at key [B, 1, Tk])."""
    return relation(values[:, query][:, :, None], values[:, key][:, None, :])
