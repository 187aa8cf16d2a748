"""What a graph network is trained for: the classes of its nodes, or its edges."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pagnol_jax.data.zoo import ranking, splits
from pagnol_jax.data.zoo.planetoid import Graph, Split
from pagnol_jax.errors import UserError
from pagnol_jax.models.zoo.graph import Architecture
from pagnol_jax.models.zoo.sparse import sparse

Inputs = dict[str, Any]  # "features" and "operator", which the network gets, and what the losses and scores need
Values = Mapping[str, Any]
LARGEST = 46_340  # nodes, whose pairs are numbered in 32 bits


class Task(NamedTuple):
    """A task, as pure functions of a network's outputs [N, C].

    definition: the call that makes it. inputs: (graph, architecture, seed) -> the arrays of a run.
    loss: (outputs, inputs, key) -> the scalar to train on. whole: the same over all nodes, at which alignment is
    measured. scores: (outputs, inputs) -> {name: scalar}, computed after every epoch.
    results: ({name: [epochs]}, outputs after the last, inputs) -> {name: number}.
    """

    definition: str
    inputs: Callable[[Graph, Architecture, int], Inputs]
    loss: Callable[[jax.Array, Inputs, jax.Array], jax.Array]
    whole: Callable[[jax.Array, Inputs, jax.Array], jax.Array]
    scores: Callable[[jax.Array, Inputs], Values]
    results: Callable[[Mapping[str, np.ndarray], np.ndarray, Inputs], dict[str, float]]


def node_classes(split: Callable[[Graph, int], Split] = splits.public) -> Task:
    """Classes of nodes from log-probabilities; test accuracy is that of the first epoch with the best validation."""

    def inputs(graph: Graph, architecture: Architecture, seed: int) -> Inputs:
        nodes = len(graph.labels)
        shares = [_shares(part, nodes) for part in (*split(graph, seed), np.arange(nodes))]
        names = "train", "validation", "test", "all"
        return _read(graph, graph.edges, architecture) | {
            "labels": jnp.asarray(graph.labels),
            "shares": dict(zip(names, shares, strict=True)),
        }

    def over(part: str) -> Callable[[jax.Array, Inputs, jax.Array], jax.Array]:
        def loss(outputs: jax.Array, inputs: Inputs, key: jax.Array) -> jax.Array:
            right = jnp.take_along_axis(outputs, inputs["labels"][:, None], axis=1)[:, 0]
            return -(inputs["shares"][part] * right).sum()

        return loss

    def scores(outputs: jax.Array, inputs: Inputs) -> Values:
        right = outputs.argmax(1) == inputs["labels"]
        return {part: (inputs["shares"][part] * right).sum() for part in ("validation", "test")}

    def results(history: Mapping[str, np.ndarray], outputs: np.ndarray, inputs: Inputs) -> dict[str, float]:
        best = int(history["validation"].round(6).argmax())
        accuracies = {f"{part}_accuracy": float(history[part][best]) for part in ("test", "validation")}
        return accuracies | {"best_epoch": best + 1}

    return Task(f"node_classes({split.__name__})", inputs, over("train"), over("all"), scores, results)


def links() -> Task:
    """Edges held out, from inner products of embeddings (Kipf & Welling 2016): AUC and average precision at the end.

    The loss is the mean cross-entropy of the edges plus that of as many pairs (and one more a node) drawn at each step,
    of which loops and edges to train on do not count. Raises UserError for a graph too large for 32-bit pairs.
    """

    def inputs(graph: Graph, architecture: Architecture, seed: int) -> Inputs:
        if len(graph.labels) > LARGEST:
            raise UserError(f"{graph.name}: {len(graph.labels):,} nodes, links are learnt of at most {LARGEST:,}")
        split = splits.held_out_edges(graph, seed)
        arrays = {name: jnp.asarray(pairs) for name, pairs in split._asdict().items()}
        return _read(graph, split.train, architecture) | arrays

    def loss(outputs: jax.Array, inputs: Inputs, key: jax.Array) -> jax.Array:
        nodes, edges = len(outputs), inputs["train"]
        pairs = jax.random.randint(key, (2, edges.shape[1] + nodes), 0, nodes)
        known, drawn = (pair[1] * nodes + pair[0] for pair in (edges, pairs))  # `known` ascends
        place = jnp.minimum(jnp.searchsorted(known, drawn), len(known) - 1)
        fair = (known[place] != drawn) & (pairs[0] != pairs[1])
        absent = jnp.where(fair, jax.nn.softplus(_products(outputs, pairs)), 0).sum() / fair.sum()
        return jax.nn.softplus(-_products(outputs, edges)).mean() + absent

    def results(history: Mapping[str, np.ndarray], outputs: np.ndarray, inputs: Inputs) -> dict[str, float]:
        logits = [np.asarray(_products(outputs, np.asarray(inputs[name]))) for name in ("test", "absent")]
        labels = np.concatenate([np.full(len(part), value) for part, value in zip(logits, (1, 0), strict=True)])
        whole = np.concatenate(logits)
        return {"test_auc": ranking.auc(whole, labels), "test_ap": ranking.average_precision(whole, labels)}

    return Task("links()", inputs, loss, loss, lambda outputs, inputs: {}, results)


def _read(graph: Graph, edges: np.ndarray, architecture: Architecture) -> Inputs:
    """What the network gets, with `edges` to propagate over."""
    operator = architecture.operator(edges, len(graph.labels))
    return {"features": sparse(architecture.features(graph.features)), "operator": operator}


def _shares(nodes: np.ndarray, count: int) -> jax.Array:
    """float32 [count]: 1 / n at each of n `nodes`, else 0."""
    shares = np.zeros(count, np.float32)
    shares[nodes] = 1 / max(len(nodes), 1)
    return jnp.asarray(shares)


def _products(outputs: Any, pairs: Any) -> Any:
    """[n]: inner products of the embeddings [N, C] of `pairs` [2, n]."""
    return (outputs[pairs[0]] * outputs[pairs[1]]).sum(-1)
