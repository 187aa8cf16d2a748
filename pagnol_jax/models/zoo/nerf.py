"""The radiance field of NeRF: from a point and a direction to a colour and a density.

Mildenhall et al. 2020 (arXiv:2003.08934), in the form of krrish94/nerf-pytorch, which the DFA study trained
(Launay et al. 2020, arXiv:2006.12878): the released networks have 4 layers of 128, the paper's 8 of 256 with a skip.
"""

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from pagnol_jax.models.zoo.rendering import Field

# The feedback points of the DFA study: every layer but the two heads, which keep their true gradients. A `*` would
# match the linear parts of these layers too, and cut them from their activations.
TAPS = ("layer1", "layers_xyz_?", "fc_feat", "layers_dir_0")


def encode(x: jax.Array, octaves: int) -> jax.Array:
    """[..., n] -> [..., n (1 + 2 octaves)]: x, then sin and cos of 2^k x for each octave k; no factor of pi."""
    angles = x[..., None, :] * (2.0 ** jnp.arange(octaves, dtype=x.dtype))[:, None]  # [..., octaves, n]
    waves = jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-2)  # [..., octaves, 2, n]
    return jnp.concatenate([x, waves.reshape(*x.shape[:-1], -1)], axis=-1)


def linear(features: int, inputs: int, name: str) -> nn.Dense:
    """A Dense that starts as torch's Linear does: kernel and bias uniform in +-1/sqrt(inputs)."""
    bound = 1 / math.sqrt(inputs)

    def bias(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    kernel = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
    return nn.Dense(features, kernel_init=kernel, bias_init=bias, name=name)


class Layer(nn.Module):
    """A linear layer and its activation: [..., n] -> [..., features]."""

    features: int
    activation: Callable[[jax.Array], jax.Array] = nn.relu

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return self.activation(linear(self.features, x.shape[-1], "dense")(x))


class Nerf(nn.Module):
    """points [R, S, 3] and unit directions [R, 3] -> raw (red, green, blue, density) [R, S, 4].

    depth, width: layers on the point alone and their width. skips: layers (from 0) that see the encoded point again.
    first: the activation of layer 0; the released networks trained by backprop have none there.
    octaves: of the encodings of point and direction.
    """

    depth: int = 4
    width: int = 128
    skips: tuple[int, ...] = ()
    first: Callable[[jax.Array], jax.Array] = nn.relu
    octaves: tuple[int, int] = (10, 4)

    @nn.compact
    def __call__(self, points: jax.Array, directions: jax.Array) -> jax.Array:
        position = encode(points, self.octaves[0])
        direction = jnp.broadcast_to(
            encode(directions, self.octaves[1])[:, None], (*points.shape[:-1], 3 + 6 * self.octaves[1])
        )
        h = Layer(self.width, self.first, name="layer1")(position)
        for index in range(1, self.depth):
            seen = jnp.concatenate([h, position], axis=-1) if index in self.skips else h
            h = Layer(self.width, name=f"layers_xyz_{index - 1}")(seen)
        density = linear(1, self.width, "fc_alpha")(h)
        feature = Layer(self.width, name="fc_feat")(h)
        h = Layer(self.width // 2, name="layers_dir_0")(jnp.concatenate([feature, direction], axis=-1))
        colour = linear(3, self.width // 2, "fc_rgb")(h)
        return jnp.concatenate([colour, density], axis=-1)

    def describe(self) -> dict[str, Any]:
        """The network as JSON."""
        return {
            "depth": self.depth,
            "width": self.width,
            "skips": list(self.skips),
            "first": self.first.__name__,
            "octaves": list(self.octaves),
        }


def init(model: Nerf, key: jax.Array) -> dict[str, Any]:
    """Parameters of a coarse and a fine network, {"coarse": ..., "fine": ...}."""
    zeros = jnp.zeros((1, 1, 3)), jnp.zeros((1, 3))
    coarse, fine = (model.init(k, *zeros)["params"] for k in jax.random.split(key))
    return {"coarse": coarse, "fine": fine}


def fields(model: Nerf, params: Any) -> tuple[Field, Field]:
    """The coarse and the fine network with parameters."""

    def field(name: str) -> Field:
        return lambda points, directions: jnp.asarray(model.apply({"params": params[name]}, points, directions))

    return field("coarse"), field("fine")
