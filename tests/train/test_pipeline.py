"""A pipeline gives what one device gives."""

import dataclasses
import functools

import flax.linen as nn
import jax
import numpy as np
import pytest
from train.test_step import MODEL, batch, remember

from pagnol_jax.dfa import feedback, rules
from pagnol_jax.dfa.rules import Rule
from pagnol_jax.errors import UserError
from pagnol_jax.models import activations, gpt, positions
from pagnol_jax.sharding import mesh as meshes
from pagnol_jax.train import pipeline
from pagnol_jax.train.step import logits_loss, make_steps

DEEP = dataclasses.replace(MODEL, num_layers=4, position=positions.learned(), activation=activations.gelu())
TIED = dataclasses.replace(DEEP, tie_embeddings=True, embedding_norm=True, remat="full")
MICRO = ("blocks", "blocks/attended", "blocks/mlp/hidden")
RULES = {
    "backprop": rules.backprop(),
    "macro": rules.dfa(("blocks",), "final_norm"),
    "micro": rules.dfa(MICRO, "final_norm", normalise=MICRO),
    "embedded": rules.dfa(("dropout", *MICRO), "final_norm", normalise=MICRO),
    "part-way": rules.dfa(("token_embedding", *MICRO), "final_norm", feedback.redrawn(feedback.gaussian())),
    "gaussian": rules.dfa(("dropout", *MICRO), "final_norm", feedback.gaussian()),
    "shallow": rules.shallow(("blocks",)),
    "frozen": rules.frozen(("blocks",)),
}


def one_step(model, rule: Rule, microbatches: int, **sizes: int):
    count = int(np.prod(list(sizes.values())))
    mesh = meshes.make_mesh(**{"data": 1, **sizes}, devices=jax.devices()[:count])
    steps = make_steps(model, remember(), mesh, z_loss=1e-3, rule=rule, microbatches=microbatches)
    with jax.set_mesh(mesh):
        state = steps.init(jax.random.key(0))
        state, metrics = steps.train(state, jax.device_put(batch(), steps.batch_sharding))
    return jax.device_get((metrics, state.optimizer[0].trace))


@functools.cache
def alone(model, name: str):
    return one_step(model, RULES[name], 1)


CASES = {name: (DEEP, name, 4, {"stage": 4}) for name in RULES}
CASES["tied, three axes"] = (TIED, "embedded", 8, {"stage": 2, "data": 2, "tensor": 2})
CASES["tied, few parts"] = (TIED, "part-way", 2, {"stage": 4, "fsdp": 2})


SLOW = {"backprop", "embedded", "part-way", "gaussian", "shallow", "frozen", "tied, few parts"}


@pytest.mark.parametrize(
    ("model", "name", "microbatches", "sizes"),
    [pytest.param(*case, marks=[pytest.mark.slow] * (name in SLOW), id=name) for name, case in CASES.items()],
)
def test_a_pipeline_gives_the_losses_and_gradients_of_one_device(model, name, microbatches, sizes) -> None:
    expected, found = alone(model, name), one_step(model, RULES[name], microbatches, **sizes)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    for a, b in zip(jax.tree.leaves(found[1]), jax.tree.leaves(expected[1]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max() + 1e-8)


@pytest.mark.parametrize("name", ["backprop", pytest.param("macro", marks=pytest.mark.slow)])
def test_every_stage_has_dropout_of_its_own(name: str) -> None:
    """Blocks of zeros add nothing to the stream, so a bias at their end gets one signal in all layers but for masks."""
    model = dataclasses.replace(DEEP, num_layers=2, dropout_rate=0.5)
    rng, shapes = np.random.default_rng(0), nn.unbox(jax.eval_shape(lambda: gpt.init(model, jax.random.key(0))))
    params = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(x.dtype), shapes)
    params["blocks"] = jax.tree.map(np.zeros_like, params["blocks"])
    matrices = {"final_norm": {"matrix": np.ones((32, 32), np.float32)}}
    value_and_grad = jax.jit(pipeline.value_and_grad(model, 2, RULES[name], matrices, 0.0))
    parts = pipeline.split(batch(), 2, jax.random.key(1))
    bias = value_and_grad(params, parts, batch().weights.sum())[1]["blocks"]["mlp"]["down"]["bias"]
    assert np.abs(bias).min() > 0
    assert np.abs(bias[0] - bias[1]).max() > 0.1 * np.abs(bias).max()


def test_what_a_pipeline_cannot_do_is_told_in_a_line() -> None:
    with pytest.raises(UserError, match="a pipeline takes the error of dfa at final_norm, not at ''"):
        one_step(DEEP, rules.dfa(("blocks",)), 4, stage=4)
    with pytest.raises(UserError, match="a pipeline under dfa wants the tap 'blocks'"):
        one_step(DEEP, rules.dfa(("blocks/attended",), "final_norm"), 4, stage=4)
    mesh = meshes.make_mesh(1, stage=2, devices=jax.devices()[:2])
    with pytest.raises(UserError, match="a pipeline makes the loss by itself"):
        make_steps(DEEP, remember(), mesh, batch_loss=logits_loss)
