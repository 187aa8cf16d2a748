"""Cross-entropy over a large vocabulary, made chunk by chunk together with its gradient."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pagnol_jax.sharding.rules import constrain

# Positions whose logits are alive at once, per device: enough for full-speed products, few enough for caches.
CHUNK = 512


class Loss(NamedTuple):
    """Sums over all positions, float32 scalars; the caller divides by `weight`.

    nats: sum of weights * -log p(target).
    z_loss: sum of weights * z_loss * log(Z)^2 (Chowdhery et al. 2022, section 5).
    weight: sum of weights.

    Differentiate nats + z_loss: the gradient of both is one array, and it flows through `nats`.
    """

    nats: jax.Array
    z_loss: jax.Array
    weight: jax.Array


def cross_entropy(
    features: jax.Array, head: jax.Array, targets: jax.Array, weights: jax.Array, z_loss: float = 0.0
) -> Loss:
    """Loss of logits `features @ head` against `targets`, without ever holding the logits of all positions.

    features [B, T, d] in the compute dtype, head [d, V] float32, targets [B, T] int, weights [B, T] (constants).
    Products are made in the dtype of `features` and accumulated in float32. Under differentiation the gradient
    is made in the same pass over the chunks, so that no logits are kept or made twice.
    """
    weights = weights.astype(jnp.float32)
    total, z = _total(features, head, targets, weights, z_loss)
    z = jax.lax.stop_gradient(z)
    return Loss(total - z, z, jax.lax.stop_gradient(weights.sum()))


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _total(features, head, targets, weights, z_loss):
    """(nats + z_loss, z_loss); only the first has a gradient."""

    def add(sums, chunk):
        x, targets, weights = chunk
        *_, nats, z = _chunk_sums(head, x, targets, weights, z_loss)
        return (sums[0] + nats + z, sums[1] + z), None

    head = _gathered(head, features)
    chunks = _chunks(features, targets, weights)
    return jax.lax.scan(add, (jnp.zeros(()), jnp.zeros(())), chunks)[0]


def _total_and_gradient(features, head, targets, weights, z_loss):
    def add(carry, chunk):
        nats_total, z_total, head_gradient = carry
        x, targets, weights = chunk
        powers, total, log_z, nats, z = _chunk_sums(gathered, x, targets, weights, z_loss)
        # d/dlogits of weight * (log Z - logit[target] + z log(Z)^2) = weight * (p (1 + 2 z log Z) - onehot).
        scale = weights * (1 + 2 * z_loss * log_z)
        onehot = targets[..., None] == jax.lax.iota(targets.dtype, powers.shape[-1])
        error = powers * (scale / total)[..., None] - jnp.where(onehot, weights[..., None], 0)
        error = constrain(error.astype(x.dtype), "batch", "length", "vocab")
        x_gradient = constrain(error @ gathered.T, "batch", "length", "embed")
        head_gradient += jnp.einsum("btd,btv->dv", x, error, preferred_element_type=jnp.float32)
        return (nats_total + nats + z, z_total + z, constrain(head_gradient, "embed", "vocab")), x_gradient

    gathered = _gathered(head, features)
    chunks = _chunks(features, targets, weights)
    start = jnp.zeros(()), jnp.zeros(()), jnp.zeros(head.shape, jnp.float32)
    (total, z_total, head_gradient), x_gradients = jax.lax.scan(add, start, chunks)
    features_gradient = jnp.moveaxis(x_gradients, 0, 2).reshape(features.shape)
    return (total, z_total), (features_gradient, head_gradient.astype(head.dtype))


def _scale_gradient(z_loss, gradients, cotangents):
    features_gradient, head_gradient = gradients
    scale = cotangents[0]
    return features_gradient * scale.astype(features_gradient.dtype), head_gradient * scale, None, None


_total.defvjp(_total_and_gradient, _scale_gradient)


def _chunk_sums(head, x, targets, weights, z_loss):
    """x [B, t, d] -> float32 exp(logits - their maximum) [B, t, V], the sums of these [B, t], log Z [B, t], and the
    two sums of the loss. A softmax from the first two needs no second pass of exponentials."""
    logits = jnp.matmul(x, head, preferred_element_type=jnp.float32)
    logits = constrain(logits, "batch", "length", "vocab")
    top = logits.max(axis=-1, keepdims=True)
    powers = jnp.exp(logits - top)
    total = powers.sum(axis=-1)
    log_z = top[..., 0] + jnp.log(total)
    picked = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return powers, total, log_z, (weights * (log_z - picked)).sum(), (weights * z_loss * log_z**2).sum()


def _gathered(head, features):
    """The head in the compute dtype, whole along d: gathered once rather than in every chunk."""
    return constrain(head.astype(features.dtype), None, "vocab")


def _chunks(features, targets, weights):
    """[B, T, ...] -> [n, B, T/n, ...]. Chunk i has positions i, i + n, ..: every device keeps its own."""
    batch, length = targets.shape
    devices = max(jax.sharding.get_abstract_mesh().size, 1)
    wanted = -(-batch * length // (CHUNK * devices))
    n = next(n for n in range(min(wanted, length), length + 1) if length % n == 0)
    return jax.tree.map(
        lambda x: jnp.moveaxis(x.reshape(batch, length // n, n, *x.shape[2:]), 2, 0),
        (features, targets, weights),
    )
