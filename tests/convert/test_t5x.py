"""Checkpoints in t5x's form, without t5x (tests/with_t5x opens them there)."""

import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.serialization import to_state_dict
from flax.traverse_util import flatten_dict

from pagnol_jax.convert import formats, t5x
from pagnol_jax.errors import UserError
from pagnol_jax.models import gpt, store
from pagnol_jax.models.config import GPTConfig
from pagnol_jax.train.checkpoint import Checkpoints
from pagnol_jax.train.load import load_state
from pagnol_jax.train.optimizer import adamw, warmup_cosine
from pagnol_jax.train.record import RunFolder
from pagnol_jax.train.step import State

CONFIG = GPTConfig(61, 2, 24, 3, max_length=7, vocab_multiple=8)


def params() -> store.Params:
    rng = np.random.default_rng(0)
    return store.unflatten({path: rng.random(shape, np.float32) for path, shape in store.shapes(CONFIG).items()})


def assert_same(found: store.Params, expected: store.Params) -> None:
    ours, theirs = flatten_dict(found), flatten_dict(expected)
    assert ours.keys() == theirs.keys()
    for path, array in theirs.items():
        np.testing.assert_array_equal(ours[path], array, err_msg=str(path))


def test_there_and_back_without_padding(tmp_path: Path) -> None:
    detail = t5x.write(tmp_path / "m", CONFIG, params(), "{}")
    assert detail == "checkpoint of step 0, without its optimiser"
    config, unpadded = gpt.unpadded(CONFIG, params())
    for source in (tmp_path / "m", tmp_path / "m" / "checkpoint_0"):
        assert formats.detect(source).title == "t5x"
        found, again, tokenizer = t5x.read(source)
        assert (found, tokenizer) == (config, "{}")
        assert again["token_embedding"]["embedding"].shape == (61, 24)
        assert_same(again, unpadded)


def test_the_newest_checkpoint_is_read(tmp_path: Path) -> None:
    t5x.write(tmp_path / "m", CONFIG, params(), None, t5x.Progress(9, {}))
    t5x.write(tmp_path / "other", CONFIG, jax.tree.map(lambda x: x + 1, params()), None, t5x.Progress(10, {}))
    shutil.move(tmp_path / "other" / "checkpoint_10", tmp_path / "m")
    assert t5x.read(tmp_path / "m")[1]["head"][0, 0] == params()["head"][0, 0] + 1
    assert t5x.read(tmp_path / "m" / "checkpoint_9")[1]["head"][0, 0] == params()["head"][0, 0]


def test_another_model_or_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    t5x.write(tmp_path / "m", CONFIG, params(), None)
    t5x.describe(tmp_path / "m", GPTConfig(61, 3, 24, 3, max_length=7), None)
    with pytest.raises(UserError, match="checkpoint_0") as error:
        t5x.read(tmp_path / "m")
    assert "\n" not in str(error.value)
    t5x.describe(tmp_path / "m", CONFIG, None)
    for file in (tmp_path / "m" / "checkpoint_0" / "state").rglob("d/*"):
        file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(UserError, match="not a whole checkpoint of this model") as error:
        t5x.read(tmp_path / "m")
    assert "\n" not in str(error.value)


def test_a_run_s_whole_state_has_flax_s_names(tmp_path: Path) -> None:
    """Tuples and named tuples of optax come out of the run's checkpoint as t5x writes them, array for array."""
    optimizer = adamw(warmup_cosine(1e-3, 2, 9)).transform
    weights = params()
    _, moments = optimizer.update(jax.tree.map(jnp.ones_like, weights), optimizer.init(weights), weights)
    folder = RunFolder(tmp_path / "run")
    (tmp_path / "tokenizer.json").write_text("{}")
    with folder.locked():
        folder.open({"model": CONFIG.to_json(), "total_steps": 3}, tmp_path / "tokenizer.json", config="")
    checkpoints = Checkpoints(folder.checkpoints)
    checkpoints.save(State(jnp.array(3, jnp.int32), jax.tree.map(jnp.asarray, weights), moments), {})
    checkpoints.wait()
    checkpoints.close()
    state = load_state(folder.path)
    assert (state.step, state.config) == (3, CONFIG)
    assert_same(state.params, weights)
    assert_same(state.optimizer, without_empty(to_state_dict(moments)))


def without_empty(tree: store.Params) -> store.Params:
    """As t5x stores an optax state."""
    return store.unflatten(flatten_dict(tree, sep="/"))
