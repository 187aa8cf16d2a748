"""GELU and its own derivative."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pagnol_jax.models.activations import gelu


@pytest.mark.parametrize("transform", [lambda f: f, jax.grad, lambda f: jax.grad(jax.grad(f))])
def test_gelu_and_its_derivatives_are_those_of_jax(transform) -> None:
    x = jnp.linspace(-6, 6, 1001)
    ours = jax.vmap(transform(gelu().function))(x)
    theirs = jax.vmap(transform(lambda x: jax.nn.gelu(x, approximate=False)))(x)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_gelu_keeps_half_precision() -> None:
    x = jnp.linspace(-3, 3, 11, dtype=jnp.bfloat16)
    value, tangent = jax.jvp(gelu().function, (x,), (jnp.ones_like(x),))
    assert (value.dtype, tangent.dtype) == (jnp.bfloat16, jnp.bfloat16)
