"""Rays, samples and light along them, against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pagnol_jax.models.zoo import rendering
from pagnol_jax.models.zoo.rendering import Rays

KEY = jax.random.key(0)
SIZE, FOCAL = (40, 60), 50.0


def some_rays(count: int = 16) -> Rays:
    rng = np.random.default_rng(0)
    o, d = rng.normal(size=(2, count, 3))
    d[:, 2] = -np.abs(d[:, 2]) - 1
    return Rays(jnp.asarray(o), jnp.asarray(d), jnp.asarray(d / np.linalg.norm(d, axis=-1, keepdims=True)))


def test_the_middle_ray_looks_along_minus_z() -> None:
    """Of a camera turned by a quarter about y, it goes along -x; a pixel to the right and one down are off it."""
    turned = np.array([[0, 0, 1, 7], [0, 1, 0, 8], [-1, 0, 0, 9]], np.float32)
    rays = rendering.camera_rays(turned, jnp.array([30, 31, 30]), jnp.array([20, 20, 21]), SIZE, FOCAL)
    np.testing.assert_allclose(rays.directions[0], [-1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(rays.directions[1], [-1, 0, -1 / FOCAL], atol=1e-6)
    np.testing.assert_allclose(rays.directions[2], [-1, -1 / FOCAL, 0], atol=1e-6)
    np.testing.assert_allclose(rays.origins, np.tile([7, 8, 9], (3, 1)))
    np.testing.assert_allclose(np.linalg.norm(rays.views, axis=-1), 1, rtol=1e-6)


def test_ndc_is_the_projection_of_points_on_the_ray() -> None:
    """o' + t' d' is the perspective projection of o + t d, with t' = 1 - o_z / (o_z + t d_z) from the near plane on."""
    rays, (height, width), near = some_rays(), SIZE, 1.0
    moved = rendering.to_ndc(rays, SIZE, FOCAL, near)
    start = rays.origins - ((near + rays.origins[:, 2]) / rays.directions[:, 2])[:, None] * rays.directions
    for t in (0.0, 0.5, 3.0):
        point = start + t * rays.directions
        x, y, z = point.T
        projected = np.stack([-FOCAL / (width / 2) * x / z, -FOCAL / (height / 2) * y / z, 1 + 2 * near / z], -1)
        share = 1 - start[:, 2] / z
        np.testing.assert_allclose(moved.origins + share[:, None] * moved.directions, projected, atol=1e-5)
    np.testing.assert_array_equal(moved.views, rays.views)


def test_stratified_samples() -> None:
    """One in each interval around the even depths; evenly spread over many rays; even without a key."""
    even = rendering.stratified(None, 2.0, 6.0, 3, 9)
    np.testing.assert_allclose(even, np.tile(np.linspace(2, 6, 9), (3, 1)))
    drawn = np.asarray(rendering.stratified(KEY, 2.0, 6.0, 20_000, 9))
    edges = np.concatenate([[2], np.arange(2.25, 6, 0.5), [6]])
    assert (drawn >= edges[:-1]).all()
    assert (drawn <= edges[1:]).all()
    np.testing.assert_allclose(drawn.mean(0), (edges[1:] + edges[:-1]) / 2, atol=0.01)


@pytest.mark.parametrize("key", [KEY, None], ids=["random", "even"])
def test_fine_samples_follow_the_weights(key: jax.Array | None) -> None:
    edges, weights = np.linspace(2, 6, 6), np.array([1.0, 0.0, 5.0, 2.0, 0.0])
    drawn = rendering.inverse_cdf(key, jnp.tile(edges, (500, 1)), jnp.tile(weights, (500, 1)), 128)
    counts, _ = np.histogram(drawn, edges)
    np.testing.assert_allclose(counts / counts.sum(), weights / weights.sum(), atol=0.01)


def test_fine_samples_of_nothing_are_even() -> None:
    drawn = rendering.inverse_cdf(None, jnp.linspace(0, 1, 11)[None], jnp.zeros((1, 10)), 21)
    np.testing.assert_allclose(drawn[0], np.linspace(0, 1, 21), atol=1e-5)


@pytest.mark.parametrize("white", [True, False])
def test_a_uniform_fog_dims_as_beer_lambert(white: bool) -> None:
    """Through a slab of length 3 of density s, opacity is 1 - exp(-3 s |d|), and the rest is background."""
    density, depths = 0.4, jnp.tile(jnp.linspace(1.0, 4.0, 301), (2, 1))
    raw = jnp.zeros((2, 301, 4)).at[..., 3].set(density).at[:, -1, 3].set(-1.0)  # nothing behind
    raw = raw.at[..., 0].set(100.0).at[..., 1:3].set(-100.0)  # pure red
    directions = jnp.array([[0.0, 0.0, -1.0], [0.0, 0.0, -2.0]])
    pixel = rendering.composite(raw, depths, directions, white)
    opacity = 1 - np.exp(-density * 3 * np.array([1, 2]))
    np.testing.assert_allclose(pixel.opacity, opacity, atol=1e-5)
    np.testing.assert_allclose(pixel.colour[:, 0], opacity + (1 - opacity) * white, atol=1e-5)
    np.testing.assert_allclose(pixel.colour[:, 1], (1 - opacity) * white, atol=1e-5)
    np.testing.assert_allclose(pixel.weights.sum(-1), pixel.opacity, atol=1e-6)


def test_the_first_wall_hides_the_second() -> None:
    depths = jnp.linspace(2.0, 6.0, 5)[None]
    raw = jnp.zeros((1, 5, 4)).at[0, 1].set(jnp.array([9.0, -9.0, -9.0, 1e4])).at[0, 3, 3].set(1e4)
    pixel = rendering.composite(raw, depths, jnp.array([[0.0, 0.0, -1.0]]), white=True)
    assert pixel.depth[0] == pytest.approx(3.0)
    assert pixel.colour[0, 0] > 0.99
    assert pixel.colour[0, 1] < 0.01


def blob(points: jax.Array, views: jax.Array) -> jax.Array:
    """A soft ball about (0, 0, -4)."""
    density = 5 - 5 * jnp.linalg.norm(points - jnp.array([0.0, 0.0, -4.0]), axis=-1)
    return jnp.concatenate([points, density[..., None]], axis=-1)


def test_no_gradient_through_fine_depths() -> None:
    """The coarse field learns from the coarse view alone, and noise changes densities only while training."""
    rays = Rays(jnp.zeros((4, 3)), jnp.tile(jnp.array([0.0, 0.0, -1.0]), (4, 1)), jnp.zeros((4, 3)))
    sampling = rendering.blender_sampling(16, 16)

    def fine_colour(scale: jax.Array) -> jax.Array:
        return rendering.render(lambda p, v: scale * blob(p, v), blob, rays, sampling, KEY)[1].colour.sum()

    assert float(jax.grad(fine_colour)(jnp.ones(()))) == 0
    noisy = sampling._replace(noise=1.0)
    still = [rendering.render(blob, blob, rays, s)[1].colour for s in (sampling, noisy)]
    np.testing.assert_array_equal(*still)
    trained = [rendering.render(blob, blob, rays, s, KEY)[0].colour for s in (sampling, noisy)]
    assert not np.allclose(*trained)
