"""Position schemes as values: `none()`, `learned()`, `rotary()`, `alibi()`.

A scheme says three things: whether the model owns a table of learned vectors, how queries and keys are
turned, and what is added to the attention scores. The model calls all three and never asks which scheme it has.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from pagnol_jax.sharding.rules import platform

Rotate = Callable[[jax.Array, jax.Array], jax.Array]
Slopes = Callable[[int], jax.Array]


class Position(NamedTuple):
    """A position scheme.

    name, options: how to build it again (`from_json`).
    learned: the model adds a trained [max_length, d_model] table to the token embeddings.
    rotate: (x [B, T, H, D], positions [B, T]) -> [B, T, H, D], applied to queries and keys.
    slopes: num_heads -> [H] float32 or None; a score gets -slope * (query index - key index).
    """

    name: str
    options: tuple[tuple[str, Any], ...] = ()
    learned: bool = False
    rotate: Rotate | None = None
    slopes: Slopes | None = None


def none() -> Position:
    """No position signal but the causal mask (Haviv et al. 2022)."""
    return Position("none")


def learned() -> Position:
    """One trained vector per position, added to the embeddings (GPT-2, PAGnol S to L)."""
    return Position("learned", learned=True)


def rotary(base: float = 10_000.0, fraction: float = 1.0) -> Position:
    """Rotary embedding (Su et al. 2021, eq. 34) on the first `fraction` of each head, halves paired (i, i + D/2)."""

    return Position("rotary", (("base", base), ("fraction", fraction)), rotate=_rotate(base, fraction))


def alibi(scale: float = 1.0) -> Position:
    """Linear biases on the scores (Press et al. 2022); `scale` multiplies every slope (Falcon has 1/sqrt(D))."""

    return Position("alibi", (("scale", scale),), slopes=_slopes(scale))


def alibi_slopes(num_heads: int) -> list[float]:
    """Slopes of Press et al. (2022): powers of 2^(-8/n), and for other head counts those of the next power of two
    down, followed by every other slope of the next one up (BLOOM, Falcon)."""
    power = 2 ** math.floor(math.log2(num_heads))
    slopes = [2 ** (-8 * (i + 1) / power) for i in range(power)]
    between = [2 ** (-4 * (i + 1) / power) for i in range(0, 2 * (num_heads - power), 2)]
    return slopes + between


def turn_halves(x: jax.Array, sin: jax.Array, cos: jax.Array) -> jax.Array:
    """x [..., D] turned by angles whose sines and cosines are [..., D/2], in float32."""
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


def turn_whole(x: jax.Array, sin: jax.Array, cos: jax.Array) -> jax.Array:
    """The same with whole heads: halves of them fill a quarter of a TPU's tiles, and go to HBM and back like that (an
    eighth of the traffic of PAGnol-XL on v6e). A CPU takes longer for it."""
    first, second = jnp.split(x, 2, axis=-1)
    across = jnp.concatenate([-second, first], axis=-1).astype(jnp.float32)
    sin, cos = (jnp.concatenate([each, each], axis=-1) for each in (sin, cos))
    return (x.astype(jnp.float32) * cos + across * sin).astype(x.dtype)


# Cached, so that two schemes with equal options are equal values.
@functools.lru_cache
def _rotate(base: float, fraction: float) -> Rotate:
    def rotate(x: jax.Array, positions: jax.Array) -> jax.Array:
        size = int(x.shape[-1] * fraction) // 2 * 2
        frequencies = base ** (-jnp.arange(0, size, 2, dtype=jnp.float32) / size)  # [D/2]
        angles = positions[..., None, None].astype(jnp.float32) * frequencies  # [B, T, 1, D/2]
        turned, rest = jnp.split(x, [size], axis=-1)
        turn = turn_halves if platform() == "cpu" else turn_whole
        return jnp.concatenate([turn(turned, jnp.sin(angles), jnp.cos(angles)), rest], axis=-1)

    return rotate


@functools.lru_cache
def _slopes(scale: float) -> Slopes:
    return lambda num_heads: scale * jnp.array(alibi_slopes(num_heads), jnp.float32)


SCHEMES: dict[str, Callable[..., Position]] = {f.__name__: f for f in (none, learned, rotary, alibi)}
