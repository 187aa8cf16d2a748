"""Click models: from the ids of categorical fields, int [B, F], to a logit [B, 1].

Architectures as torchfm has them, which the DFA study trained (arXiv:2006.12878, table 2). `sizes` are the values of
each field. `linear_init` is that of the first-order weights: N(0, 1) in torchfm. Names of submodules are those that the
training rules of gin/dfa/recommend tap.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from pagnol_jax.models.zoo.recommender_layers import (
    MLP,
    CrossLayer,
    Linear,
    Logarithmic,
    Point,
    SelfAttention,
    Table,
    dense_init,
    flat,
    interactions,
    logit,
)

normal = nn.initializers.normal(1.0)


class FM(nn.Module):
    """Factorization machine (Rendle 2010): first order and products of all pairs."""

    sizes: Sequence[int]
    embed: int = 16
    linear_init: nn.initializers.Initializer = normal

    @nn.compact
    def __call__(self, ids: jax.Array, train: bool) -> jax.Array:
        embedded = Table(self.sizes, self.embed, name="embedding")(ids)
        return Linear(self.sizes, self.linear_init, name="linear")(ids) + interactions(embedded)


class DeepFM(nn.Module):
    """A factorization machine and an MLP on one embedding (Guo et al. 2017); the MLP reads it through `mlp_input`."""

    sizes: Sequence[int]
    embed: int = 10
    mlp: Sequence[int] = (400, 400, 400)
    dropout: float = 0.5
    linear_init: nn.initializers.Initializer = normal

    @nn.compact
    def __call__(self, ids: jax.Array, train: bool) -> jax.Array:
        embedded = Table(self.sizes, self.embed, name="embedding")(ids)
        deep = Point(name="mlp_input")(flat(embedded))
        shallow = Linear(self.sizes, self.linear_init, name="linear")(ids) + interactions(embedded)
        return shallow + MLP(self.mlp, self.dropout, name="mlp")(deep, train)


class DeepCross(nn.Module):
    """Deep & Cross Network, version 1 (Wang et al. 2017): `cross_0`, ... beside an MLP, joined in `stack`."""

    sizes: Sequence[int]
    embed: int = 16
    cross: int = 6
    mlp: Sequence[int] = (1024, 1024)
    dropout: float = 0.0

    @nn.compact
    def __call__(self, ids: jax.Array, train: bool) -> jax.Array:
        first = flat(Table(self.sizes, self.embed, name="embedding")(ids))
        crossed = first
        for index in range(self.cross):
            crossed = CrossLayer(name=f"cross_{index}")(first, crossed)
        deep = MLP(self.mlp, self.dropout, output=False, name="mlp")(first, train)
        return logit("output")(Point(name="stack")(jnp.concatenate([crossed, deep], axis=1)))


class AutoInt(nn.Module):
    """Attention between fields, `attention_0`, ..., beside an MLP (Song et al. 2019)."""

    sizes: Sequence[int]
    embed: int = 16
    attention_embed: int = 32
    heads: int = 2
    attention: int = 3
    mlp: Sequence[int] = (400, 400, 400)
    dropout: float = 0.0
    linear_init: nn.initializers.Initializer = normal

    @nn.compact
    def __call__(self, ids: jax.Array, train: bool) -> jax.Array:
        embedded = Table(self.sizes, self.embed, name="embedding")(ids)  # [B, F, E]
        x = nn.Dense(self.attention_embed, kernel_init=dense_init, name="attention_embedding")(embedded)
        for index in range(self.attention):
            x = SelfAttention(self.heads, self.dropout, name=f"attention_{index}")(x, train)
        x = x + nn.Dense(self.attention_embed, kernel_init=dense_init, name="residual")(embedded)
        attended = logit("attention_output")(Point(name="attended")(flat(nn.relu(x))))
        deep = MLP(self.mlp, self.dropout, name="mlp")(flat(embedded), train)
        return Linear(self.sizes, self.linear_init, name="linear")(ids) + attended + deep


class AFN(nn.Module):
    """Adaptive Factorization Network (Cheng et al. 2020): an MLP on products of learnt powers, `logarithmic`."""

    sizes: Sequence[int]
    embed: int = 10
    neurons: int = 1500
    mlp: Sequence[int] = (400, 400, 400)
    dropout: float = 0.0
    linear_init: nn.initializers.Initializer = normal

    @nn.compact
    def __call__(self, ids: jax.Array, train: bool) -> jax.Array:
        embedded = Table(self.sizes, self.embed, name="embedding")(ids)
        products = flat(Logarithmic(self.neurons, name="logarithmic")(embedded))
        return Linear(self.sizes, self.linear_init, name="linear")(ids) + MLP(self.mlp, self.dropout, name="mlp")(
            products, train
        )
