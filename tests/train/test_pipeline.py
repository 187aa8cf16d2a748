"""A pipeline gives what one device gives."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from train.test_step import MODEL, batch, remember

from pagnol_jax.dfa import feedback, rules
from pagnol_jax.dfa.rules import Rule
from pagnol_jax.errors import UserError
from pagnol_jax.models import activations, positions
from pagnol_jax.sharding import mesh as meshes
from pagnol_jax.train.step import make_steps

DEEP = dataclasses.replace(MODEL, num_layers=4, position=positions.learned(), activation=activations.gelu())
TIED = dataclasses.replace(DEEP, tie_embeddings=True, embedding_norm=True, remat="full")
MICRO = ("blocks", "blocks/attended", "blocks/mlp/hidden")
RULES = {
    "backprop": rules.backprop(),
    "macro": rules.dfa(("blocks",), "final_norm"),
    "micro": rules.dfa(MICRO, "final_norm", normalise=("blocks", "blocks/attended")),
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
CASES["tied, three axes"] = (TIED, "micro", 8, {"stage": 2, "data": 2, "tensor": 2})
CASES["tied, few parts"] = (TIED, "gaussian", 2, {"stage": 4, "fsdp": 2})


SLOW = {"backprop", "gaussian", "shallow", "frozen"}


@pytest.mark.parametrize(
    ("model", "name", "microbatches", "sizes"),
    [pytest.param(*case, marks=[pytest.mark.slow] * (name in SLOW), id=name) for name, case in CASES.items()],
)
def test_a_pipeline_gives_the_losses_and_gradients_of_one_device(model, name, microbatches, sizes) -> None:
    expected, found = alone(model, name), one_step(model, RULES[name], microbatches, **sizes)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)
    for a, b in zip(jax.tree.leaves(found[1]), jax.tree.leaves(expected[1]), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max() + 1e-8)


def test_what_a_pipeline_cannot_do_is_told_in_a_line() -> None:
    with pytest.raises(UserError, match="a pipeline takes the error of dfa at final_norm, not at ''"):
        one_step(DEEP, rules.dfa(("blocks",)), 4, stage=4)
    with pytest.raises(UserError, match="a pipeline under dfa wants the tap 'blocks'"):
        one_step(DEEP, rules.dfa(("blocks/attended",), "final_norm"), 4, stage=4)
