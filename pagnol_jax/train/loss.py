"""Cross-entropy over a large vocabulary, made chunk by chunk together with its gradient."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from pagnol_jax.sharding.rules import mesh_axes, platform, sharded, spec

# Positions whose logits are alive at once, per device: enough for full-speed products, few enough for caches. An
# accelerator reads the head and adds to its gradient once a chunk, which wants thousands of rows to be worth it.
CHUNK = {"cpu": 512, "tpu": 2048, "gpu": 2048}


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
    features: jax.Array,
    head: jax.Array,
    targets: jax.Array,
    weights: jax.Array,
    z_loss: float = 0.0,
    vocab_size: int | None = None,
) -> Loss:
    """Loss of logits `features @ head` against `targets`, without ever holding the logits of all positions.

    features [B, T, d] in the compute dtype, head [d, V] float32, targets [B, T] int, weights [B, T] (constants).
    Columns of the head from `vocab_size` on are padding: they take no probability and get no gradient.
    Products are made in the dtype of `features` and accumulated in float32. Under differentiation the gradient
    is made in the same pass over the chunks, so that no logits are kept or made twice. On a mesh every device takes
    its own positions and its own part of the vocabulary; the head's gradient crosses the network once.
    """
    weights = weights.astype(jnp.float32)
    total, z = _total(features, head, targets, weights, z_loss, vocab_size or head.shape[-1])
    z = jax.lax.stop_gradient(z)
    return Loss(total - z, z, jax.lax.stop_gradient(weights.sum()))


class _Shards(NamedTuple):
    """How the arguments lie on the mesh: specs of rows [B, T] and of the head [d, V], at rest and while it is used;
    names of the mesh axes that split the positions, the vocabulary, and the width of the head at rest."""

    rows: P
    head: P
    used: P
    positions: tuple[str, ...]
    vocab: tuple[str, ...]
    width: tuple[str, ...]

    @classmethod
    def of(cls, targets: jax.Array, head: jax.Array) -> "_Shards":
        rows, rest = spec(("batch", "length"), targets.shape), spec(("embed", "vocab"), head.shape)
        used = P(None, rest[1])
        return cls(rows, rest, used, mesh_axes(rows), mesh_axes(used), mesh_axes(P(rest[0])))


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _total(features, head, targets, weights, z_loss, vocab_size):
    """(nats + z_loss, z_loss); only the first has a gradient."""
    shards = _Shards.of(targets, head)

    def local(features, head, targets, weights):
        def add(sums, chunk):
            x, targets, weights = chunk
            *_, nats, z = _chunk_sums(head, x, targets, weights, z_loss, vocab_size, shards.vocab)
            return (sums[0] + nats + z, sums[1] + z), None

        sums, _ = jax.lax.scan(add, (jnp.zeros(()), jnp.zeros(())), _chunks(features, targets, weights))
        return jax.lax.psum(sums, shards.positions)

    ins = (P(*shards.rows, None), shards.used, shards.rows, shards.rows)
    return sharded(local, ins, (P(), P()))(features, head.astype(features.dtype), targets, weights)


def _total_and_gradient(features, head, targets, weights, z_loss, vocab_size):
    shards = _Shards.of(targets, head)

    def local(features, head, targets, weights):
        def add(carry, chunk):
            nats_total, z_total, head_gradient = carry
            x, targets, weights = chunk
            powers, total, log_z, onehot, nats, z = _chunk_sums(
                head, x, targets, weights, z_loss, vocab_size, shards.vocab
            )
            # d/dlogits of weight * (log Z - logit[target] + z log(Z)^2) = weight * (p (1 + 2 z log Z) - onehot).
            scale = weights * (1 + 2 * z_loss * log_z)
            error = powers * (scale / total)[:, None] - jnp.where(onehot, weights[:, None], 0)
            error = error.astype(x.dtype)
            head_gradient += jnp.einsum("nd,nv->dv", x, error, preferred_element_type=jnp.float32)
            return (nats_total + nats + z, z_total + z, head_gradient), error @ head.T

        start = jnp.zeros(()), jnp.zeros(()), jnp.zeros(head.shape, jnp.float32)
        (*sums, head_gradient), x_gradients = jax.lax.scan(add, start, _chunks(features, targets, weights))
        x_gradient = jax.lax.psum(x_gradients.reshape(features.shape), shards.vocab)
        return *jax.lax.psum(sums, shards.positions), x_gradient, _scattered(head_gradient, shards)

    ins = (P(*shards.rows, None), shards.used, shards.rows, shards.rows)
    outs = (P(), P(), P(*shards.rows, None), shards.head)
    total, z_total, *gradients = sharded(local, ins, outs)(features, head.astype(features.dtype), targets, weights)
    return (total, z_total), tuple(gradients)


def _scale_gradient(z_loss, vocab_size, gradients, cotangents):
    features_gradient, head_gradient = gradients
    scale = cotangents[0]
    return features_gradient * scale.astype(features_gradient.dtype), head_gradient * scale, None, None


_total.defvjp(_total_and_gradient, _scale_gradient)


def _scattered(head_gradient: jax.Array, shards: _Shards) -> jax.Array:
    """A device's part of the sum over the positions of all: [d, V/n] -> [d/m, V/n]."""
    for axis in shards.width:
        if axis in shards.positions:
            head_gradient = jax.lax.psum_scatter(head_gradient, axis, scatter_dimension=0, tiled=True)
        else:  # too few rows to split: all devices along it made the same sum
            rows = head_gradient.shape[0] // jax.lax.axis_size(axis)
            start = jax.lax.axis_index(axis) * rows
            head_gradient = jax.lax.dynamic_slice_in_dim(head_gradient, start, rows)
    return jax.lax.psum(head_gradient, tuple(axis for axis in shards.positions if axis not in shards.width))


