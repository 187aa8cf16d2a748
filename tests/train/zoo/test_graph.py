"""Training of graph networks: gradients against torch, what a rule moves, kills, the published set-ups."""

from __future__ import annotations

import fnmatch
import os
import signal
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from data.zoo.planetoid_files import write
from flax.traverse_util import flatten_dict
from models.zoo import torch_graph

from pagnol_jax import dfa
from pagnol_jax.cli import gin_files, ladder
from pagnol_jax.data.zoo import planetoid
from pagnol_jax.dfa import rules
from pagnol_jax.errors import Stopped, UserError
from pagnol_jax.models.zoo import graph as networks
from pagnol_jax.train.zoo import graph, graph_programs, graph_results, graph_tasks

FOLDER = gin_files.SEARCH_PATH[0] / "dfa" / "graph"
LEAVES = sorted(path.stem for path in FOLDER.glob("*.gin") if path.stem not in ("base", "table"))
DFA = rules.dfa(("drop",), "conv2")


# Shape of the feedback matrix of a published set-up, for three classes.
FEEDBACK = {
    name: [(3, width)] for name, width in {"cheb_dfa": 16, "gcn_dfa": 16, "spline_dfa": 16, "gat_dfa": 64}.items()
}
FEEDBACK |= {"dna_dfa": [(3, 128)], "dna_dfa_meant": [(3, 128)], "autoencoder_dfa": [(16, 32)]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the toy data set."""
    folder = tmp_path_factory.mktemp("toy")
    write(folder)
    return folder


@pytest.fixture(scope="module")
def toy(folder: Path) -> planetoid.Graph:
    return planetoid.load("toy", str(folder))


def ours(architecture: networks.Architecture, data: planetoid.Graph, rule: rules.Rule) -> tuple[Any, Any, np.ndarray]:
    """Parameters, their gradients, and the feedback matrix scaled as it is used."""
    task, network = graph_tasks.node_classes(), architecture.network(data.classes)
    inputs = task.inputs(data, architecture, 0)

    def loss(params: Any, inputs: Any) -> jax.Array:
        out = network.apply({"params": params}, inputs["features"], inputs["operator"], train=False)
        return task.loss(out, inputs, jax.random.key(0))  # type: ignore[arg-type]

    params = jax.jit(network.init)(jax.random.key(0), inputs["features"], inputs["operator"])["params"]
    matrices = nn.unbox(dfa.init(loss, rule, jax.random.key(1))(params, inputs))
    grads = jax.jit(dfa.value_and_grad(loss, rule, matrices))(params, inputs)[1]
    (matrix,) = (np.asarray(leaf) for leaf in jax.tree.leaves(matrices))
    return params, grads, matrix / matrix.shape[1] ** 0.5


def leaves(tree: Any) -> Any:
    return jax.tree.map(lambda x: torch.tensor(np.asarray(x), requires_grad=True), tree)


def onehot_error(log_p: torch.Tensor, data: planetoid.Graph) -> torch.Tensor:
    """The derivative of the mean loss by the logits: softmax less target on training nodes, zero elsewhere."""
    target = torch.nn.functional.one_hot(torch.tensor(data.labels).long(), data.classes)
    error = torch.zeros_like(log_p)
    train = torch.tensor(data.public.train)
    error[train] = (log_p.exp() - target)[train] / len(train)
    return error


def assert_same(ours: Any, theirs: Any, tolerance: float = 1e-5) -> None:
    """Within `tolerance` of the largest entry, leaf by leaf."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(ours):
        twin = theirs
        for key in path:
            twin = twin[key.key]
        assert np.abs(leaf - twin.numpy()).max() <= tolerance * np.abs(twin.numpy()).max(), path


def test_gcn_gradients_are_the_rule_s_on_cora(data_dir: Path) -> None:
    """dW_1 = X^T A^T ((e B) * f'), with e of the logits; dW_2 is the true gradient."""
    data = planetoid.load("cora", str(data_dir / "graphs/cora"))
    params, grads, matrix = ours(networks.gcn(dropout=0.0), data, DFA)
    p = leaves(params)
    features = torch.tensor(networks.rows_of_sum_one(data.features).toarray())
    edges = torch.tensor(data.edges.astype(np.int64))
    h = torch_graph.gcn(features, edges, p["conv1"]).relu()
    logits = torch_graph.gcn(h.detach(), edges, p["conv2"])
    error = onehot_error(logits.detach().log_softmax(-1), data)
    torch.autograd.backward([h, logits], [error @ torch.tensor(matrix), error])
    assert_same(grads, {name: {k: v.grad for k, v in p[name].items()} for name in p})
    assert matrix.shape == (7, 16)


@pytest.mark.parametrize(("error", "layers"), [("last", 2), ("out", 1)])
def test_dna_gradients_are_the_rule_s(toy: planetoid.Graph, error: str, layers: int) -> None:
    """Every layer learns from its own feedback, all before it constant; at `out`, published, e is the target alone."""
    rule = rules.dfa(("act", "act_?"), error)
    params, grads, matrix = ours(networks.dna(32, layers, 0.0, 0.0), toy, rule)
    p = leaves(params)
    edges = torch.tensor(toy.edges.astype(np.int64))
    features = torch.tensor(toy.features.toarray())
    taps = [(features @ p["first"]["kernel"] + p["first"]["bias"]).relu()]
    for layer in range(1, layers + 1):
        past = torch.stack([tap.detach() for tap in taps], 1)
        taps.append(torch_graph.dna(past, edges, p[f"conv_{layer}"]).relu())
    logits = taps[-1].detach() @ p["last"]["kernel"] + p["last"]["bias"]
    at_logits = onehot_error(logits.detach().log_softmax(-1), toy)
    target = torch.nn.functional.one_hot(torch.tensor(toy.labels).long(), 3) * (at_logits != 0).any(1, keepdim=True)
    sent = at_logits if error == "last" else -target / len(toy.public.train)
    torch.autograd.backward([*taps, logits], [*[sent @ torch.tensor(matrix)] * len(taps), at_logits])
    theirs = {k: {n: _grads(v) for n, v in p[k].items()} for k in p}
    assert_same(grads, theirs)


def _grads(tree: Any) -> Any:
    return {k: v.grad for k, v in tree.items()} if isinstance(tree, dict) else tree.grad


@pytest.mark.parametrize(("rule", "still"), [(rules.shallow(("drop",)), {"conv1"}), (DFA, set())])
def test_shallow_moves_the_last_convolution_alone(toy: planetoid.Graph, rule: rules.Rule, still: set[str]) -> None:
    architecture, task = networks.gcn(dropout=0.1), graph_tasks.node_classes()
    inputs = task.inputs(toy, architecture, 0)
    optimizer = graph.adam(0.01, {})
    run = graph_programs.build(architecture.network(3), task, rule, optimizer, (), 1)
    before, after = jax.jit(lambda s: (s, run.advance(s, inputs)[0]))(run.start(jax.random.key(0), inputs))
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), before.params, after.params)
    assert {name for name, parameters in moved.items() if not any(parameters.values())} == still


