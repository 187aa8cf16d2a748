"""Layers of click models, with the initial values that torchfm (and so the DFA study) gives them.

Biases of dense layers start at 0, where torch draws them too.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

# torch's default for a dense layer: uniform within 1/sqrt(inputs).
dense_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
glorot = nn.initializers.xavier_uniform()


class Table(nn.Module):
    """A vector for each value of each field, in one table: ids int [B, F] -> [B, F, features]."""

    sizes: Sequence[int]
    features: int
    initial: nn.initializers.Initializer = glorot

    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        table = self.param("embedding", self.initial, (sum(self.sizes), self.features))
        starts = np.cumsum([0, *self.sizes[:-1]], dtype=np.int32)
        return jnp.take(table, ids + starts, axis=0, mode="clip")


class Linear(nn.Module):
    """The first order: a weight per value and a bias; ids int [B, F] -> [B, 1]."""

    sizes: Sequence[int]
    initial: nn.initializers.Initializer

    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        weights = Table(self.sizes, 1, self.initial, name="table")(ids)
        return weights.sum(axis=1) + self.param("bias", nn.initializers.zeros, (1,))


class Point(nn.Module):
    """The identity, with a name: a place where training rules find a value."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return x


class Hidden(nn.Module):
    """Dense, batch normalisation, ReLU, dropout: [B, D] -> [B, features]. `train` draws from the `dropout` stream."""

    features: int
    dropout: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = nn.Dense(self.features, kernel_init=dense_init, name="dense")(x)
        x = nn.BatchNorm(not train, momentum=0.9, epsilon=1e-5, use_fast_variance=False, name="norm")(x)
        return nn.Dropout(self.dropout, deterministic=not train, name="dropout")(nn.relu(x))


class MLP(nn.Module):
    """Hidden layers `layer_0`, `layer_1`, ...; with `output`, a last dense one to [B, 1]."""

    features: Sequence[int]
    dropout: float
    output: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        for index, features in enumerate(self.features):
            x = Hidden(features, self.dropout, name=f"layer_{index}")(x, train)
        return logit("output")(x) if self.output else x


class CrossLayer(nn.Module):
    """x0 (w . x) + b + x, of rank one (Wang et al. 2017, Deep & Cross Network, eq. 3): x0, x [B, D] -> [B, D]."""

    @nn.compact
    def __call__(self, x0: jax.Array, x: jax.Array) -> jax.Array:
        weight = self.param("weight", dense_init, (x.shape[-1], 1))
        return x0 * (x @ weight) + self.param("bias", nn.initializers.zeros, (x.shape[-1],)) + x


class SelfAttention(nn.Module):
    """Multi-head attention of every field over all, as torch's: [B, F, D] -> [B, F, D], dropout on the weights."""

    heads: int
    dropout: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        batch, fields, width = x.shape
        mixed = nn.Dense(3 * width, kernel_init=glorot, name="query_key_value")(x)
        query, key, value = jnp.moveaxis(mixed.reshape(batch, fields, 3, self.heads, width // self.heads), 2, 0)
        scores = jnp.einsum("bfhd,bghd->bhfg", query, key) / np.sqrt(width // self.heads)
        weights = nn.Dropout(self.dropout, deterministic=not train)(nn.softmax(scores))
        seen = jnp.einsum("bhfg,bghd->bfhd", weights, value).reshape(batch, fields, width)
        return nn.Dense(width, kernel_init=dense_init, name="output")(seen)


class Logarithmic(nn.Module):
    """Products of learnt powers of embeddings (Cheng et al. 2020, AFN, eq. 6): [B, F, E] -> [B, neurons, E].

    As torchfm computes it: relu(expm1(W log1p(|x| + 1e-7))), without a bias.
    """

    neurons: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        powers = self.param("weight", _by_columns, (self.neurons, x.shape[1]))
        logarithms = jnp.log1p(jnp.abs(x) + 1e-7)
        return nn.relu(jnp.expm1(jnp.einsum("nf,bfe->bne", powers, logarithms)))


def _by_columns(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> jax.Array:
    """Uniform within 1/sqrt(columns)."""
    return jax.random.uniform(key, shape, dtype, -1, 1) / np.sqrt(shape[1])


def interactions(x: jax.Array) -> jax.Array:
    """Σ over pairs of fields of <v_f, v_g> (Rendle 2010, lemma 3.1): [B, F, E] -> [B, 1]."""
    return 0.5 * (x.sum(axis=1) ** 2 - (x**2).sum(axis=1)).sum(axis=1, keepdims=True)


def flat(x: jax.Array) -> jax.Array:
    """[B, ...] -> [B, all the rest]."""
    return x.reshape(len(x), -1)


def logit(name: str) -> nn.Dense:
    """A dense layer to [B, 1]."""
    return nn.Dense(1, kernel_init=dense_init, name=name)
