"""NeRF-Synthetic scenes: transforms_{train,test}.json and RGBA pictures (Mildenhall et al. 2020)."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from pagnol_jax.data.zoo.camera_paths import circle
from pagnol_jax.data.zoo.pictures import read_image
from pagnol_jax.data.zoo.views import Scene, Views, existing, stacked
from pagnol_jax.errors import UserError

FRAMES = 60  # of the fly-around


def load(folder: str, factor: int = 1) -> Scene:
    """A scene on white. Views whose pictures are not there are left out, so that a part of a scene is one too.

    factor: how many times smaller the pictures are made, by the mean over pixels (the authors' half_res is 2).
    Raises UserError for a missing or damaged file.
    """
    path = existing(folder)
    train, test = (read_split(path, split, factor) for split in ("train", "test"))
    return Scene(path.name, train, test, circle(FRAMES, elevation=30.0, radius=4.0))


def read_split(path: Path, split: str, factor: int) -> Views:
    """The views of 'train' or 'test'."""
    listing = path / f"transforms_{split}.json"
    try:
        fields = json.loads(listing.read_text(encoding="utf-8"))
        angle = float(fields["camera_angle_x"])
        frames = [(str(frame["file_path"]), pose_of(frame)) for frame in fields["frames"]]
    except OSError as error:
        raise UserError(f"{listing}: {error.strerror}") from None
    except (KeyError, TypeError, ValueError) as error:  # JSON's own errors are ValueErrors
        raise UserError(f"{listing}: not a list of cameras: {type(error).__name__} {error}") from None
    there = [(name, pose) for name, pose in frames if picture(path, name).is_file()]
    if not there:
        raise UserError(f"{listing}: none of the {len(frames)} pictures that it lists is there")
    images = [read_image(picture(path, name), factor, background=1.0) for name, _ in there]
    focal = 0.5 * images[0].shape[1] / math.tan(0.5 * angle)
    return stacked([Path(name).name for name, _ in there], images, np.stack([pose for _, pose in there]), focal)


def pose_of(frame: dict[str, Any]) -> np.ndarray:
    pose = np.array(frame["transform_matrix"], np.float64)
    if pose.shape != (4, 4):
        raise ValueError(f"a camera of shape {pose.shape}")
    return pose


def picture(path: Path, name: str) -> Path:
    """The file of './train/r_0' (no suffix, as NeRF-Synthetic writes it) or of 'train/r_0.png'."""
    found = path / name
    return found if found.suffix else found.with_suffix(".png")
