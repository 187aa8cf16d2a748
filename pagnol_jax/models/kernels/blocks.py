"""Lengths and block sizes that the TPU's kernels take."""

import jax
import jax.numpy as jnp

LANES = 128


def padded(length: int) -> int:
    """The next length that divides into large blocks."""
    step = LANES if length <= 8 * LANES else 2 * LANES if length <= 16 * LANES else 4 * LANES
    return -(-length // step) * step


def block(length: int, most: int) -> int:
    """The largest multiple of 128 that divides `length` and is at most `most`."""
    return max(size for size in range(LANES, min(length, most) + 1, LANES) if length % size == 0)


def pad(x: jax.Array, length: int, axis: int) -> jax.Array:
    """`x` with zeros after its end along `axis`, up to `length`."""
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, length - x.shape[axis])
    return jnp.pad(x, widths) if any(after for _, after in widths) else x
