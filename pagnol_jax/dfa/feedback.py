"""Feedback rules: how an error becomes the signal that a layer learns from. A rule is a pair of pure functions.

The matrices are constants of a run, not parameters: no optimiser sees them.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from pagnol_jax.errors import UserError


class Tap(NamedTuple):
    """A feedback point: its module's path and the shape of its output, [*stack, *batch, *features].

    stack: one number per `nn.scan` around the module. batch: the dimensions that it shares with the error.
    """

    path: str
    stack: tuple[int, ...]
    batch: tuple[int, ...]
    features: tuple[int, ...]

    @property
    def width(self) -> int:
        return math.prod(self.features)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.stack + self.batch + self.features


class Feedback(NamedTuple):
    """A rule. `name` is for records.

    init(key, error_width, taps) -> matrices, boxed with logical axes (`nn.unbox` gives the arrays).
    project(matrices, error [*batch, error_width], taps) -> the signal of each tap in the shape of its output, with
    features flattened: [*batch, width], or with the stack before it.
    """

    name: str
    init: Callable[[jax.Array, int, Sequence[Tap]], Any]
    project: Callable[[Any, jax.Array, Sequence[Tap]], list[jax.Array]]


def uniform() -> Feedback:
    """One matrix B, uniform in [-1, 1), of the error's width x D, the width of the widest tap. A tap of width d gets
    e B[:, :d] / sqrt(D), so that taps of one width get one signal (Launay et al. 2020; the authors' code)."""

    def init(key: jax.Array, error_width: int, taps: Sequence[Tap]) -> Any:
        shape = error_width, max(tap.width for tap in taps)
        return {"matrix": _boxed(jax.random.uniform(key, shape, minval=-1, maxval=1))}

    def project(matrices: Any, error: jax.Array, taps: Sequence[Tap]) -> list[jax.Array]:
        matrix = matrices["matrix"]
        _check(matrix, (error.shape[-1], max(tap.width for tap in taps)), "the widest tap")
        signal = _product(error, matrix) / math.sqrt(matrix.shape[1])
        return [signal[..., : tap.width] for tap in taps]

    return Feedback("uniform", init, project)


def gaussian() -> Feedback:
    """A matrix per layer with entries of N(0, 1/d), d the layer's width: the signal is about as long as the error."""
    return _per_layer("gaussian", lambda key, shape: jax.random.normal(key, shape) / math.sqrt(shape[1]))


def orthogonal() -> Feedback:
    """A matrix per layer with orthonormal rows, or columns where the error is wider, scaled to keep lengths."""

    def draw(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
        return nn.initializers.orthogonal(math.sqrt(max(1.0, shape[0] / shape[1])))(key, shape)

    return _per_layer("orthogonal", draw)


def redrawn(rule: Feedback) -> Feedback:
    """`rule` with matrices that are drawn from a key at every step, the same ones each time, and never stored."""

    def init(key: jax.Array, error_width: int, taps: Sequence[Tap]) -> Any:
        return {"key": key if key.dtype == jnp.uint32 else jax.random.key_data(key)}

    def project(matrices: Any, error: jax.Array, taps: Sequence[Tap]) -> list[jax.Array]:
        key = jax.random.wrap_key_data(matrices["key"])
        return rule.project(nn.unbox(rule.init(key, error.shape[-1], taps)), error, taps)

    return Feedback(f"redrawn {rule.name}", init, project)


def _per_layer(name: str, draw: Callable[[jax.Array, tuple[int, int]], jax.Array]) -> Feedback:
    """`draw(key, (error_width, width))` for every layer of every tap."""

    def init(key: jax.Array, error_width: int, taps: Sequence[Tap]) -> Any:
        def matrices(key: jax.Array, tap: Tap) -> jax.Array:
            keys = jax.random.split(key, math.prod(tap.stack))
            drawn = jnp.stack([draw(k, (error_width, tap.width)) for k in keys])
            return drawn.reshape(*tap.stack, error_width, tap.width)

        keys = jax.random.split(key, len(taps))
        return {tap.path: _boxed(matrices(k, tap)) for k, tap in zip(keys, taps, strict=True)}

    def project(matrices: Any, error: jax.Array, taps: Sequence[Tap]) -> list[jax.Array]:
        signals = []
        for tap in taps:
            if tap.path not in matrices:
                raise UserError(f"there is no feedback matrix for {tap.path}")
            _check(matrices[tap.path], (*tap.stack, error.shape[-1], tap.width), tap.path)
            between = (1,) * (len(tap.batch) - 1)
            signals.append(_product(error, _with_axes(matrices[tap.path], between)))
        return signals

    return Feedback(name, init, project)


def _with_axes(matrix: jax.Array, between: tuple[int, ...]) -> jax.Array:
    """[*stack, n, d] -> [*stack, *between, n, d], which `matmul` broadcasts over the batch."""
    return matrix.reshape(*matrix.shape[:-2], *between, *matrix.shape[-2:])


def _product(error: jax.Array, matrix: jax.Array) -> jax.Array:
    return jnp.matmul(error, matrix.astype(error.dtype), preferred_element_type=error.dtype)


def _boxed(matrix: jax.Array) -> Any:
    """With logical axes: a stack lies as its layers do, rows as the width of a model does."""
    stack = ("layers",) * (matrix.ndim - 2)
    return nn.LogicallyPartitioned(matrix, (*stack, "embed", None))


def _check(matrix: jax.Array, shape: tuple[int, ...], what: str) -> None:
    if matrix.shape != shape:
        raise UserError(f"the feedback matrix of {what} is {list(matrix.shape)}, the network wants {list(shape)}")


RULES = {"uniform": uniform, "gaussian": gaussian, "orthogonal": orthogonal}
