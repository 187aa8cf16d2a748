"""What the transform refuses, each in one line."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from dfa.test_gradient import Layer, matrices, mlp

from pagnol_jax import dfa
from pagnol_jax.dfa import feedback, rules
from pagnol_jax.errors import UserError


class Detached(nn.Module):
    """A table whose output goes on as a constant, as the published AFN has it."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(2, name="head")(Layer(4, name="a")(jax.lax.stop_gradient(nn.Dense(3, name="lost")(x))))


def test_bad_input_is_told_in_a_line() -> None:
    loss, params, x, y = mlp()
    mine = matrices(loss, rules.dfa(("a", "b")), params, x, y)

    def fails(words: str, rule: rules.Rule, with_matrices: Any = mine, fun: Callable = loss, args: Any = None) -> None:
        with pytest.raises(UserError, match=words) as told:
            dfa.value_and_grad(fun, rule, with_matrices)(*(args or (params, x, y)))
        assert "\n" not in str(told.value)

    fails("no module of the network matches taps 'c'", rules.dfa(("a", "c")))
    fails("no module of the network matches error 'top'", rules.dfa(("a", "b"), "top"))
    with pytest.raises(UserError, match="tap head lies above the error 'b'"):
        matrices(loss, rules.dfa(("a", "head"), "b"), params, x, y)
    fails(r"the feedback matrix of the widest tap is \[4, 12\], the network wants \[4, 9\]", rules.dfa(("b",)))
    gaussian = rules.dfa(("a", "b"), feedback=feedback.gaussian())
    drawn = matrices(loss, gaussian, params, x, y)
    fails("there is no feedback matrix for b", gaussian, {"": {"a": drawn[""]["a"]}})
    swapped = {"": {"a": drawn[""]["b"], "b": drawn[""]["a"]}}
    fails(r"the feedback matrix of a is \[4, 9\], the network wants \[4, 12\]", gaussian, swapped)
    fails("there are no feedback matrices for the error ''", rules.dfa(("a", "b")), None)
    with pytest.raises(UserError, match="unknown feedback rule 'sobolev': give one of uniform, gaussian, orthogonal"):
        rules.dfa(("a",), feedback="sobolev")  # type: ignore[arg-type]


def test_a_parameter_without_a_gradient_is_told_unless_it_is_named() -> None:
    x = jax.random.normal(jax.random.key(0), (8, 3))
    params = Detached().init(jax.random.key(1), x)["params"]

    def loss(params: Any) -> jax.Array:
        return (Detached().apply({"params": params}, x) ** 2).mean()

    rule = rules.dfa(("a",))
    mine = matrices(loss, rule, params)
    with pytest.raises(UserError, match="parameter lost/bias would get no gradient: tap it, or name it"):
        dfa.value_and_grad(loss, rule, mine)(params)
    grads = dfa.value_and_grad(loss, rules.dfa(("a",), without_gradient=("lost/*",)), mine)(params)[1]
    assert not np.any(grads["lost"]["kernel"])
    assert np.any(grads["a"]["Dense_0"]["kernel"])


class Scalar(nn.Module):
    """A number per sample, without a last dimension."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dense(1)(Layer(5, name="a")(x))[:, 0]


def test_an_error_without_a_last_dimension_is_told() -> None:
    x = jnp.ones((4, 3))
    params = Scalar().init(jax.random.key(0), x)["params"]
    with pytest.raises(UserError, match=r"the error has shape \[4\], a number per sample of tap a: give it a last"):
        matrices(lambda params: Scalar().apply({"params": params}, x).sum(), rules.dfa(("a",)), params)


class Bodiless(nn.Module):
    """A scan that carries nothing but parameters out of its body."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scan = nn.scan(
            lambda layer, x, _: (layer(x), None), variable_axes={"params": 0}, split_rngs={"params": True}, length=2
        )
        return nn.Dense(1)(scan(Layer(3, name="layer"), x, None)[0])


def test_a_scan_that_keeps_outputs_in_says_what_to_change() -> None:
    x = jax.random.normal(jax.random.key(0), (8, 3))
    params = Bodiless().init(jax.random.key(1), x)["params"]
    with pytest.raises(UserError, match=r"give its nn\.scan variable_axes"):
        dfa.init(lambda p: Bodiless().apply({"params": p}, x).sum(), rules.dfa(("layer",)), jax.random.key(0))(params)
