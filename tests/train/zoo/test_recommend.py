"""Training of click models: what it learns, when it stops, that a kill changes nothing, and the published set-ups."""

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import gin
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pagnol_jax import dfa
from pagnol_jax.cli import gin_files
from pagnol_jax.data.zoo.planted import planted
from pagnol_jax.data.zoo.rows import Batches
from pagnol_jax.dfa import feedback, rules, silent
from pagnol_jax.dfa.gradient import meetings
from pagnol_jax.errors import UserError
from pagnol_jax.models.zoo import recommender
from pagnol_jax.train.zoo import recommend

FOLDER = Path(__file__).parents[3] / "gin" / "dfa" / "recommend"
LEAVES = sorted(path.stem for path in FOLDER.glob("*.gin") if path.stem not in ("base", "planted", "hashed", "sample"))
# Of the published networks: feedback points, width of the error's network's widest, parameters without any gradient.
PUBLISHED = {
    "deepfm_dfa": (4, 400, 0),
    "dcn_dfa": (9, 1648, 0),
    "autoint_dfa": (8, 1248, 0),
    "afn_dfa": (5, 15_000, 1),
    "afn_dfa_meant": (5, 15_000, 0),
}
DEEPFM = functools.partial(recommender.DeepFM, embed=4, mlp=(16,), dropout=0.2, linear_init=jax.nn.initializers.zeros)
DFA = rules.dfa(("mlp_input", "mlp/layer_0"), "mlp", silent.silent(feedback.uniform(), ("mlp_input",)))


DATA = planted(1_500, fields=4, values=4, pairs=3, triples=1, first=0.5, second=2, third=1)


@pytest.fixture(scope="module")
def net() -> recommend.Network:
    """One network for all runs here: compiled once."""
    return recommend.network(DEEPFM(sizes=DATA.sizes), DFA, recommend.adam(0.02), 0)


