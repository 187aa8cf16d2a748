"""Photographs with their cameras: what a scene is, whatever the format it came in."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pagnol_jax.errors import UserError


class Views(NamedTuple):
    """names: [N]. images: [N, H, W, 3] float32 in [0, 1]. poses: [N, 3, 4] float32, camera to world: the camera looks
    along its -z, y is up. focal: in pixels."""

    names: list[str]
    images: np.ndarray
    poses: np.ndarray
    focal: float

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.images.shape[1], self.images.shape[2]


class Scene(NamedTuple):
    """train, test: views. path: [M, 3, 4], cameras of a fly-around."""

    name: str
    train: Views
    test: Views
    path: np.ndarray


def existing(folder: str) -> Path:
    """A folder, `$NAME` expanded. Raises UserError where there is none."""
    path = Path(os.path.expanduser(os.path.expandvars(folder)))
    if "$" in str(path):
        raise UserError(f"{folder}: set that variable, or give --gin.SCENE")
    if not path.is_dir():
        raise UserError(f"{path}: no such folder of a scene")
    return path


def stacked(names: list[str], images: list[np.ndarray], poses: np.ndarray, focal: float) -> Views:
    """Views of one size. Raises UserError where a picture has another."""
    for name, image in zip(names, images, strict=True):
        if image.shape != images[0].shape:
            height, width, _ = image.shape
            raise UserError(f"picture {name} is {width}x{height}, {names[0]} is not")
    return Views(names, np.stack(images), poses[:, :3].astype(np.float32), float(focal))
