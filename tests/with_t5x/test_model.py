"""t5x's view of the model, its loss and its sharding, against ours."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gin
import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

pytest.importorskip("t5x.train")

from t5x import trainer, utils
from with_t5x.setting import Setting, some_batch

from pagnol_jax.cli.gin_files import SEARCH_PATH
from pagnol_jax.data.bpe import train_bpe
from pagnol_jax.errors import UserError
from pagnol_jax.models import positions, store
from pagnol_jax.models.config import GPTConfig
from pagnol_jax.sharding import rules
from pagnol_jax.train.optimizer import adamw
from pagnol_jax.train.run import train as our_train
from pagnol_jax.train.step import make_steps
from pagnol_jax.with_t5x.model import GPTModel

SIZES = sorted(path.name for path in (SEARCH_PATH[0] / "t5x").glob("pagnol_*.gin"))
Parse = Callable[..., None]


@pytest.fixture
def tiny_setting(parse: Parse, t5x_gin: Path) -> Callable[..., Setting]:
    def make(*bindings: str) -> Setting:
        parse(t5x_gin, bindings=bindings)
        return Setting.from_gin(8, 32)

    return make


@pytest.mark.parametrize("microbatches", [1, 2])
def test_a_step_is_ours(tiny_setting: Callable[..., Setting], microbatches: int) -> None:
    """Loss, gradients, clipping, decay and schedule: the parameters after one update of t5x and of `make_steps`."""
    s = tiny_setting("GPTModel.z_loss = 0.01", f"MICROBATCHES = {microbatches}")
    ours, theirs = some_batch()
    learn = gin.get_configurable(trainer.Trainer)(
        model=s.model,
        train_state=s.initial.from_scratch(jax.random.PRNGKey(0)),
        partitioner=s.partitioner,
        eval_names=[],
        summary_dir=None,
        train_state_axes=s.initial.train_state_axes,
        rng=jax.random.PRNGKey(1),
    )
    optimizer = gin.get_configurable(adamw)()
    steps = make_steps(s.model.config, optimizer, s.partitioner.mesh, z_loss=0.01)
    params = jax.device_get(learn.train_state.params.unfreeze())
    new, metrics = learn._partitioned_train_step(learn.train_state, theirs)
    with jax.set_mesh(s.partitioner.mesh):
        state = steps.init(jax.random.key(0))
        state = state.replace(params=jax.tree.map(lambda x, y: jax.device_put(x, y.sharding), params, state.params))
        expected, told = steps.train(state, ours)
    assert int(new.step) == int(expected.step) == 1
    assert metrics["loss"].compute() == pytest.approx(float(told.loss), rel=1e-5)
    assert metrics["z_loss"].compute() == pytest.approx(float(told.z_loss), rel=1e-5)
    assert metrics["learning_rate"].compute() == pytest.approx(float(optimizer.schedule(0)))
    mean, wanted_mean = flatten_dict(new.param_states[1][0].mu.unfreeze()), flatten_dict(expected.optimizer[1][0].mu)
    found, wanted = flatten_dict(new.params.unfreeze()), flatten_dict(expected.params)
    assert found.keys() == mean.keys() == wanted.keys()
    for path in wanted:
        np.testing.assert_allclose(mean[path], wanted_mean[path], rtol=1e-3, atol=1e-7, err_msg=str(path))
        told_apart = np.abs(mean[path]) > 1e-5  # Adam's first step makes a sign of any gradient, be it rounding alone
        np.testing.assert_allclose(found[path][told_apart], wanted[path][told_apart], rtol=1e-3, atol=1e-5)


def test_states_are_sharded_by_our_table(tiny_setting: Callable[..., Setting]) -> None:
    """Parameters and both moments; and the constraints inside the model reach the program."""
    s = tiny_setting()
    steps = make_steps(s.model.config, gin.get_configurable(adamw)(), s.partitioner.mesh)
    wanted = {k: x.sharding.spec for k, x in flatten_dict(steps.abstract_state.params).items()}
    axes = s.initial.train_state_axes
    assert flatten_dict(axes.params.unfreeze()) == wanted
    adam = axes.param_states[1][0]
    assert flatten_dict(adam.mu.unfreeze()) == flatten_dict(adam.nu.unfreeze()) == wanted
    assert any("tensor" in spec for spec in wanted.values())
    assert s.partitioner.logical_axis_rules == tuple(rules.RULES.items())
    assert s.partitioner.data_partition_spec == jax.sharding.PartitionSpec(("data", "fsdp"))
    score = s.partitioner.partition(s.model.score_batch, (axes.params, s.partitioner.data_partition_spec), None)
    params = s.initial.global_train_state_shape.params
    assert score.lower(params, some_batch()[1]).as_text().count("sharding_constraint") >= s.model.config.num_layers


def test_scores_are_minus_the_loss(tiny_setting: Callable[..., Setting]) -> None:
    s = tiny_setting()
    params = s.initial.from_scratch(jax.random.PRNGKey(0)).params
    _, batch = some_batch()
    loss, metrics = s.model.eval_fn(params, batch)
    scores = s.model.score_batch(params, batch)
    assert scores.shape == (8,)
    assert -scores.sum() / batch["decoder_loss_weights"].sum() == pytest.approx(float(loss), rel=1e-5)
    assert metrics["loss"].compute() == pytest.approx(float(loss), rel=1e-5)


def test_what_it_refuses(tiny_setting: Callable[..., Setting]) -> None:
    s = tiny_setting()
    s.model.config = dataclasses.replace(s.model.config, position=positions.learned())
    with pytest.raises(UserError, match="windows of 64 tokens, but the model learns 32 positions"):
        s.model.get_initial_variables(jax.random.PRNGKey(0), {"decoder_input_tokens": (4, 64)})
    with pytest.raises(UserError, match="pagnol generate"):
        s.model.predict_batch({}, {})


@pytest.mark.parametrize("file", SIZES)
def test_pagnol_sizes_parse_and_have_our_shapes(
    file: str, parse: Parse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gin/t5x/pagnol_*.gin, with the numbers of the run of the same name (and a small vocabulary, for its corpus)."""
    train_bpe(["une fée"], 262).save(tmp_path / "tokenizer.json")
    for module in ("model", "tasks"):
        monkeypatch.setattr(f"pagnol_jax.with_t5x.{module}.tokenizer_file", lambda _: tmp_path / "tokenizer.json")
    parse(f"t5x/{file}")
    value: Callable[[str], Any] = gin.query_parameter
    assert value(f"{GPTModel.__module__}.GPTModel.z_loss") == value(f"{our_train.__module__}.train.z_loss")
    with gin.config_scope("train"):
        data = gin.get_configurable(utils.DatasetConfig)()
    assert data.mixture_or_task_name == "wiki40b_fr_windows"
    length = data.task_feature_lengths["targets"]
    assert data.batch_size * length * value("TOTAL_STEPS/macro.value") == pytest.approx(30e9, rel=1e-3)
    s = Setting.from_gin(data.batch_size, length)
    config = gin.get_configurable(GPTConfig)(vocab_size=262)
    params = s.initial.global_train_state_shape.params
    assert {k: x.shape for k, x in flatten_dict(params.unfreeze(), sep="/").items()} == store.shapes(config)
