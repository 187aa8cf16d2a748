"""Splits of a graph: of its nodes, of its edges. Each is a pure function of the graph and a seed."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pagnol_jax.data.zoo.planetoid import Graph, Split, undirected
from pagnol_jax.errors import UserError


def public(graph: Graph, seed: int) -> Split:
    """The split that the data set comes with, whatever the seed."""
    return graph.public


def five_folds(graph: Graph, seed: int) -> Split:
    """Of five folds of all nodes, stratified by class, one to train on, one to validate and three to test on.

    The split of Fey 2019 (arXiv 1904.04849), of sizes equal to one node.
    """
    random = np.random.default_rng(seed)
    order = np.concatenate([random.permutation(np.flatnonzero(graph.labels == c)) for c in range(graph.classes)])
    folds = [np.sort(order[k::5]) for k in range(5)]  # dealt out class by class
    return Split(folds[0], folds[1], np.sort(np.concatenate(folds[2:])))


class EdgeSplit(NamedTuple):
    """Edges to train on, int32 [2, E] in both directions; pairs to test on, and as many that are no edges: [2, n].

    As train_test_split_edges of PyTorch Geometric makes them: 5 % of the undirected edges are held out to validate on,
    which nothing here does, 10 % to test on.
    """

    train: np.ndarray
    test: np.ndarray
    absent: np.ndarray


def held_out_edges(graph: Graph, seed: int) -> EdgeSplit:
    """The split of `graph` with `seed`. Raises UserError for a graph with too few edges, or pairs without one."""
    random = np.random.default_rng(seed)
    nodes = len(graph.labels)
    pairs = graph.edges[:, graph.edges[0] < graph.edges[1]]  # [2, P], each edge once
    count = pairs.shape[1]
    validation, test = int(0.05 * count), int(0.1 * count)
    if not validation or count > nodes * (nodes - 1) // 4:
        raise UserError(f"{graph.name}: {count:,} edges on {nodes:,} nodes cannot be split")
    pairs = pairs[:, random.permutation(count)]
    taken = set((pairs[0].astype(np.int64) * nodes + pairs[1]).tolist())
    absent: list[int] = []
    while len(absent) < test:
        low, high = np.sort(random.integers(nodes, size=2))
        code = int(low * nodes + high)
        if low < high and code not in taken:
            taken.add(code)
            absent.append(code)
    codes = np.array(absent)
    negatives = np.stack([codes // nodes, codes % nodes]).astype(np.int32)
    kept = undirected(pairs[:, validation + test :])
    return EdgeSplit(kept, pairs[:, validation : validation + test], negatives)
