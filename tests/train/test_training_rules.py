"""Training rules in the training step and the run: meshes, accumulation, checkpoints, gin files."""

import functools
from pathlib import Path

import jax
import numpy as np
import pytest
from data.toy_cache import toy_documents, write_cache
from train.test_step import MODEL, batch, remember

from pagnol_jax.cli import gin_files
from pagnol_jax.data.batches import MixtureBatches
from pagnol_jax.dfa import feedback, rules
from pagnol_jax.errors import UserError
from pagnol_jax.sharding import mesh as meshes
from pagnol_jax.tpu.compile import STEP
from pagnol_jax.train import run
from pagnol_jax.train.step import logits_loss, make_steps

MICRO = ("blocks", "blocks/attended", "blocks/mlp/hidden")
RULES = {
    "micro": rules.dfa(MICRO, "final_norm"),
    "gaussian": rules.dfa(("dropout", "blocks"), "final_norm", feedback.gaussian()),
}


@functools.cache
def one_step(name: str, sizes: tuple[int, ...], microbatches: int = 1):
    mesh = meshes.make_mesh(*sizes, devices=jax.devices()[: int(np.prod(sizes))])
    steps = make_steps(MODEL, remember(), mesh, rule=RULES[name], microbatches=microbatches)
    # Of which the first microbatch is the batch.
    rows = jax.tree.map(lambda x: np.stack([x, *[0 * x] * (microbatches - 1)], 1).reshape(-1, x.shape[1]), batch())
    with jax.set_mesh(mesh):
        state = steps.init(jax.random.key(0))
        placed = jax.tree.map(lambda x: x.sharding.spec, state.feedback)
        watched = steps.watch(state, jax.device_put(rows, steps.batch_sharding))
        state, metrics = steps.train(state, jax.device_put(batch(), steps.batch_sharding))
    return jax.device_get((metrics, state.optimizer[0].trace, watched)), placed


MESH, PARTS = ((2, 2, 2, 1), 1), ((1, 1, 1, 1), 2)


@pytest.mark.parametrize(
    ("name", "sizes", "microbatches"),
    [
        ("gaussian", *MESH),
        ("micro", *PARTS),
        pytest.param("micro", *MESH, marks=pytest.mark.slow),
        pytest.param("gaussian", *PARTS, marks=pytest.mark.slow),
    ],
)
def test_meshes_and_accumulation_change_nothing(name: str, sizes: tuple[int, ...], microbatches: int) -> None:
    expected, found = one_step(name, (1, 1, 1, 1))[0], one_step(name, sizes, microbatches)[0]
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    for a, b in zip(jax.tree.leaves(found[1:]), jax.tree.leaves(expected[1:]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max() + 1e-8)


def test_feedback_matrices_are_split_over_the_mesh() -> None:
    specs = jax.tree.leaves(one_step("gaussian", (2, 2, 2, 1))[1], is_leaf=lambda x: isinstance(x, jax.P))
    assert all("fsdp" in spec for spec in specs)


def test_all_logits_at_once_give_the_loss_in_chunks() -> None:
    mesh = meshes.make_mesh(devices=jax.devices()[:1])
    with jax.set_mesh(mesh):
        grads = []
        for options in ({}, {"batch_loss": logits_loss}):
            steps = make_steps(MODEL, remember(), mesh, z_loss=1e-3, **options)
            state, metrics = steps.train(steps.init(jax.random.key(0)), jax.device_put(batch(), steps.batch_sharding))
            grads.append(jax.device_get((metrics, state.optimizer[0].trace)))
    for a, b in zip(*map(jax.tree.leaves, grads), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.fixture
def toy_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the mixture, batches come from a toy cache."""
    cache = write_cache(tmp_path / "cache", toy_documents())
    rates = {"a": 1.0, "b": 1.0}
    monkeypatch.setattr(run, "open_batches", lambda mixture, **sizes: MixtureBatches(cache, rates, **sizes))


SMALL = ["BATCH_SIZE=8", "LENGTH=16", "WARMUP_STEPS=1", "config.GPTConfig.unroll=1", "config.GPTConfig.num_layers=2"]
SMALL += ["config.GPTConfig.d_model=32", "config.GPTConfig.num_heads=1"]
QUICK = ("micro", "logits", "plateau", "shallow", "frozen")
NAMES = [path.stem for path in (gin_files.SEARCH_PATH[0] / "dfa/gpt").glob("*.gin") if path.stem != "study"]


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in sorted(NAMES)])
def test_every_rule_of_the_gin_files_trains_two_steps(name: str) -> None:
    gin_files.parse(["runs/demo.gin", f"dfa/gpt/{name}.gin"], [*SMALL, "TOTAL_STEPS=2"])
    bindings = gin_files.bindings(run.train)
    built = run.build(64, jax.devices()[:1], **{key: bindings[key] for key in STEP if key in bindings})
    steps = built.steps
    with jax.set_mesh(built.mesh):
        state, tokens = steps.init(jax.random.key(0)), jax.device_put(batch(), steps.batch_sharding)
        before = jax.device_get(state.params)
        for _ in range(2):
            state, metrics = steps.train(state, tokens)
        watched = {key.split("/")[0] for key in steps.watch(state, tokens)}
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), before, jax.device_get(state.params))
    body, rest = any(jax.tree.leaves(moved.pop("blocks"))), any(jax.tree.leaves(moved))
    rule = bindings.get("rule", rules.backprop()).name
    assert (body, rest) == (rule in ("dfa", "backprop"), True)
    assert watched == {"dfa": {"rms", "alignment", "alignment_std"}, "backprop": set()}.get(rule, {"rms"})
    assert np.isfinite(list(metrics)).all()


@pytest.mark.usefixtures("toy_batches")
def test_a_run_goes_on_with_its_feedback_and_under_no_other_rule(tmp_path: Path) -> None:
    def weights(folder: Path) -> list[np.ndarray]:
        from pagnol_jax.train.load import load_run

        return jax.tree.leaves(load_run(folder)[1])

    whole, parts = tmp_path / "whole", tmp_path / "parts"
    small = ["optimizer.warmup_cosine.total_steps=9", "config.GPTConfig.unroll=1", "config.GPTConfig.num_layers=2"]
    for folder, steps in ((whole, 4), (parts, 2), (parts, 4)):
        gin_files.parse(["runs/demo.gin", "dfa/gpt/gaussian.gin"], [*SMALL, f"TOTAL_STEPS={steps}", *small])
        assert gin_files.call(run.train, run_dir=str(folder)) is None
    for a, b in zip(weights(whole), weights(parts), strict=True):
        np.testing.assert_array_equal(a, b)
    gin_files.parse(["runs/demo.gin"], [*SMALL, "TOTAL_STEPS=6", *small])
    with pytest.raises(UserError, match="holds a run with another rule"):
        gin_files.call(run.train, run_dir=str(parts))
