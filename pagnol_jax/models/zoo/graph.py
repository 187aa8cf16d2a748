"""The graph networks of Launay et al. 2020 (section 3.3), and what each propagates with.

All name the modules that feedback may land on: `activation` after the first convolution and `dropout` after that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse

from pagnol_jax.models.zoo import sparse
from pagnol_jax.models.zoo.convolutions import (
    ChebConv,
    DNAConv,
    Features,
    GATConv,
    GCNConv,
    SplineConv,
    uniform,
)
from pagnol_jax.models.zoo.sparse import Sparse


class Function(nn.Module):
    """A function as a module: a place that has a name."""

    function: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return self.function(x)


class Dropout(nn.Module):
    """Dropout of dense features or of sparse ones, whose zeros need no mask. Takes the random stream "dropout"."""

    rate: float

    @nn.compact
    def __call__(self, x: Any, train: bool) -> Any:
        drop = nn.Dropout(self.rate, deterministic=not train)
        return Sparse(drop(x.values), x.rows, x.columns, x.shape) if isinstance(x, Sparse) else drop(x)


class TwoLayers(nn.Module):
    """conv2(dropout(activation(conv1(input_dropout(x))))) and `output`: [N, C] of features [N, F]."""

    conv1: nn.Module
    conv2: nn.Module
    activation: Callable[[jax.Array], jax.Array]
    output: Callable[[jax.Array], jax.Array]
    input_dropout: float = 0.0
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Features, operator: Any, train: bool = False) -> jax.Array:
        x = Dropout(self.input_dropout, name="drop_input")(x, train)
        h = Function(self.activation, name="act")(self.conv1(x, operator, train))
        h = Dropout(self.dropout, name="drop")(h, train)
        return Function(self.output, name="out")(self.conv2(h, operator, train))


class DNA(nn.Module):
    """Linear and ReLU, `layers` DNAConvs and ReLUs that see all layers before them, linear: log-probabilities [N, C].

    Taps: `act` and `act_1` to `act_5`; the layers are `first`, `conv_1` to `conv_5`, `last`.
    """

    classes: int
    width: int
    layers: int
    dropout: float
    attention_dropout: float

    @nn.compact
    def __call__(self, x: Features, operator: Sparse, train: bool = False) -> jax.Array:
        h = Function(nn.relu, name="act")(SparseDense(self.width, uniform(x.shape[-1]), name="first")(x))
        h = Dropout(self.dropout, name="drop")(h, train)
        past = h[:, None]  # [N, L, F]
        for layer in range(1, self.layers + 1):
            h = DNAConv(dropout=self.attention_dropout, name=f"conv_{layer}")(past, operator, train)
            h = Function(nn.relu, name=f"act_{layer}")(h)
            past = jnp.concatenate([past, h[:, None]], axis=1)
        h = Dropout(self.dropout, name="drop_last")(h, train)
        return Function(nn.log_softmax, name="out")(SparseDense(self.classes, uniform(self.width), name="last")(h))


class SparseDense(nn.Module):
    """x W + b for dense or sparse x, both drawn by `initial`."""

    features: int
    initial: nn.initializers.Initializer

    @nn.compact
    def __call__(self, x: Features) -> jax.Array:
        kernel = self.param("kernel", self.initial, (x.shape[-1], self.features))
        return x @ kernel + self.param("bias", self.initial, (self.features,))[None]


class Architecture(NamedTuple):
    """A kind of network on graphs.

    definition: the call that makes it. network: of so many outputs. operator: of edges [2, E] and N, what it
    propagates with. features: of those of the data set, [N, F] in CSR, what it reads.
    """

    definition: str
    network: Callable[[int], nn.Module]
    operator: Callable[[np.ndarray, int], Any]
    features: Callable[[scipy.sparse.csr_matrix], scipy.sparse.csr_matrix]


def rows_of_sum_one(features: scipy.sparse.csr_matrix) -> scipy.sparse.csr_matrix:
    """Each row divided by its sum, or by 1 where that is less."""
    return scipy.sparse.diags(1 / np.maximum(np.asarray(features.sum(1)).ravel(), 1)) @ features


def as_they_are(features: scipy.sparse.csr_matrix) -> scipy.sparse.csr_matrix:
    """Features unchanged."""
    return features


def gcn(hidden: int = 16, dropout: float = 0.5) -> Architecture:
    """Two graph convolutions (Kipf & Welling 2017)."""

    def network(classes: int) -> nn.Module:
        return TwoLayers(GCNConv(hidden), GCNConv(classes), nn.relu, nn.log_softmax, dropout=dropout)

    return Architecture(
        f"gcn(hidden={hidden}, dropout={dropout})", network, sparse.normalised_with_loops, rows_of_sum_one
    )


def cheb(hidden: int = 16, dropout: float = 0.5) -> Architecture:
    """Two Chebyshev convolutions, K = 2 (Defferrard et al. 2016)."""

    def network(classes: int) -> nn.Module:
        return TwoLayers(ChebConv(hidden), ChebConv(classes), nn.relu, nn.log_softmax, dropout=dropout)

    return Architecture(f"cheb(hidden={hidden}, dropout={dropout})", network, sparse.scaled_laplacian, rows_of_sum_one)


def spline(hidden: int = 16, dropout: float = 0.5) -> Architecture:
    """Two spline convolutions on target degrees (Fey et al. 2018); dropout of input and hidden features."""

    def network(classes: int) -> nn.Module:
        return TwoLayers(SplineConv(hidden), SplineConv(classes), nn.elu, nn.log_softmax, dropout, dropout)

    return Architecture(f"spline(hidden={hidden}, dropout={dropout})", network, sparse.linear_splines, as_they_are)


def gat(
    hidden: int = 8, heads: int = 8, dropout: float = 0.6, attention_dropout: tuple[float, float] = (0.6, 0.6)
) -> Architecture:
    """Two attention layers (Velickovic et al. 2018), of `heads` and of one; dropout of input and hidden features."""

    def network(classes: int) -> nn.Module:
        first, last = attention_dropout
        layers = GATConv(hidden, heads, first), GATConv(classes, 1, last)
        return TwoLayers(*layers, nn.elu, nn.log_softmax, dropout, dropout)

    return Architecture(
        f"gat({hidden}, {heads}, {dropout}, {attention_dropout})", network, sparse.attended, rows_of_sum_one
    )


def dna(width: int = 128, layers: int = 5, dropout: float = 0.5, attention_dropout: float = 0.8) -> Architecture:
    """Dynamic neighbourhood aggregation (Fey 2019)."""

    def network(classes: int) -> nn.Module:
        return DNA(classes, width, layers, dropout, attention_dropout)

    return Architecture(
        f"dna({width}, {layers}, {dropout}, {attention_dropout})", network, sparse.normalised_with_loops, as_they_are
    )


def autoencoder(hidden: int = 32, size: int = 16) -> Architecture:
    """Two graph convolutions to the features whose inner products are logits of edges (Kipf & Welling 2016)."""

    def network(_: int) -> nn.Module:
        return TwoLayers(GCNConv(hidden), GCNConv(size), nn.relu, lambda z: z)

    return Architecture(f"autoencoder({hidden}, {size})", network, sparse.normalised_with_loops, rows_of_sum_one)