def _chunk_sums(head, x, targets, weights, z_loss, vocab_size, vocab_axes):
    """x [n, d], head [d, V/m] -> float32 exp(logits - their maximum) [n, V/m], the sums of these [n], log Z [n], where
    the targets are [n, V/m], and the two sums of the loss. A softmax from the first two needs no more exponentials."""
    logits = jnp.matmul(x, head, preferred_element_type=jnp.float32)
    first = jax.lax.axis_index(vocab_axes) * head.shape[1] if vocab_axes else 0
    column = first + jax.lax.broadcasted_iota(targets.dtype, (1, head.shape[1]), 1)
    if vocab_size < head.shape[1] * math.prod(jax.lax.axis_size(axis) for axis in vocab_axes):
        logits = jnp.where(column < vocab_size, logits, jnp.finfo(jnp.float32).min)
    onehot = targets[:, None] == column
    top = jax.lax.pmax(logits.max(axis=-1), vocab_axes)
    powers = jnp.exp(logits - top[:, None])
    total, picked = jax.lax.psum((powers.sum(axis=-1), _at(logits, targets - first, vocab_axes)), vocab_axes)
    log_z = top + jnp.log(total)
    return powers, total, log_z, onehot, (weights * (log_z - picked)).sum(), (weights * z_loss * log_z**2).sum()


def _at(logits, index, vocab_axes):
    """logits [n, V/m] at index [n], 0 where another device has it."""
    if not vocab_axes:
        return jnp.take_along_axis(logits, index[:, None], axis=-1)[:, 0]
    mine = (index >= 0) & (index < logits.shape[1])
    picked = jnp.take_along_axis(logits, jnp.where(mine, index, 0)[:, None], axis=-1)[:, 0]
    return jnp.where(mine, picked, 0)


def _chunks(features, targets, weights) -> Any:
    """A device's [b, t, ...] -> [chunks, n, ...], n as near to CHUNK as divides them all."""
    positions = targets.size
    wanted = -(-positions // CHUNK[platform()])
    count = next(count for count in range(wanted, positions + 1) if positions % count == 0)
    return jax.tree.map(lambda x: x.reshape(count, positions // count, *x.shape[2:]), (features, targets, weights))