def test_decay_is_added_to_the_gradient_of_what_it_names() -> None:
    """L2 as torch's Adam has it: where the loss has no slope, the sign of the parameter alone moves it."""
    params = {"conv1": {"kernel": jnp.array([2.0, -3.0])}, "conv2": {"kernel": jnp.array([2.0])}}
    adam = graph.adam(0.1, {"conv1/*": 0.5})
    updates, _ = adam.update(jax.tree.map(jnp.zeros_like, params), adam.init(params), params)
    np.testing.assert_allclose(updates["conv1"]["kernel"], [-0.1, 0.1], rtol=1e-4)
    np.testing.assert_array_equal(updates["conv2"]["kernel"], 0)


def test_link_loss_counts_neither_loops_nor_edges_among_the_absent() -> None:
    """Nodes 0 and 1 are joined, 2 is far from both: pairs that are rightly drawn cost nothing, all others much."""
    outputs = jnp.array([[10.0], [10.0], [-10.0]])
    inputs = {"train": jnp.array([[1, 0], [0, 1]])}
    loss = jax.jit(graph_tasks.links().loss)
    for seed in range(5):
        assert loss(outputs, inputs, jax.random.key(seed)) < 1e-6
    np.testing.assert_allclose(
        graph_tasks.links().loss(0 * outputs, inputs, jax.random.key(0)), 2 * np.log(2), rtol=1e-6
    )


def train(folder: Path, toy: planetoid.Graph, seeds: int, **changes: Any) -> graph.Results:
    settings: dict[str, Any] = {
        "architecture": networks.gcn(dropout=0.1),
        "task": graph_tasks.node_classes(),
        "rule": DFA,
        "learning_rate": 0.02,
        "decay": {"conv1/*": 1e-4},
        "epochs": 40,
        "measure": ("conv1",),
        "paper": {"toy": {"test_accuracy": 0.9, "alignment": (0.5, 0.1)}},
    }
    return graph.train(folder, toy, seeds=seeds, **settings | changes)


