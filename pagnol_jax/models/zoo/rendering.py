"""Volume rendering of a radiance field: rays, samples along them, and the light that reaches the camera.

Formulas of Mildenhall et al. 2020 (arXiv:2003.08934), sections 4 and 5.2 and appendix C, with the constants of
krrish94/nerf-pytorch (a last interval of 1e10, weights + 1e-5 in the inverse of the distribution).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Field = Callable[[jax.Array, jax.Array], jax.Array]  # points [R, S, 3], directions [R, 3] -> raw [R, S, 4]
FAR_AWAY = 1e10  # what is behind the last sample


class Rays(NamedTuple):
    """origins, directions [R, 3] (any length: depths count in it); views [R, 3], the unit directions that are seen."""

    origins: jax.Array
    directions: jax.Array
    views: jax.Array


class Sampling(NamedTuple):
    """Where rays are sampled, and what is behind them.

    near, far: depths. coarse, fine: samples; the fine network sees coarse + fine of them. noise: standard deviation of
    what is added to densities while training. white: background. ndc: rays in normalised device coordinates.
    """

    near: float
    far: float
    coarse: int = 64
    fine: int = 128
    noise: float = 0.0
    white: bool = True
    ndc: bool = False


def blender_sampling(coarse: int = 64, fine: int = 128) -> Sampling:
    """Synthetic scenes: depths 2 to 6, a white background."""
    return Sampling(2.0, 6.0, coarse, fine)


def llff_sampling(coarse: int = 64, fine: int = 128) -> Sampling:
    """Real, forward-facing scenes: normalised device coordinates, density noise 1, a black background."""
    return Sampling(0.0, 1.0, coarse, fine, noise=1.0, white=False, ndc=True)


class Pixel(NamedTuple):
    """What rays see: colour [R, 3], depth and opacity [R], and the weights [R, S] of their samples."""

    colour: jax.Array
    depth: jax.Array
    opacity: jax.Array
    weights: jax.Array


def camera_rays(pose: jax.Array, columns: jax.Array, rows: jax.Array, size: tuple[int, int], focal: Any) -> Rays:
    """Rays through pixels (columns, rows [R]) of a pinhole camera of `size` (height, width) that looks along -z.

    pose: [3, 4] or [4, 4], camera to world.
    """
    height, width = size
    across, down = (columns - width * 0.5) / focal, (rows - height * 0.5) / focal
    local = jnp.stack([across, -down, -jnp.ones_like(across)], axis=-1)  # [R, 3]
    directions = local @ pose[:3, :3].T
    origins = jnp.broadcast_to(pose[:3, 3], directions.shape)
    return Rays(origins, directions, directions / jnp.linalg.norm(directions, axis=-1, keepdims=True))


def to_ndc(rays: Rays, size: tuple[int, int], focal: Any, near: float = 1.0) -> Rays:
    """The same rays in normalised device coordinates, from the plane z = -near on (appendix C); views stay."""
    height, width = size
    o, d = rays.origins, rays.directions
    o = o - ((near + o[:, 2]) / d[:, 2])[:, None] * d
    scale_x, scale_y = -2.0 * focal / width, -2.0 * focal / height
    origins = jnp.stack([scale_x * o[:, 0] / o[:, 2], scale_y * o[:, 1] / o[:, 2], 1 + 2 * near / o[:, 2]], axis=-1)
    slope = [scale_x * (d[:, 0] / d[:, 2] - o[:, 0] / o[:, 2]), scale_y * (d[:, 1] / d[:, 2] - o[:, 1] / o[:, 2])]
    return Rays(origins, jnp.stack([*slope, -2 * near / o[:, 2]], axis=-1), rays.views)


def stratified(key: jax.Array | None, near: float, far: float, rays: int, samples: int) -> jax.Array:
    """Depths [rays, samples], ascending: evenly spaced, or one at random in each even interval where there is a key."""
    even = jnp.broadcast_to(jnp.linspace(near, far, samples), (rays, samples))
    if key is None:
        return even
    middle = 0.5 * (even[:, 1:] + even[:, :-1])
    upper = jnp.concatenate([middle, even[:, -1:]], axis=-1)
    lower = jnp.concatenate([even[:, :1], middle], axis=-1)
    return lower + (upper - lower) * jax.random.uniform(key, even.shape)


def inverse_cdf(key: jax.Array | None, edges: jax.Array, weights: jax.Array, samples: int) -> jax.Array:
    """Depths [R, samples] drawn from intervals between `edges` [R, n + 1] with `weights` [R, n] (section 5.2).

    Evenly spaced quantiles without a key.
    """
    weights = weights + 1e-5  # no division by nothing
    cumulative = jnp.cumsum(weights / weights.sum(-1, keepdims=True), axis=-1)
    cumulative = jnp.concatenate([jnp.zeros_like(cumulative[:, :1]), cumulative], axis=-1)  # [R, n + 1]
    if key is None:
        quantiles = jnp.broadcast_to(jnp.linspace(0.0, 1.0, samples), (edges.shape[0], samples))
    else:
        quantiles = jax.random.uniform(key, (edges.shape[0], samples))
    above = jax.vmap(lambda c, q: jnp.searchsorted(c, q, side="right"))(cumulative, quantiles)
    low, high = jnp.maximum(above - 1, 0), jnp.minimum(above, edges.shape[-1] - 1)
    (start, end), (left, right) = (
        [jnp.take_along_axis(table, index, axis=-1) for index in (low, high)] for table in (cumulative, edges)
    )
    width = jnp.where(end - start < 1e-5, 1.0, end - start)
    return left + (quantiles - start) / width * (right - left)


def composite(
    raw: jax.Array, depths: jax.Array, directions: jax.Array, white: bool, noise: jax.Array | float = 0.0
) -> Pixel:
    """Light along rays (equation 3): raw [R, S, 4] at `depths` [R, S]; `noise` is added to the raw densities."""
    intervals = jnp.diff(depths, axis=-1, append=depths[:, -1:] + FAR_AWAY)
    intervals = intervals * jnp.linalg.norm(directions, axis=-1, keepdims=True)
    opaque = 1 - jnp.exp(-jax.nn.relu(raw[..., 3] + noise) * intervals)
    passed = jnp.cumprod(1 - opaque + 1e-10, axis=-1)
    weights = opaque * jnp.concatenate([jnp.ones_like(passed[:, :1]), passed[:, :-1]], axis=-1)
    colour = jnp.einsum("rs,rsc->rc", weights, jax.nn.sigmoid(raw[..., :3]))
    opacity = weights.sum(-1)
    if white:
        colour = colour + (1 - opacity)[:, None]
    return Pixel(colour, (weights * depths).sum(-1), opacity, weights)


def render(coarse: Field, fine: Field, rays: Rays, sampling: Sampling, key: jax.Array | None = None) -> list[Pixel]:
    """[coarse, fine] view of rays; with a key, samples are random and densities noisy, as in training.

    The depths that the fine network sees are constants: no gradient goes through them to the coarse one.
    """
    keys = jax.random.split(key, 4) if key is not None else [None] * 4
    depths = stratified(keys[0], sampling.near, sampling.far, rays.origins.shape[0], sampling.coarse)
    first = look(coarse, rays, depths, sampling, keys[1])
    middle = 0.5 * (depths[:, 1:] + depths[:, :-1])
    more = inverse_cdf(keys[2], middle, jax.lax.stop_gradient(first.weights[:, 1:-1]), sampling.fine)
    depths = jax.lax.stop_gradient(jnp.sort(jnp.concatenate([depths, more], axis=-1), axis=-1))
    return [first, look(fine, rays, depths, sampling, keys[3])]


def look(field: Field, rays: Rays, depths: jax.Array, sampling: Sampling, key: jax.Array | None) -> Pixel:
    """What one network shows of rays at `depths` [R, S]."""
    points = rays.origins[:, None] + rays.directions[:, None] * depths[..., None]
    raw = field(points, rays.views)
    noisy = key is not None and sampling.noise > 0
    noise = sampling.noise * jax.random.normal(key, depths.shape) if noisy and key is not None else 0.0
    return composite(raw, depths, rays.directions, sampling.white, noise)
