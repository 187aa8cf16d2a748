"""Graph convolutions, each from its paper's equations: node features [N, F], an operator, new features [N, C].

Features may be `Sparse`. Initial values are those of PyTorch Geometric 1.6, with which Launay et al. 2020 trained.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from pagnol_jax.models.zoo.sparse import Sparse

Features = jax.Array | Sparse
GLOROT = nn.initializers.glorot_uniform(batch_axis=(0,))  # of [K, F, C]: each of the K by itself


def uniform(fan: int) -> nn.initializers.Initializer:
    """Uniform within 1 / sqrt(fan)."""

    def draw(key: jax.Array, shape: Any, dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -(fan**-0.5), fan**-0.5)

    return draw


class GCNConv(nn.Module):
    """A X W + b (Kipf & Welling 2017); `operator` is the normalised adjacency with loops."""

    features: int

    @nn.compact
    def __call__(self, x: Features, operator: Sparse, train: bool = False) -> jax.Array:
        kernel = self.param("kernel", nn.initializers.glorot_uniform(), (x.shape[-1], self.features))
        return operator @ (x @ kernel) + self.param("bias", nn.initializers.zeros, (self.features,))[None]


class ChebConv(nn.Module):
    """X W_0 + L X W_1 + b (Defferrard et al. 2016, K = 2); `operator` L is the scaled Laplacian."""

    features: int

    @nn.compact
    def __call__(self, x: Features, operator: Sparse, train: bool = False) -> jax.Array:
        here, there = self.param("kernel", GLOROT, (2, x.shape[-1], self.features))
        return x @ here + operator @ (x @ there) + self.param("bias", nn.initializers.zeros, (self.features,))[None]


class SplineConv(nn.Module):
    """S_0 X W_0 + S_1 X W_1 + X R + b (Fey et al. 2018, one dimension, kernel size 2, degree 1).

    `operator`: means over neighbours, weighted by either spline.
    """

    features: int

    @nn.compact
    def __call__(self, x: Features, operator: tuple[Sparse, Sparse], train: bool = False) -> jax.Array:
        near = uniform(2 * x.shape[-1])
        low, high = self.param("kernel", near, (2, x.shape[-1], self.features))
        root = x @ self.param("root", near, (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return operator[0] @ (x @ low) + operator[1] @ (x @ high) + root + bias[None]


class GATConv(nn.Module):
    """Attention over neighbours (Velickovic et al. 2018): `heads` of `features` each, [N, heads * features].

    `operator`: its entries, whatever their values, say who attends to whom. dropout: of the attention weights.
    """

    features: int
    heads: int = 1
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Features, operator: Sparse, train: bool = False) -> jax.Array:
        size = (self.heads, self.features)
        kernel = self.param("kernel", nn.initializers.glorot_uniform(), (x.shape[-1], self.heads * self.features))
        h = (x @ kernel).reshape(-1, *size)  # [N, H, D]
        source = (h * self.param("source", nn.initializers.glorot_uniform(), size)[None]).sum(-1)  # [N, H]
        target = (h * self.param("target", nn.initializers.glorot_uniform(), size)[None]).sum(-1)
        score = nn.leaky_relu(source[operator.columns] + target[operator.rows], 0.2)  # [E, H]
        top = jax.lax.stop_gradient(operator.max_rows(score))  # softmax does not depend on it
        weight = jnp.exp(score - top[operator.rows])
        weight /= operator.sum_rows(weight)[operator.rows]
        weight = nn.Dropout(self.dropout, deterministic=not train)(weight)
        out = operator.sum_rows(weight[..., None] * h[operator.columns])
        return out.reshape(-1, self.heads * self.features) + self.param(
            "bias", nn.initializers.zeros, (self.heads * self.features,)
        )


class Grouped(nn.Module):
    """W [F, F], which maps within `groups` of neighbouring features, and b [F].

    W is one matrix with blocks on its diagonal: on two cores it multiplies four times as fast as small blocks do.
    """

    groups: int

    @nn.compact
    def __call__(self, width: int) -> tuple[jax.Array, jax.Array]:
        size = width // self.groups
        kernel = self.param("kernel", uniform(size), (self.groups, size, size))
        return jax.scipy.linalg.block_diag(*kernel), self.param("bias", uniform(size), (width,))


class DNAConv(nn.Module):
    """Dynamic neighbourhood aggregation (Fey 2019, "Just jump"): [N, F] of the past layers' features [N, L, F].

    Over each edge the target's newest features ask, and each past layer of the source answers: dot-product attention
    over L layers and a silent one of score and value 0, in `heads`. What comes over the edges is summed by `operator`,
    the normalised adjacency with loops. dropout: of the attention weights. A head is one or several groups.
    """

    heads: int = 8
    groups: int = 16
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: jax.Array, operator: Sparse, train: bool = False) -> jax.Array:
        nodes, layers, width = x.shape
        if self.groups % self.heads:
            raise ValueError(f"{self.groups} groups do not divide into {self.heads} heads")
        (ask, ask_bias), (key, key_bias), (value, value_bias) = (
            Grouped(self.groups, name=name)(width) for name in ("query", "key", "value")
        )
        by_head = (-1, self.heads, width // self.heads)
        # Projections stay within heads, so they need not see the L layers: q (x W_k + b_k) is (q W_k^T) x + q b_k, and
        # the values of what is summed are the sum of the values.
        query = (x[:, -1] @ ask + ask_bias[None]) * by_head[-1] ** -0.5
        asked = (query @ key.T).reshape(by_head)[operator.rows]  # [E, H, D]
        always = (query * key_bias[None]).reshape(by_head).sum(-1)[operator.rows]  # [E, H]
        # Layer by layer: [E, L, H, D] of all at once takes twice the time on a CPU. Gathered once, for scores and for
        # answers, a layer's gradients are scattered once.
        past = [x[:, layer][operator.columns].reshape(by_head) for layer in range(layers)]
        score = jnp.stack([(asked * one).sum(-1) + always for one in past], 1)  # [E, L, H]
        top = jax.lax.stop_gradient(jnp.maximum(score.max(1, keepdims=True), 0.0))
        weight = jnp.exp(score - top)
        weight /= weight.sum(1, keepdims=True) + jnp.exp(-top)
        weight = nn.Dropout(self.dropout, deterministic=not train)(weight)
        weight *= operator.values[:, None, None]
        answers = [weight[:, layer, :, None] * one for layer, one in enumerate(past)]
        summed = operator.sum_rows(sum(answers[1:], answers[0])).reshape(nodes, width)
        shares = operator.sum_rows(weight.sum(1))  # [N, H]
        return summed @ value + jnp.repeat(shares, by_head[-1], axis=1) * value_bias[None]