@pytest.fixture
def train(net: recommend.Network, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """(folder, data, model, **what changes) -> the results of a run."""
    monkeypatch.setattr(recommend, "network", lambda *_: net)
    settings = {
        "rule": DFA,
        "learning_rate": 0.02,
        "batch_size": 100,
        "checkpoint_every": 5,
        "log_every": 4,
        "epochs": 3,
    }
    return lambda folder, data=DATA, model=DEEPFM, **changed: recommend.train(
        str(folder), data, model, **settings | changed
    )


def test_dfa_learns_and_says_what_it_did(tmp_path: Path, train: Callable[..., dict[str, Any]]) -> None:
    results = train(tmp_path / "run", epochs=4)
    assert results["test_auc"] > 0.7
    assert results == json.loads((tmp_path / "run" / "results.json").read_text())
    assert set(results["alignment"]) == {"mlp/layer_0"}  # the silent point has no signal
    assert results["alignment"]["mlp/layer_0"]["rows"] == 512
    assert abs(results["alignment"]["mlp/layer_0"]["mean"]) > 0.01
    assert results["rows_per_second"] > 0
    with pytest.raises(UserError, match="another"):
        train(tmp_path / "run", learning_rate=0.01)
    with pytest.raises(UserError, match="another model"):
        train(tmp_path / "run", model=functools.partial(DEEPFM, linear_init=recommender.normal))


def test_a_killed_run_ends_as_one_that_was_not(
    tmp_path: Path, train: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(tmp_path / "whole")
    take = Batches.__call__

    def killed(self: Batches, step: int) -> Any:
        if step == 17:  # in the second epoch of twelve steps
            raise KeyboardInterrupt
        return take(self, step)

    with monkeypatch.context() as patched:
        patched.setattr(Batches, "__call__", killed)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "killed")
    resumed = train(tmp_path / "killed")
    assert resumed | {"rows_per_second": 0} == whole | {"rows_per_second": 0}


def test_the_best_epoch_is_kept_and_worse_ones_are_counted(net: recommend.Network) -> None:
    batches = Batches(DATA, 400, 0)  # three steps an epoch
    start = net.init(jax.random.key(0))
    good, found = recommend.evaluated(net, start.replace(step=jnp.int32(6)), batches)
    assert float(good.best.auc) == pytest.approx(found["auc"])
    zeros = jax.tree.map(jnp.zeros_like, good.params)
    worse = good.replace(params=zeros, step=jnp.int32(9), best=good.best.replace(auc=jnp.float32(0.9)))
    worse, _ = recommend.evaluated(net, worse, batches)
    assert (int(good.best.epoch), int(good.worse), int(worse.best.epoch), int(worse.worse)) == (2, 0, 2, 1)
    assert jax.tree.all(jax.tree.map(jnp.array_equal, worse.best.params, start.params))
    better, _ = recommend.evaluated(net, worse.replace(best=worse.best.replace(auc=jnp.float32(0.1))), batches)
    assert (int(better.best.epoch), int(better.worse)) == (3, 0)


def test_an_equal_auc_counts_as_better(net: recommend.Network, monkeypatch: pytest.MonkeyPatch) -> None:
    batches, state = Batches(DATA, 400, 0), net.init(jax.random.key(0))
    for area in (0.6, 0.7):  # of which float32 makes more, and less
        monkeypatch.setattr(recommend, "auc", lambda *_, area=area: area)
        for epoch in (1, 2):
            state, _ = recommend.evaluated(net, state.replace(step=jnp.int32(3 * epoch)), batches)
            assert (int(state.best.epoch), int(state.worse)) == (epoch, 0)


def test_initialisers_are_told_by_name(tmp_path: Path) -> None:
    """With their numbers, as a gin file gives them, and alike at every call."""
    parts = "from flax.linen import initializers", "from pagnol_jax.models.zoo import recommender"
    given = "initializers.normal.stddev = 0.1"
    for value, told in (("@initializers.zeros", "zeros"), ("@initializers.normal()", "normal.init(stddev=0.1)")):
        lines = "from __gin__ import dynamic_registration", *parts, given, f"recommender.FM.linear_init = {value}"
        (tmp_path / "x.gin").write_text("\n".join(lines))
        for _ in range(2):
            gin_files.parse([str(tmp_path / "x.gin")], [])
            assert recommend.described(gin_files.call(recommender.FM, sizes=(3, 2)))["linear_init"] == told
    scaled = functools.partial(jax.nn.initializers.normal, stddev=0.5)
    assert recommend.called(scaled) == "normal(stddev=0.5)"
    assert recommend.called(np.exp) == "exp"


def test_training_ends_when_validation_stops_improving(
    tmp_path: Path, train: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    areas = iter([0.6, 0.7, 0.65, 0.69, 0.71, 0.5, 0.1])
    monkeypatch.setattr(recommend, "auc", lambda *_: next(areas))
    results = train(tmp_path / "run", epochs=9, patience=2)
    assert (results["epochs"], results["best_epoch"], results["test_auc"]) == (4, 2, 0.71)


def test_scores_of_a_part_do_not_depend_on_the_batch(net: recommend.Network) -> None:
    state = net.init(jax.random.key(0))
    found = [recommend.scores(net, state, Batches(DATA, size, 0), "test") for size in (100, 64)]
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-5, atol=1e-6)
    assert found[0][1].tolist() == found[1][1].tolist()
    assert len(found[0][0]) == 150


def test_adam_clips_before_it_scales() -> None:
    gradients = {"w": jnp.array([3.0, 4.0])}
    optimizer = recommend.adam(0.1, clip_norm=1.0)
    _, state = jax.jit(lambda g: optimizer.update(g, optimizer.init(g)))(gradients)
    moment = optax.tree_utils.tree_get(state, "mu")  # a tenth of the gradient, of length 1 by then
    np.testing.assert_allclose(moment["w"], [0.06, 0.08], rtol=1e-5)


def test_counts_are_checked(tmp_path: Path, train: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(UserError, match="patience 0 is not a whole number above 0"):
        train(tmp_path / "run", patience=0)


def test_rows_of_one_class_are_told_before_training(tmp_path: Path, train: Callable[..., dict[str, Any]]) -> None:
    labels = DATA.labels.copy()
    labels[Batches(DATA, 100, 42).indexes("validation", np.arange(150))] = 1
    with pytest.raises(UserError, match="the 150 validation rows are all of one class: AUC needs both"):
        train(tmp_path / "run", data=DATA._replace(labels=labels))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("quiet", "said"),
    [
        (("mlp_input", "frist"), "no tap matches 'frist', which is to be silent: there are mlp/layer_0, mlp_input"),
        (("**",), r"all taps are silent \(mlp/layer_0, mlp_input\): none is left"),
    ],
)
def test_silent_taps_are_taps_and_not_all(quiet: tuple[str, ...], said: str) -> None:
    rule = rules.dfa(("mlp_input", "mlp/layer_0"), "mlp", silent.silent(feedback.uniform(), quiet))
    net = recommend.network(DEEPFM(sizes=DATA.sizes), rule, recommend.adam(0.02), 0)
    with pytest.raises(UserError, match=said):
        jax.eval_shape(net.init, jax.random.key(0))


@pytest.mark.parametrize("leaf", LEAVES)
def test_leaves_are_as_published(leaf: str) -> None:
    """Feedback points, their widths with 39 fields, and what learns: nothing is computed."""
    gin_files.parse([f"dfa/recommend/{leaf}.gin"], ["recommend.train.data = None"])
    bound = gin_files.bindings(recommend.train)
    module, rule = bound["model"](sizes=(3,) * 39), bound["rule"]
    net = recommend.network(module, rule, optax.identity(), 0)
    ids, labels = jnp.zeros((4, 39), jnp.int32), jnp.zeros(4)
    variables = jax.eval_shape(lambda key: module.init(key, ids, False), jax.random.key(0))
    args = variables["params"], variables.get("batch_stats", {}), ids, labels, jax.random.key(0)
    assert rule.name == ("dfa" if "dfa" in leaf else "shallow" if "shallow" in leaf else "backprop")
    (loss, _), grads = jax.eval_shape(with_matrices(net, rule), *args)
    assert loss.shape == ()
    assert jax.tree.structure(grads) == jax.tree.structure(variables["params"])
    if leaf in PUBLISHED:
        points, width, without = PUBLISHED[leaf]
        (meeting,) = meetings(net.loss, rule)(*args)
        heard = [tap.width for tap in meeting.taps if tap.path != "mlp_input"]
        assert (len(meeting.taps), max(heard), len(rule.without_gradient)) == (points, width, without)
        assert meeting.width == 1


def with_matrices(net: recommend.Network, rule: rules.Rule) -> Any:
    def gradient(*args: Any) -> Any:
        matrices = nn.unbox(dfa.init(net.loss, rule, jax.random.key(0))(*args))
        return dfa.value_and_grad(net.loss, rule, matrices, has_aux=True)(*args)

    return gradient


@pytest.mark.parametrize("data", ["planted", "hashed", "sample"])
@pytest.mark.parametrize("leaf", LEAVES)
def test_every_file_of_data_goes_with_every_leaf(leaf: str, data: str) -> None:
    gin_files.parse([f"dfa/recommend/{leaf}.gin", f"dfa/recommend/{data}.gin"], ["CRITEO = 'train.txt'"])
    bound = gin.get_bindings(gin.get_configurable(recommend.train), resolve_references=False)  # and no file read
    assert {"data", "model", "rule"} <= bound.keys()


@pytest.mark.slow
@pytest.mark.parametrize("leaf", LEAVES)
def test_every_leaf_runs(leaf: str, tmp_path: Path) -> None:
    small = ["planted.planted.count = 500", "BATCH_SIZE = 200", "EPOCHS = 1"]
    gin_files.parse([f"dfa/recommend/{leaf}.gin", "dfa/recommend/planted.gin"], small)
    results = gin_files.call(recommend.train, run_dir=str(tmp_path / "run"))
    assert results["epochs"] == 1
    assert 0 <= results["test_auc"] <= 1
