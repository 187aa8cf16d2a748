"""Real, forward-facing scenes: poses_bounds.npy and photographs (Mildenhall et al. 2019, LLFF; 2020, NeRF)."""

from pathlib import Path

import numpy as np

from pagnol_jax.data.zoo.camera_paths import average, spiral
from pagnol_jax.data.zoo.pictures import read_image
from pagnol_jax.data.zoo.views import Scene, Views, existing, stacked
from pagnol_jax.errors import UserError

FRAMES = 120  # of the fly-around
NEAREST = 0.75  # the nearest thing is put at 1 / 0.75, behind the plane z = -1 where rays in NDC begin
SUFFIXES = {".jpg", ".jpeg", ".png"}


def load(folder: str, factor: int = 4, hold: int = 8) -> Scene:
    """A scene with its cameras centred and scaled. Every `hold`-th view, from the first on, is held out for testing.

    factor: pictures this many times smaller, from `images_<factor>` or else made from `images`.
    Raises UserError for a missing or damaged file.
    """
    path = existing(folder)
    poses, (width, focal), bounds = read_cameras(path / "poses_bounds.npy")
    files = pictures(path, factor)
    if len(files) != len(poses):
        raise UserError(f"{path}: {len(files)} pictures for {len(poses)} cameras")
    reduce = factor if files[0].parent.name == "images" else 1
    images = [read_image(file, reduce) for file in files]
    focal = focal * images[0].shape[1] / width
    scale = 1 / (bounds.min() * NEAREST)
    poses[:, :, 3] *= scale
    poses = recentred(poses)
    held = np.arange(len(files)) % hold == 0
    whole = stacked([file.stem for file in files], images, poses, focal)
    return Scene(path.name, part(whole, ~held), part(whole, held), spiral(poses, bounds * scale, FRAMES))


def read_cameras(path: Path) -> tuple[np.ndarray, tuple[float, float], np.ndarray]:
    """Poses [N, 3, 4] of cameras that look along -z, (width, focal) of the photographs, bounds [N, 2]."""
    try:
        table = np.load(path, allow_pickle=False).astype(np.float64)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: not a whole table of cameras: {str(error).splitlines()[0]}") from None
    if table.ndim != 2 or table.shape[1] != 17 or not len(table):
        raise UserError(f"{path}: a table of shape {list(table.shape)}, not one of 17 numbers a camera")
    matrices = table[:, :15].reshape(-1, 3, 5)
    down, right, back, position = np.moveaxis(matrices[:, :, :4], 2, 0)
    _, width, focal = matrices[0, :, 4]
    return np.stack([right, -down, back, position], axis=2), (width, focal), table[:, 15:]


def pictures(path: Path, factor: int) -> list[Path]:
    """The photographs of a scene, by name."""
    folders = [path / f"images_{factor}", path / "images"] if factor > 1 else [path / "images"]
    for folder in folders:
        if found := sorted(file for file in folder.glob("*") if file.suffix.lower() in SUFFIXES):
            return found
    raise UserError(f"{path}: no pictures in {' nor '.join(folder.name for folder in folders)}")


def recentred(poses: np.ndarray) -> np.ndarray:
    """Poses [N, 3, 4] in the frame of their mean camera."""
    mean = average(poses)
    rotation, position = mean[:, :3].T, mean[:, 3]
    moved = rotation @ (poses[:, :, 3:] - position[:, None])
    return np.concatenate([rotation @ poses[:, :, :3], moved], axis=2)


def part(views: Views, chosen: np.ndarray) -> Views:
    names = [name for name, kept in zip(views.names, chosen, strict=True) if kept]
    return Views(names, views.images[chosen], views.poses[chosen], views.focal)
