"""The sharded step: every mesh gives the losses and gradients of one device."""

import dataclasses
import functools
import itertools

import jax
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from pagnol_jax.data.batches import Batch, packed
from pagnol_jax.errors import UserError
from pagnol_jax.models import activations, gpt, positions
from pagnol_jax.models.config import GPTConfig
from pagnol_jax.sharding import mesh as meshes
from pagnol_jax.sharding import rules
from pagnol_jax.train.optimizer import Optimizer
from pagnol_jax.train.step import Steps, make_steps

MODEL = GPTConfig(
    vocab_size=64,
    num_layers=2,
    d_model=32,
    num_heads=4,
    num_kv_heads=2,
    max_length=16,
    position=positions.rotary(),
    activation=activations.swiglu(),
)
MODELS = {
    "grouped rotary": MODEL,
    "alibi tied parallel": dataclasses.replace(
        MODEL, position=positions.alibi(), tie_embeddings=True, parallel=True, embedding_norm=True, num_kv_heads=1
    ),
    "learned scanned remat": dataclasses.replace(MODEL, position=positions.learned(), remat="full", num_kv_heads=None),
}
MESHES = [(2, 2, 2, 1), (8, 1, 1, 1), (1, 4, 2, 1), (2, 2, 1, 2)]


def batch() -> Batch:
    """Eight packed windows of sixteen tokens; token 2 separates documents."""
    return packed(np.random.default_rng(0).integers(0, 40, (8, 17)).astype(np.int32), sep_id=2)


def remember() -> Optimizer:
    """Its state is the last gradient; parameters stay (a difference of parameters would round the gradient)."""
    transform = optax.chain(optax.trace(decay=0.0), optax.scale(0.0))
    return Optimizer(transform, optax.constant_schedule(0.0), "constant")


def make(model: GPTConfig, sizes: tuple[int, ...], **options) -> tuple[jax.sharding.Mesh, Steps]:
    mesh = meshes.make_mesh(*sizes, devices=jax.devices()[: int(np.prod(sizes))])
    return mesh, make_steps(model, remember(), mesh, z_loss=1e-3, **options)


@functools.cache
def one_step(model: GPTConfig, sizes: tuple[int, ...], **options):
    mesh, steps = make(model, sizes, **options)
    with jax.set_mesh(mesh):
        state = steps.init(jax.random.key(0))
        state, metrics = steps.train(state, jax.device_put(batch(), steps.batch_sharding))
        loss = steps.evaluate(state.params, jax.device_put(batch(), steps.batch_sharding))
    return jax.device_get((metrics, loss, state.optimizer[0].trace))


@pytest.mark.parametrize(
    ("sizes", "name"),
    [
        # Every mesh once, and every model once on three axes.
        pytest.param(m, name, marks=[pytest.mark.slow] * (m != MESHES[0] and name != "grouped rotary"))
        for m, name in itertools.product(MESHES, MODELS)
    ],
    ids=str,
)
def test_every_mesh_gives_the_same_losses_and_gradients(name: str, sizes: tuple[int, ...]) -> None:
    expected, found = one_step(MODELS[name], (1, 1, 1, 1)), one_step(MODELS[name], sizes)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-5)
    for a, b in zip(jax.tree.leaves(found[2]), jax.tree.leaves(expected[2]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max() + 1e-8)


@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (2, 2, 1, 1)], ids=str)
def test_microbatches_give_the_gradient_of_the_whole_batch(sizes: tuple[int, ...]) -> None:
    expected, found = one_step(MODEL, (1, 1, 1, 1)), one_step(MODEL, sizes, microbatches=2)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    for a, b in zip(jax.tree.leaves(found[2]), jax.tree.leaves(expected[2]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_state_is_split_as_the_table_says() -> None:
    _, steps = make(MODEL, (1, 4, 2, 1))
    specs = jax.tree.map(lambda leaf: leaf.sharding.spec, steps.abstract_state.params)
    assert specs["blocks"]["mlp"]["up"]["kernel"] == P(None, "fsdp", "tensor")
    assert specs["blocks"]["mlp"]["down"]["kernel"] == P(None, "tensor", "fsdp")
    assert specs["blocks"]["attention"]["query"]["kernel"] == P(None, "fsdp", "tensor", None)
    assert specs["token_embedding"]["embedding"] == P("tensor", "fsdp")
    assert specs["head"] == P("fsdp", "tensor")


def test_optimizer_state_is_split_as_its_parameters_are() -> None:
    mesh = meshes.make_mesh(1, 8)
    optimizer = Optimizer(optax.adam(1e-3), optax.constant_schedule(1e-3), "constant")
    state = make_steps(MODEL, optimizer, mesh).abstract_state
    moments = jax.tree.map(lambda leaf: leaf.sharding, state.optimizer[0].mu)
    assert moments == jax.tree.map(lambda leaf: leaf.sharding, state.params)
    assert any("fsdp" in str(s.spec) for s in jax.tree.leaves(moments))


def test_constraints_are_in_the_lowered_program() -> None:
    """Under the wrong kind of mesh context they would be dropped without a word."""
    mesh, steps = make(MODEL, (2, 2, 2, 1))
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=steps.batch_sharding), batch())
    with jax.set_mesh(mesh):
        text = steps.train.lower(steps.abstract_state, shapes).as_text()
    assert text.count("sharding_constraint") + text.count("@Sharding") > MODEL.num_layers


def test_the_state_is_donated() -> None:
    mesh, steps = make(MODEL, (1, 1, 1, 1))
    with jax.set_mesh(mesh):
        state = steps.init(jax.random.key(0))
        steps.train(state, jax.device_put(batch(), steps.batch_sharding))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))


def test_a_mesh_that_does_not_divide_is_refused_in_one_line() -> None:
    mesh = meshes.make_mesh(1, 1, 8, 1)
    with pytest.raises(UserError, match=r"num_heads 4 by 8") as error:
        rules.check({"batch": ("batch_size", 8)} | MODEL.sharded_sizes(), mesh)
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="8 devices"):
        meshes.make_mesh(3, 1, 1, 1)
    assert meshes.make_mesh(1, -1, 2, 1).shape["fsdp"] == 4


@pytest.mark.parametrize("tie", [False, True])
def test_a_padded_vocabulary_changes_nothing(tie: bool) -> None:
    """64 tokens in tables of 80 rows: the loss, every gradient, and nothing for the rows that no token uses."""
    model = dataclasses.replace(MODEL, tie_embeddings=tie)
    padded_model = dataclasses.replace(model, vocab_multiple=40)
    assert padded_model.padded_vocab == 80
    assert padded_model.parameters() == model.parameters()
    expected, found = one_step(model, (1, 1, 1, 1)), one_step(padded_model, (2, 2, 2, 1))
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    assert not found[2]["token_embedding"]["embedding"][64:].any()
    assert tie or not found[2]["head"][:, 64:].any()
    config, trimmed = gpt.unpadded(padded_model, found[2])
    assert config == model
    for a, b in zip(jax.tree.leaves(trimmed), jax.tree.leaves(expected[2]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max() + 1e-8)
