"""Feed-forward activations as values."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from pagnol_jax.sharding.rules import platform


class Activation(NamedTuple):
    """`function` acts on the up projection, or, when `gated`, on a gate that multiplies it (Shazeer 2020)."""

    name: str
    function: Callable[[jax.Array], jax.Array]
    gated: bool = False

    def width(self, d_model: int) -> int:
        """Feed-forward width with the parameters of 4 * d_model: two thirds of it, up to a multiple of 8, if gated."""
        return 4 * d_model if not self.gated else -(-8 * d_model // 24) * 8


def gelu() -> Activation:
    """Exact GELU with erf (Hendrycks and Gimpel 2016; PAGnol, GPT-NeoX, Falcon)."""
    return Activation("gelu", _gelu_erf)


def gelu_tanh() -> Activation:
    """GELU by tanh (GPT-2, BLOOM)."""
    return Activation("gelu_tanh", _gelu_tanh)


def swiglu() -> Activation:
    """SiLU gate (Shazeer 2020, eq. 6)."""
    return Activation("swiglu", jax.nn.silu, gated=True)


@jax.custom_jvp
def _gelu_erf(x: jax.Array) -> jax.Array:
    # By erf: `jax.nn.gelu` goes through erfc, which costs CPUs several times as much. The barrier keeps a TPU from
    # making the two polynomials of erf where x is made, and writing both in float32 instead of x.
    half = 0.5 * _barrier(x).astype(jnp.float32)
    return (half + half * jax.lax.erf(2**0.5 * half)).astype(x.dtype)


@_gelu_erf.defjvp
def _gelu_erf_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    # One array to keep for the backward pass, cdf(x) + x pdf(x), where the rules of the parts would keep three.
    (x,), (tangent,) = primals, tangents
    wide = _barrier(x).astype(jnp.float32)
    cdf = 0.5 + 0.5 * jax.lax.erf(2**-0.5 * wide)
    pdf = (2 * math.pi) ** -0.5 * jnp.exp(-0.5 * wide**2)
    return _gelu_erf(x), (cdf + wide * pdf).astype(x.dtype) * tangent


def _barrier(x: jax.Array) -> jax.Array:
    return jax.lax.optimization_barrier(x) if platform() == "tpu" else x


_gelu_tanh = functools.partial(jax.nn.gelu, approximate=True)

ACTIVATIONS: dict[str, Callable[[], Activation]] = {f.__name__: f for f in (gelu, gelu_tanh, swiglu)}
