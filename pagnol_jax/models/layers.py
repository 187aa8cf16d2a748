"""Projections, norms and the feed-forward block, with logical axes on every parameter."""

import math
from typing import Any, NamedTuple, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from pagnol_jax.models.config import GPTConfig
from pagnol_jax.sharding.rules import constrain, is_split, platform


def parameter(
    module: nn.Module, name: str, axes: tuple[str | None, ...], shape: tuple[int, ...], initializer: Any
) -> jax.Array:
    """A float32 parameter of `module` with logical axes, whose metadata linen takes off on access."""
    return cast(jax.Array, module.param(name, nn.with_logical_partitioning(initializer, axes), shape))


def padded(initializer: Any, axis: int, padding: int) -> Any:
    """`initializer` of the array without its last `padding` rows along `axis`, which are zeros."""

    def initialize(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        real = [size - padding * (i == axis) for i, size in enumerate(shape)]
        return jnp.pad(initializer(key, real, dtype), [(0, padding * (i == axis)) for i in range(len(shape))])

    return initialize if padding else initializer


class Normed(NamedTuple):
    """A layer norm of which the products that read it do the last part: scale * x + bias, [..., d] and [d] each."""

    x: jax.Array
    scale: jax.Array
    bias: jax.Array | None


class Linear(nn.Module):
    """x [..., *in_shape] -> [..., *out_shape], float32 parameters, computed in `dtype`. A norm's scale and shift go
    into kernel and bias: their gradients then come from those of the kernel, not from one of every x.

    `axes` are the logical axes of the kernel [*in_shape, *out_shape].
    """

    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    axes: tuple[str, ...]
    use_bias: bool
    stddev: float
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array | Normed) -> jax.Array:
        normal = nn.initializers.normal(self.stddev)
        kernel, shift = parameter(self, "kernel", self.axes, self.in_shape + self.out_shape, normal), None
        if isinstance(x, Normed):
            shift = None if x.bias is None else jnp.tensordot(x.bias, kernel, 1).astype(self.dtype)
            kernel = kernel * x.scale.reshape(-1, *[1] * len(self.out_shape))
            x = x.x
        kernel = kernel.astype(self.dtype)
        y = (_flat_product if platform() == "cpu" else jnp.tensordot)(x, kernel, len(self.in_shape))
        y = y if shift is None else y + shift
        if self.use_bias:
            axes = self.axes[len(self.in_shape) :]
            y = y + parameter(self, "bias", axes, self.out_shape, nn.initializers.zeros).astype(self.dtype)
        return y


def _flat_product(x: jax.Array, kernel: jax.Array, inner: int) -> jax.Array:
    """`jnp.tensordot` of the last `inner` dimensions of x and the first of the kernel, as a product of matrices.

    One token dimension makes the weight gradient a plain matrix product, which CPUs want (a TPU's tiles make every
    reshape a copy); when the length is split over devices, merging it with the batch would gather it, so it is kept
    apart.
    """
    leading = x.shape[: x.ndim - inner]
    rows = leading if is_split("length") else (math.prod(leading),)
    y = x.reshape(*rows, -1) @ kernel.reshape(math.prod(kernel.shape[:inner]), -1)
    return y.reshape(*leading, *kernel.shape[inner:])


class LayerNorm(nn.Module):
    """x [..., d_model] -> the same in the compute dtype, normalised in float32 (Ba et al. 2016). `fold` leaves scale
    and shift to the products that read it."""

    config: GPTConfig
    fold: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> Any:
        # Normalised first and scaled after: `nn.LayerNorm` keeps their product, as large as x, for the backward pass.
        wide = x.astype(jnp.float32)
        wide = wide - wide.mean(axis=-1, keepdims=True)
        wide = wide * jax.lax.rsqrt((wide**2).mean(axis=-1, keepdims=True) + self.config.norm_epsilon)
        scale, bias = parameter(self, "scale", ("embed",), x.shape[-1:], nn.initializers.ones), None
        if self.config.norm_bias:
            bias = parameter(self, "bias", ("embed",), x.shape[-1:], nn.initializers.zeros)
        if self.fold:
            return Normed(wide.astype(self.config.dtype), scale, bias)
        out = wide * scale
        out = out if bias is None else out + bias
        return out.astype(self.config.dtype)


def residual_stddev(config: GPTConfig) -> float:
    """Projections into the residual stream start smaller by sqrt(2 L) (Megatron-LM; Shoeybi et al. 2019)."""
    return config.init_stddev / math.sqrt(2 * config.num_layers)


class Activation(nn.Module):
    """The activation of [..., d_ff], gated or not: a module of its own so that its output has a name."""

    config: GPTConfig

    def __call__(self, up: jax.Array, gate: jax.Array | None = None) -> jax.Array:
        act = self.config.activation.function
        return act(up) if gate is None else act(gate) * up


class FeedForward(nn.Module):
    """[B, T, d_model] -> [B, T, d_model] through `d_ff`, gated or not."""

    config: GPTConfig

    @nn.compact
    def __call__(self, x: jax.Array | Normed) -> jax.Array:
        c = self.config
        d, f = (c.d_model,), (c.feed_forward,)

        def inner(name: str) -> jax.Array:
            layer = Linear(d, f, ("embed", "mlp"), c.use_bias, c.init_stddev, c.dtype, name=name)
            return constrain(layer(x), "batch", "length", "mlp")

        up, gate = inner("up"), inner("gate") if c.activation.gated else None
        hidden = Activation(c, name="hidden")(up, gate)
        return Linear(f, d, ("mlp", "embed"), c.use_bias, residual_stddev(c), c.dtype, name="down")(hidden)


class Embedding(nn.Module):
    """Table [num + padding, d_model]; integer ids [...] -> [..., d_model] in the compute dtype."""

    num: int
    config: GPTConfig
    axes: tuple[str | None, str] = ("vocab", "embed")
    padding: int = 0

    def setup(self) -> None:
        normal = padded(nn.initializers.normal(self.config.init_stddev), 0, self.padding)
        shape = self.num + self.padding, self.config.d_model
        self.embedding = parameter(self, "embedding", self.axes, shape, normal)

    def __call__(self, ids: jax.Array) -> jax.Array:
        return jnp.take(self.embedding, ids, axis=0).astype(self.config.dtype)

    def head(self) -> jax.Array:
        """The table as an output projection [d_model, num + padding] (tied embeddings)."""
        return self.embedding.T
