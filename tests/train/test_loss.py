"""The chunked loss against the plain one: values, gradients, memory, meshes."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding

from pagnol_jax.sharding.mesh import make_mesh
from pagnol_jax.sharding.rules import spec
from pagnol_jax.train import loss
from pagnol_jax.train.loss import cross_entropy


def plain(features, head, targets, weights, z_loss):
    """The formula, on whole float32 logits."""
    logits = jnp.matmul(features.astype(jnp.float32), head)
    log_z = jax.nn.logsumexp(logits, axis=-1)
    nats = log_z - jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return (weights * nats).sum(), (weights * z_loss * log_z**2).sum()


def inputs(batch=2, length=24, width=16, vocab=64, dtype=jnp.float32):
    keys = jax.random.split(jax.random.key(0), 4)
    features = jax.random.normal(keys[0], (batch, length, width)).astype(dtype)
    head = jax.random.normal(keys[1], (width, vocab)) / 4
    targets = jax.random.randint(keys[2], (batch, length), 0, vocab)
    weights = jax.random.uniform(keys[3], (batch, length)) * (jax.random.uniform(keys[2], (batch, length)) > 0.3)
    return features, head, targets, weights


def gradients(function, features, head, targets, weights, z_loss):
    """(nats, z_loss), (d features, d head) of their sum per unit of weight."""

    def objective(features, head):
        sums = function(features, head, targets, weights, z_loss)[:2]
        return sum(sums) / jnp.maximum(weights.sum(), 1), sums

    (_, sums), grads = jax.jit(jax.value_and_grad(objective, (0, 1), has_aux=True))(features, head)
    return sums, grads


def assert_close(found, expected, tolerance):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        scale = max(1, float(jnp.abs(b).max()))
        np.testing.assert_allclose(np.float32(a) / scale, np.float32(b) / scale, rtol=tolerance, atol=tolerance)


@settings(deadline=None, max_examples=8)
@given(length=st.integers(1, 25), chunks=st.integers(1, 9), z_loss=st.sampled_from([0.0, 1e-2]))
def test_equals_log_softmax(length, chunks, z_loss):
    args = inputs(length=length)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(loss.CHUNK, "cpu", -(-2 * length // chunks))
        found = gradients(cross_entropy, *args, z_loss)
    assert_close(found, gradients(plain, *args, z_loss), 1e-5)


def test_without_gradient_and_without_weight():
    features, head, targets, weights = inputs()
    found = jax.jit(cross_entropy)(features, head, targets, weights)
    assert_close(found[:2], plain(features, head, targets, weights, 0.0), 1e-5)
    assert found.weight == weights.sum()
    sums, grads = gradients(cross_entropy, features, head, targets, jnp.zeros_like(weights), 1e-3)
    assert all(not leaf.any() for leaf in jax.tree.leaves((sums, grads)))


def test_bfloat16_accumulates_in_float32():
    args = inputs(dtype=jnp.bfloat16)
    found = gradients(cross_entropy, *args, 1e-3)
    assert found[1][0].dtype == jnp.bfloat16
    assert found[1][1].dtype == jnp.float32
    assert_close(found, gradients(plain, *args, 1e-3), 2e-2)


def test_tied_head_remat_and_accumulation():
    features, head, targets, weights = inputs()
    table = head.T

    def both(function):
        def total(table, features, targets, weights):
            return sum(function(features[None], table.T, targets[None], weights[None], 1e-3)[:2])

        parts = zip(features, targets, weights, strict=True)
        return sum(jax.jit(jax.grad(jax.checkpoint(total)))(table, *part) for part in parts)

    assert_close(both(cross_entropy), both(plain), 1e-5)


@pytest.mark.parametrize("differentiate", [False, True])
def test_never_holds_all_logits(monkeypatch, differentiate):
    monkeypatch.setitem(loss.CHUNK, "cpu", 64)
    args = inputs(batch=4, length=256, width=16, vocab=4096)
    whole = 4 * 4 * 256 * 4096

    def total(features, head):
        return cross_entropy(features, head, *args[2:]).nats

    function = jax.grad(total, (0, 1)) if differentiate else total
    memory = jax.jit(function).lower(*args[:2]).compile().memory_analysis()
    assert memory.temp_size_in_bytes < whole / 3


@pytest.mark.parametrize("sizes", [(8, 1, 1, 1), (2, 2, 2, 1), (1, 4, 2, 1), (2, 2, 1, 2)])
@pytest.mark.parametrize("batch", [8, 2])
def test_same_on_every_mesh(monkeypatch, sizes, batch):
    """Also where there are too few rows to split over all that would split them."""
    monkeypatch.setitem(loss.CHUNK, "cpu", 24)
    features, head, targets, weights = inputs(batch=batch)
    expected = gradients(plain, features, head, targets, weights, 1e-3)
    mesh = make_mesh(*sizes)
    with jax.set_mesh(mesh):
        args = placed(mesh, features, head, targets, weights)
        found = gradients(cross_entropy, *args, 1e-3)
    assert_close(found, expected, 1e-5)


def test_a_split_vocabulary_stays_split():
    """No device ever holds a row of logits whole, not even to pick the targets' out of it."""
    mesh = make_mesh(2, 1, 4, 1)

    def total(features, head, targets, weights):
        return cross_entropy(features, head, targets, weights).nats

    with jax.set_mesh(mesh):
        args = placed(mesh, *inputs(batch=8, vocab=4096))
        text = jax.jit(jax.grad(total, (0, 1))).lower(*args).compile().as_text()
    assert re.search(r"f32\[[\d,]*,1024\]", text)
    assert not re.search(r"[\[,]4096[,\]]", text.split("ENTRY")[0] + text.split("ENTRY")[1].split("\n", 1)[1])


def placed(mesh, features, head, targets, weights):
    def place(x, *axes):
        return jax.device_put(x, NamedSharding(mesh, spec(axes, x.shape, mesh)))

    rows = [place(x, "batch", "length") for x in (targets, weights)]
    return place(features, "batch", "length", "embed"), place(head, "embed", "vocab"), *rows
