"""Graph convolutions and networks against plain torch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import pytest
import scipy.sparse
import torch
from models.zoo import torch_graph

from pagnol_jax.data.zoo.planetoid import undirected
from pagnol_jax.models.zoo import convolutions, graph, sparse

NODES, FEATURES = 30, 24


@pytest.fixture(scope="module")
def edges() -> np.ndarray:
    """Node 29 is isolated; node 0 has many neighbours."""
    random = np.random.default_rng(0)
    pairs = np.concatenate([random.integers(29, size=(2, 60)), [np.zeros(12, int), np.arange(1, 13)]], axis=1)
    return undirected(pairs)


def random_params(module: nn.Module, *inputs: Any) -> Any:
    """Of the module's shapes, all away from zero: biases too."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
    leaves, tree = jax.tree.flatten(shapes)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    return jax.tree.unflatten(tree, [jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves, strict=True)])


def in_torch(tree: Any) -> Any:
    return jax.tree.map(lambda x: torch.tensor(np.asarray(x)), tree)


@pytest.mark.parametrize(
    ("module", "operator", "twin"),
    [
        (convolutions.GCNConv(5), sparse.normalised_with_loops, torch_graph.gcn),
        (convolutions.ChebConv(5), sparse.scaled_laplacian, torch_graph.cheb),
        (convolutions.SplineConv(5), sparse.linear_splines, torch_graph.spline),
        (convolutions.GATConv(5, heads=3), sparse.attended, torch_graph.gat),
    ],
)
def test_convolutions(module: nn.Module, operator: Callable, twin: Callable, edges: np.ndarray) -> None:
    x = np.random.default_rng(1).normal(size=(NODES, FEATURES)).astype(np.float32)
    x[np.abs(x) < 1] = 0
    propagate = operator(edges, NODES)
    params = random_params(module, x, propagate)
    theirs = twin(torch.tensor(x), torch.tensor(edges.astype(np.int64)), in_torch(params)).numpy()
    dense = jax.jit(module.apply)({"params": params}, x, propagate)
    as_sparse = jax.jit(module.apply)({"params": params}, sparse.sparse(scipy.sparse.csr_matrix(x)), propagate)
    np.testing.assert_allclose(dense, theirs, rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(as_sparse, theirs, rtol=2e-5, atol=2e-5)


def test_dna_convolution(edges: np.ndarray) -> None:
    x = np.random.default_rng(1).normal(size=(NODES, 3, 32)).astype(np.float32)
    module, propagate = convolutions.DNAConv(heads=8, groups=16), sparse.normalised_with_loops(edges, NODES)
    params = random_params(module, x, propagate)
    theirs = torch_graph.dna(torch.tensor(x), torch.tensor(edges.astype(np.int64)), in_torch(params))
    np.testing.assert_allclose(jax.jit(module.apply)({"params": params}, x, propagate), theirs, rtol=2e-5, atol=2e-5)


def test_dna_network(edges: np.ndarray) -> None:
    """Each layer sees all before it: the first linear layer, then every convolution."""
    x = np.random.default_rng(1).normal(size=(NODES, FEATURES)).astype(np.float32)
    net, propagate = graph.dna(width=32, layers=3).network(4), sparse.normalised_with_loops(edges, NODES)
    params = jax.tree.map(lambda leaf: 0.3 * leaf, random_params(net, x, propagate))
    p, links = in_torch(params), torch.tensor(edges.astype(np.int64))
    past = [(torch.tensor(x) @ p["first"]["kernel"] + p["first"]["bias"]).relu()]
    for layer in (1, 2, 3):
        past.append(torch_graph.dna(torch.stack(past, 1), links, p[f"conv_{layer}"]).relu())
    theirs = (past[-1] @ p["last"]["kernel"] + p["last"]["bias"]).log_softmax(-1)
    np.testing.assert_allclose(jax.jit(net.apply)({"params": params}, x, propagate), theirs, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("build", [graph.gcn, graph.cheb, graph.spline, graph.gat, partial(graph.dna, layers=1)])
def test_networks_give_log_probabilities_and_drop_only_in_training(build: Callable, edges: np.ndarray) -> None:
    architecture = build()
    x = sparse.sparse(architecture.features(scipy.sparse.csr_matrix(np.eye(NODES, dtype=np.float32))))
    net, propagate = architecture.network(4), architecture.operator(edges, NODES)
    params = jax.jit(net.init)(jax.random.key(0), x, propagate)
    calm, again = (jax.jit(net.apply)(params, x, propagate) for _ in range(2))
    np.testing.assert_allclose(np.exp(calm).sum(1), 1, rtol=1e-5)
    np.testing.assert_array_equal(calm, again)
    train = jax.jit(lambda key: net.apply(params, x, propagate, train=True, rngs={"dropout": key}))
    drawn = [train(jax.random.key(k)) for k in (1, 2)]
    assert np.abs(drawn[0] - drawn[1]).max() > 0


def test_row_normalisation() -> None:
    rows = scipy.sparse.csr_matrix([[1.0, 3.0], [0.0, 0.0], [0.25, 0.25]])
    np.testing.assert_allclose(graph.rows_of_sum_one(rows).toarray(), [[0.25, 0.75], [0, 0], [0.25, 0.25]])
