"""Whole views of a radiance field: rendered in pieces, compared with photographs, written as pictures and videos."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from pagnol_jax.models.zoo import nerf, rendering
from pagnol_jax.models.zoo.rendering import Rays, Sampling
from pagnol_jax.train.zoo.image_quality import psnr

RAYS_AT_ONCE = 1024  # whose samples fit a few megabytes a layer


class Camera(NamedTuple):
    """size: (height, width) in pixels. focal: in pixels. ndc: whether its rays are in normalised device coordinates."""

    size: tuple[int, int]
    focal: float
    ndc: bool

    def rays(self, pose: Any, columns: Any, rows: Any) -> Rays:
        """Through pixels (columns, rows) [R] of a camera at `pose` [3, 4]."""
        rays = rendering.camera_rays(jnp.asarray(pose), columns, rows, self.size, self.focal)
        return rendering.to_ndc(rays, self.size, self.focal) if self.ndc else rays


class View(NamedTuple):
    """fine, coarse: [H, W, 3] in [0, 1]. depth: [H, W], of the fine network."""

    fine: np.ndarray
    coarse: np.ndarray
    depth: np.ndarray

    def psnr(self, truth: np.ndarray) -> tuple[float, float]:
        """Of the fine and the coarse picture, in dB."""
        fine, coarse = (psnr(np.mean((x - truth) ** 2, dtype=np.float64)) for x in (self.fine, self.coarse))
        return float(fine), float(coarse)


def render_view(
    model: nerf.Nerf,
    sampling: Sampling,
    params: Any,
    camera: Camera,
    pose: np.ndarray,
    stride: int = 1,
    progress: Callable[[int], Any] = lambda rays: None,
) -> View:
    """One view, of which every `stride`-th pixel of every `stride`-th row; `progress` is told of rays done."""
    height, width = camera.size
    rows, columns = (x.ravel() for x in np.meshgrid(range(0, height, stride), range(0, width, stride), indexing="ij"))
    pieces = []
    for start in range(0, len(rows), RAYS_AT_ONCE):
        which = np.arange(start, start + RAYS_AT_ONCE) % len(rows)  # the last piece is filled up from the start
        pieces.append(_piece(model, sampling, camera, params, pose, columns[which], rows[which]))
        progress(min(RAYS_AT_ONCE, len(rows) - start))
    shape = -(-height // stride), -(-width // stride)
    whole = [
        np.concatenate(part)[: len(rows)].reshape(*shape, -1) for part in zip(*jax.device_get(pieces), strict=True)
    ]
    return View(np.clip(whole[0], 0, 1), np.clip(whole[1], 0, 1), whole[2][..., 0])


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _piece(
    model: nerf.Nerf, sampling: Sampling, camera: Camera, params: Any, pose: Any, columns: Any, rows: Any
) -> tuple[jax.Array, jax.Array, jax.Array]:
    coarse, fine = rendering.render(*nerf.fields(model, params), camera.rays(pose, columns, rows), sampling)
    return fine.colour, coarse.colour, fine.depth
