"""`python -m t5x.train` on our mixture, and its checkpoints here and back. Processes of their own, as a user's are."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gin
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.serialization import to_state_dict
from flax.traverse_util import flatten_dict
from tiny_run import ROOT, Tiny

pytest.importorskip("t5x.train")

from t5x import utils
from with_t5x.setting import Setting, some_batch

from pagnol_jax.cli.main import main
from pagnol_jax.models import gpt, store
from pagnol_jax.models.masks import Mask
from pagnol_jax.train.checkpoint import Checkpoints
from pagnol_jax.train.optimizer import adamw
from pagnol_jax.train.record import RunFolder
from pagnol_jax.train.step import State


def command(tiny: Tiny, file: Path, model_dir: Path, *more: str) -> dict[tuple[int, str], float]:
    """Runs t5x.train; {(step, collection): loss} from its log."""
    arguments = ["-m", "t5x.train", f"--gin_file={file}", f"--gin.MODEL_DIR='{model_dir}'", *more]
    environment = os.environ | {"PAGNOL_CACHE": str(tiny.folder / "cache")}
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = re.findall(r"\[(\d+)\] collection=(\S+) .*?loss=([\d.]+)", done.stderr)
    return {(int(step), collection): float(loss) for step, collection, loss in found}


@pytest.fixture(scope="module")
def trained(tiny: Tiny, t5x_gin: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    model_dir = tmp_path_factory.mktemp("t5x") / "model"
    return model_dir, command(tiny, t5x_gin, model_dir)


def restored(tiny: Tiny, s: Setting, checkpoint: Path) -> Any:
    """The state of a checkpoint, as t5x.train restores it."""
    config = utils.RestoreCheckpointConfig(path=str(checkpoint), mode="specific")
    state, _ = utils.create_checkpoint_manager_and_restore(
        s.initial, s.partitioner, config, str(checkpoint), None, model_dir=str(checkpoint.parent), use_orbax=True
    )
    return state


def test_it_trains_on_eight_devices(trained: tuple[Path, dict]) -> None:
    model_dir, losses = trained
    assert losses[20, "train"] < losses[10, "train"] < 5.7
    held_out = {step: loss for (step, name), loss in losses.items() if name == "training_eval/files_windows"}
    assert held_out[20] < held_out[10]
    assert sorted(path.name for path in model_dir.glob("checkpoint_*")) == [
        "checkpoint_0",
        "checkpoint_10",
        "checkpoint_20",
    ]


def test_it_goes_on(trained: tuple[Path, dict], tiny: Tiny, t5x_gin: Path) -> None:
    model_dir, before = trained
    losses = command(tiny, t5x_gin, model_dir, "--gin.TOTAL_STEPS=30")
    assert min(step for step, _ in losses) == 30
    assert losses[30, "train"] < before[20, "train"]


def test_its_checkpoint_opens_here_with_equal_logits(
    trained: tuple[Path, dict], tiny: Tiny, t5x_gin: Path, parse: Callable, tmp_path: Path
) -> None:
    model_dir, _ = trained
    checkpoint = model_dir / "checkpoint_20"
    assert main(["convert", str(checkpoint), str(tmp_path / "ours"), "--to", "pagnol"]) == 0
    config, params, tokenizer = store.load(tmp_path / "ours")
    assert tokenizer
    assert tokenizer.read_bytes() == (model_dir / "tokenizer.json").read_bytes()
    parse(t5x_gin)
    s = Setting.from_gin(8, 32)
    assert s.model.config == config
    state = restored(tiny, s, checkpoint)
    batch, theirs = some_batch()
    axes = (s.initial.train_state_axes.params, s.partitioner.data_partition_spec)
    logits = s.partitioner.partition(s.model._compute_logits, axes, None)(state.params, theirs)
    features, head, _ = gpt.features(
        config, params, *map(jnp.asarray, (batch.inputs, batch.positions)), Mask(jnp.asarray(batch.segment_ids))
    )
    np.testing.assert_allclose(logits, gpt.project(features, head), rtol=1e-4, atol=1e-5)


def test_a_run_of_ours_opens_in_t5x_whole(tiny: Tiny, t5x_gin: Path, parse: Callable, tmp_path: Path) -> None:
    """Parameters, moments, counts and step, bit for bit, on t5x's own mesh; so its next step is our next step."""
    parse(t5x_gin)
    s = Setting.from_gin(8, 32)
    config, transform = s.model.config, gin.get_configurable(adamw)().transform
    params = store.unflatten({k: jax.random.normal(jax.random.key(0), x) for k, x in store.shapes(config).items()})
    _, moments = transform.update(jax.tree.map(jnp.cos, params), transform.init(params), params)
    folder = RunFolder(tmp_path / "run")
    with folder.locked():
        tokenizer = next((tiny.folder / "cache").rglob("tokenizer.json"))
        folder.open({"model": config.to_json(), "total_steps": 9}, tokenizer, config="")
    checkpoints = Checkpoints(folder.checkpoints)
    checkpoints.save(State(jnp.array(7, jnp.int32), params, moments), {})
    checkpoints.close()
    assert main(["convert", str(folder.path), str(tmp_path / "t5x"), "--to", "t5x"]) == 0
    state = restored(tiny, s, tmp_path / "t5x" / "checkpoint_7")
    assert int(state.step) == 7
    found = flatten_dict(to_state_dict((state.params.unfreeze(), state.param_states)), sep="/")
    wanted = flatten_dict(to_state_dict((params, moments)), sep="/")
    assert found.keys() == wanted.keys()
    for path, array in wanted.items():
        np.testing.assert_array_equal(found[path], array, err_msg=path)


def test_weights_start_a_run_in_t5x(trained: tuple[Path, dict], tiny: Tiny, t5x_gin: Path, tmp_path: Path) -> None:
    """gin/t5x/from_weights.gin: parameters without an optimiser, step 0, a loss that starts where the weights are."""
    model_dir, before = trained
    for source, dest, to in ((model_dir / "checkpoint_20", "ours", "pagnol"), (tmp_path / "ours", "weights", "t5x")):
        assert main(["convert", str(source), str(tmp_path / dest), "--to", to]) == 0
    more = ("--gin_file=gin/t5x/from_weights.gin", f"--gin.WEIGHTS='{tmp_path}/weights/checkpoint_0'")
    losses = command(tiny, t5x_gin, tmp_path / "new", *more, "--gin.TOTAL_STEPS=10")
    assert losses[10, "train"] < before[20, "train"] < before[10, "train"]
