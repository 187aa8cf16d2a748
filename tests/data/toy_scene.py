"""Tiny scenes written in the formats of NeRF-Synthetic and LLFF, and the point that all their cameras see."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 24
ANGLE = 0.69  # field of view of the synthetic cameras
POINT = np.array([0.3, -0.2, 0.5])  # of the world


def camera(position: np.ndarray, target: np.ndarray, up: np.ndarray) -> np.ndarray:
    """[4, 4] camera to world, looking along its -z."""
    z = (position - target) / np.linalg.norm(position - target)
    x = np.cross(up, z) / np.linalg.norm(np.cross(up, z))
    pose = np.eye(4)
    pose[:3] = np.stack([x, np.cross(z, x), z, position], axis=1)
    return pose


def pixel(pose: np.ndarray, focal: float, point: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(column, row) where a pinhole camera sees a point."""
    x, y, z = pose[:3, :3].T @ (point - pose[:3, 3])
    return np.array([size[1] / 2 - focal * x / z, size[0] / 2 + focal * y / z])


def disc(seed: int, size: tuple[int, int] = (SIDE, SIDE)) -> np.ndarray:
    """[H, W, 4]: a coloured disc on nothing."""
    rows, columns = np.meshgrid(*(np.linspace(-1, 1, n) for n in size), indexing="ij")
    inside = rows**2 + columns**2 < 0.4
    colour = np.random.default_rng(seed).integers(0, 256, 3)
    return np.concatenate([inside[..., None] * colour, 255 * inside[..., None]], axis=-1).astype(np.uint8)


def write_blender(folder: Path, train: int = 3, test: int = 2) -> list[np.ndarray]:
    """A scene on `folder`; returns the poses of its training views."""
    poses = []
    for split, count in (("train", train), ("test", test)):
        (folder / split).mkdir(parents=True)
        frames = []
        for index in range(count):
            around = np.array([np.cos(index), np.sin(index), 0.6])
            pose = camera(4 * around / np.linalg.norm(around), np.zeros(3), np.array([0.0, 0, 1]))
            frames.append({"file_path": f"./{split}/r_{index}", "transform_matrix": pose.tolist()})
            Image.fromarray(disc(index)).save(folder / split / f"r_{index}.png")
            poses += [pose] if split == "train" else []
        fields = {"camera_angle_x": ANGLE, "frames": frames}
        (folder / f"transforms_{split}.json").write_text(json.dumps(fields))
    return poses


LLFF_SIZE, LLFF_FOCAL, LLFF_BOUNDS = (32, 48), 40.0, (2.0, 9.0)


def write_llff(folder: Path, views: int = 10, reduced: int | None = None) -> list[np.ndarray]:
    """A forward-facing scene with photographs in images/, or only in images_<reduced>/; returns its poses."""
    rng, rows, poses = np.random.default_rng(0), [], []
    height, width = (side // (reduced or 1) for side in LLFF_SIZE)
    pictures = folder / (f"images_{reduced}" if reduced else "images")
    pictures.mkdir(parents=True)
    for index in range(views):
        position = np.array([1.0, 2.0, 5.0]) + rng.normal(size=3) * [0.5, 0.5, 0.1]
        pose = camera(position, POINT + 0.1 * rng.normal(size=3), np.array([0.1, 1.0, 0.2]))
        right, up, back, where = pose[:3].T
        matrix = np.stack([-up, right, back, where, [*LLFF_SIZE, LLFF_FOCAL]], axis=1)
        rows.append([*matrix.ravel(), *LLFF_BOUNDS])
        poses.append(pose)
        Image.fromarray(disc(index, (height, width))[..., :3]).save(pictures / f"IMG_{index:02}.JPG")
    np.save(folder / "poses_bounds.npy", np.array(rows))
    return poses
