"""Alignment: closed forms, its traps, and cosines made by hand."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pagnol_jax import dfa
from pagnol_jax.dfa import rules
from pagnol_jax.errors import UserError


class Net(nn.Module):
    dtype: Any = None  # of the second layer

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Dense(6, name="a")(x)
        return nn.Dense(3, name="head")(nn.Dense(5, dtype=self.dtype, name="b")(jnp.tanh(x)))


X = jax.random.normal(jax.random.key(0), (8, 4))
PARAMS = Net().init(jax.random.key(1), X)["params"]
RULE = rules.dfa(("a", "b"))


def loss(params: Any, weights: Any = 1.0) -> jax.Array:
    out = Net().apply({"params": params}, X)
    return (jnp.broadcast_to(jnp.asarray(weights), (8,))[:, None] * (out - 1) ** 2).mean()


def matrices(rule: rules.Rule = RULE) -> Any:
    return nn.unbox(dfa.init(loss, rule, jax.random.key(2))(PARAMS))


def test_signals_are_the_derivatives_by_a_module_s_output() -> None:
    """By hand: dL/do, through the head's weights for backpropagation and through B for the rule."""
    mine = matrices()
    e = 2 * (Net().apply({"params": PARAMS}, X) - 1) / 24
    true_b = e @ PARAMS["head"]["kernel"].T
    hidden = X @ PARAMS["a"]["kernel"] + PARAMS["a"]["bias"]
    true_a = (true_b @ PARAMS["b"]["kernel"].T) * (1 - jnp.tanh(hidden) ** 2)
    found = dfa.signals(loss, rules.backprop(), None, ("a", "b"))(PARAMS)
    np.testing.assert_allclose(found["a"], true_a, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(found["b"], true_b, rtol=1e-4, atol=1e-7)
    sent = e @ mine[""]["matrix"] / np.sqrt(6)
    found = dfa.signals(loss, RULE, mine, ("a", "b"))(PARAMS)
    np.testing.assert_allclose(found["a"], sent, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(found["b"], sent[:, :5], rtol=1e-4, atol=1e-7)

    aligned = dfa.alignment(loss, RULE, mine)(PARAMS)["a"]
    cosines = (sent * true_a).sum(1) / jnp.linalg.norm(sent, axis=1) / jnp.linalg.norm(true_a, axis=1)
    np.testing.assert_allclose([aligned.mean, aligned.std], [cosines.mean(), cosines.std()], rtol=1e-4)
    assert aligned.counted == 8


def test_feedback_by_the_head_s_own_weights_is_aligned() -> None:
    rule = rules.dfa(("b",))
    found = dfa.alignment(loss, rule, {"": {"matrix": PARAMS["head"]["kernel"].T}})(PARAMS)["b"]
    np.testing.assert_allclose([found.mean, found.std], [1, 0], atol=1e-5)


def test_tiny_signals_count_and_empty_samples_do_not() -> None:
    mine = matrices()
    usual = dfa.alignment(loss, RULE, mine)(PARAMS, np.array([1] * 6 + [0] * 2))
    tiny = dfa.alignment(loss, RULE, mine)(PARAMS, np.array([1e-30] * 6 + [0] * 2))
    for path in ("a", "b"):
        assert usual[path].counted == tiny[path].counted == 6
        np.testing.assert_allclose(tiny[path].mean, usual[path].mean, rtol=1e-4)
        np.testing.assert_allclose(tiny[path].std, usual[path].std, rtol=1e-3)


def test_a_jitted_loss_is_measured_too() -> None:
    mine, jitted = matrices(), jax.jit(loss)
    jitted(PARAMS)  # traced without probes once
    for path, expected in dfa.alignment(loss, RULE, mine)(PARAMS).items():
        np.testing.assert_allclose(dfa.alignment(jitted, RULE, mine)(PARAMS)[path].mean, expected.mean, rtol=1e-5)


def test_sizes_are_root_mean_squares() -> None:
    expected = jnp.sqrt(((X @ PARAMS["a"]["kernel"] + PARAMS["a"]["bias"]) ** 2).mean())
    np.testing.assert_allclose(dfa.rms(loss, ("a",))(PARAMS)["a"], expected, rtol=1e-5)


def test_through_a_norm_nothing_lengthens_the_stream() -> None:
    rule = rules.dfa(("b",), normalise=("b",))
    mine = matrices(rule)
    signal = dfa.signals(loss, rule, mine, ("b",))(PARAMS)["b"]
    output = jnp.tanh(X @ PARAMS["a"]["kernel"] + PARAMS["a"]["bias"]) @ PARAMS["b"]["kernel"] + PARAMS["b"]["bias"]
    np.testing.assert_allclose(signal.sum(1), 0, atol=1e-6)
    np.testing.assert_allclose((signal * output).sum(1), 0, atol=1e-4)  # standardize adds 1e-5 to a variance
    assert float(jnp.abs(signal).max()) > 1e-3


def test_several_networks_are_told_apart() -> None:
    def two(params: Any) -> jax.Array:
        return loss(params) + loss(jax.tree.map(lambda leaf: 2 * leaf, params))

    mine = nn.unbox(dfa.init(two, RULE, jax.random.key(2))(PARAMS))
    found = dfa.alignment(two, RULE, mine)(PARAMS)
    assert set(found) == {"a", "b", "a#1", "b#1"}
    np.testing.assert_allclose(found["a"].mean, dfa.alignment(loss, RULE, mine)(PARAMS)["a"].mean, rtol=1e-5)
    sizes = dfa.rms(two, ("a",))(PARAMS)
    np.testing.assert_allclose(sizes["a#1"], 2 * sizes["a"], rtol=1e-5)


@pytest.mark.parametrize("rule", [rules.shallow(("a", "b")), rules.backprop()], ids=lambda rule: rule.name)
def test_without_feedback_there_is_nothing_to_align(rule: rules.Rule) -> None:
    with pytest.raises(UserError, match=f"rule '{rule.name}' sends no feedback"):
        dfa.alignment(loss, rule, None, ("a",))(PARAMS)


def test_a_norm_of_the_feedback_is_float32_s_in_bfloat16_too() -> None:
    """Far from zero, bfloat16's E[x²] − E[x]² is noise."""
    rule = rules.dfa(("b",), normalise=("b",))
    mine, far = matrices(rule), PARAMS | {"b": PARAMS["b"] | {"bias": jnp.full(5, 10.0)}}

    def half(params: Any) -> jax.Array:
        return ((Net(jnp.bfloat16).apply({"params": params}, X) - 1) ** 2).mean()

    exact, rough = (dfa.signals(fun, rule, mine, ("b",))(far)["b"] for fun in (loss, half))
    assert rough.dtype == jnp.bfloat16
    assert jnp.linalg.norm(rough.astype(jnp.float32) - exact) < 0.3 * jnp.linalg.norm(exact)
