"""Alignment of graph networks on Cora, measured plainly and as the authors' code does: where table A.2 differs, why.

    python -m benchmarks.dfa_graph_alignment [--seeds 3]

In the authors' geometric-learning/alignment.py the copy that is trained by backpropagation is never put into evaluation
mode, so its signals have dropout, and those of DFA have none. Networks, rules and data are those of gin/dfa/graph.
"""

from __future__ import annotations

import argparse
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pagnol_jax import dfa
from pagnol_jax.cli import gin_files
from pagnol_jax.dfa import rules
from pagnol_jax.train.zoo import graph, graph_programs

LEAVES = {"cheb_dfa": "0.87 (0.12)", "gcn_dfa": "0.77 (0.25)", "spline_dfa": "0.56 (0.22)", "gat_dfa": "0.63 (0.18)"}


def main() -> None:
    """Prints a row a network: alignment at conv1 plainly, with dropout in the copy, and the paper's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    seeds = range(parser.parse_args().seeds)
    print("| run | plainly | backpropagation with dropout | paper |\n|---|---|---|---|", flush=True)
    for leaf, paper in LEAVES.items():
        gin_files.parse([f"dfa/graph/{leaf}.gin"], [])
        bound = gin_files.bindings(graph.train)
        found = np.mean([_both(bound, seed) for seed in seeds], axis=0)  # [2, 2]: mean and deviation of either
        print(f"| {leaf} | " + " | ".join(f"{m:.2f} ({s:.2f})" for m, s in found) + f" | {paper} |", flush=True)


def _both(bound: dict[str, Any], seed: int) -> list[tuple[float, float]]:
    """Mean and deviation over nodes, without and with dropout in backpropagation's copy."""
    task, architecture, rule = bound["task"], bound["architecture"], bound["rule"]
    network, epochs = architecture.network(bound["graph"].classes), bound["epochs"]
    optimizer = graph.adam(bound["learning_rate"], bound["decay"])
    run = graph_programs.build(network, task, rule, optimizer, (), epochs)
    inputs = task.inputs(bound["graph"], architecture, seed)
    state, _ = jax.jit(run.advance)(jax.jit(run.start)(jax.random.key(seed), inputs), inputs)

    def whole(params: Any, inputs: Any, train: bool) -> jax.Array:
        operands, rngs = (inputs["features"], inputs["operator"]), {"dropout": jax.random.key(seed + 1000)}
        return task.whole(network.apply({"params": params}, *operands, train=train, rngs=rngs), inputs, state.key)

    def signals(rule: rules.Rule, train: bool) -> jax.Array:
        loss = lambda params, inputs: whole(params, inputs, train)  # noqa: E731
        return dfa.signals(loss, rule, state.matrices, ("conv1",))(state.params, inputs)["conv1"]

    ours = signals(rule, False)
    return [_cosines(ours, signals(rules.backprop(), train)) for train in (False, True)]


def _cosines(a: jax.Array, b: jax.Array) -> tuple[float, float]:
    """Mean and deviation over nodes whose signals [N, D] are not zero."""
    lengths = jnp.linalg.norm(a, axis=1) * jnp.linalg.norm(b, axis=1)
    cosines = np.asarray((a * b).sum(1) / lengths)[np.asarray(lengths) > 0]
    return float(cosines.mean()), float(cosines.std())


if __name__ == "__main__":
    main()