def timeless(lines: graph.Results) -> graph.Results:
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def test_a_killed_run_is_completed_by_the_same_command(toy: planetoid.Graph, tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", toy, 3)
    assert [line["seed"] for line in whole] == [0, 1, 2]
    assert all(line["test_accuracy"] > 0.5 for line in whole)  # of three classes
    assert len({line["loss"] for line in whole}) == 3
    assert all(0 < line["alignment"]["conv1"]["counted"] <= 60 for line in whole)
    path = tmp_path / "killed" / "results.jsonl"
    path.parent.mkdir()
    lines = (tmp_path / "whole" / "results.jsonl").read_text().splitlines(keepends=True)
    path.write_text(lines[0] + lines[1][:20])  # the second was being written
    assert timeless(train(tmp_path / "killed", toy, 3)) == timeless(whole)
    assert path.read_text().count("\n") == 3
    told = graph_results.table(tmp_path, ["whole", "killed", "none"])
    assert told.count("| test accuracy | 3 |") == 2
    assert "| 90.0 |" in told
    assert "| conv1 |" in told
    with pytest.raises(UserError, match="holds a run with another learning_rate; name another folder"):
        train(tmp_path / "whole", toy, 3, learning_rate=0.03)
    path.write_text("{}\n")
    with pytest.raises(UserError, match=r"results.jsonl is damaged: 'seed'"):
        train(tmp_path / "killed", toy, 3)


def test_a_signal_keeps_the_finished_seeds(
    toy: planetoid.Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    task = graph_tasks.node_classes()

    def inputs(data: planetoid.Graph, architecture: networks.Architecture, seed: int) -> graph_tasks.Inputs:
        if seed == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return task.inputs(data, architecture, seed)

    with pytest.raises(Stopped, match="SIGINT: finished seeds are kept; the same command goes on from it"):
        train(tmp_path, toy, 3, task=task._replace(inputs=inputs), measure=())
    assert 1 <= len(graph.read_results(tmp_path)) < 3


def test_seeds_that_diverge_lose_no_other(
    toy: planetoid.Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    task = graph_tasks.node_classes()

    def inputs(data: planetoid.Graph, architecture: networks.Architecture, seed: int) -> graph_tasks.Inputs:
        found = task.inputs(data, architecture, seed)
        shares = {name: share / (seed % 2 == 0) for name, share in found["shares"].items()}  # infinite of odd seeds
        return found | {"shares": shares}

    with pytest.raises(UserError, match=r"seed [13]: the loss is not finite"):
        train(tmp_path, toy, 5, task=task._replace(inputs=inputs), measure=(), epochs=2)
    assert [line["seed"] for line in graph.read_results(tmp_path)] == [0, 2, 4]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"epochs": 0}, "epochs 0 is not a whole number above 0"),
        ({"rule": rules.dfa(("nothing",), "conv2")}, "nothing"),
        ({"learning_rate": 1e38, "epochs": 20}, "the loss is not finite before epoch"),
    ],
)
def test_bad_settings_are_told_in_a_line(toy: planetoid.Graph, tmp_path: Path, changes: dict, said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        train(tmp_path, toy, 1, measure=(), **changes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("leaf", LEAVES)
def test_gin_files_are_the_published_set_ups(leaf: str, folder: Path) -> None:
    """Each traces whole, its patterns match, the feedback is as wide as published, and the paper's are our results."""
    small = ["networks.dna.layers=1"] if leaf.startswith("dna") else []
    gin_files.parse([f"dfa/graph/{leaf}.gin"], [f"FOLDER={str(folder)!r}", "GRAPH='toy'", *small])
    bound = gin_files.bindings(graph.train)
    task, architecture, rule = bound["task"], bound["architecture"], bound["rule"]
    adam, measure = graph.adam(bound["learning_rate"], bound["decay"]), bound.get("measure", ())
    run = graph_programs.build(architecture.network(3), task, rule, adam, measure, 2)
    inputs = task.inputs(bound["graph"], architecture, 0)
    state = jax.eval_shape(run.start, jax.random.key(0), inputs)
    jax.eval_shape(run.advance, state, inputs)
    out, _, aligned = jax.eval_shape(run.finish, state, inputs)
    assert [m.shape for m in jax.tree.leaves(state.matrices)] == FEEDBACK.get(leaf, [])
    assert bool(aligned) == (rule.name == "dfa")
    assert all(fnmatch.filter(flatten_dict(state.params, sep="/"), pattern) for pattern in bound["decay"])
    results = {"test_auc", "test_ap"} if out.shape[1] == 16 else {"test_accuracy"}
    assert {key for paper in bound["paper"].values() for key in paper} <= results | {"alignment"}


def test_the_table_names_every_leaf() -> None:
    named = ladder.runs_of(["dfa/graph/table.gin"], ["SEEDS=1"])
    assert sorted(named) == LEAVES
    assert all(files[1] == f"dfa/graph/{name}.gin" for name, (files, _) in named.items())
