"""Camera paths of fly-around videos: [M, 3, 4] float32, camera to world, looking along -z."""

import numpy as np


def look_at(position: np.ndarray, backwards: np.ndarray, up: np.ndarray) -> np.ndarray:
    """[3, 4]: a camera at `position` that looks against `backwards`, with `up` above it."""
    z = backwards / np.linalg.norm(backwards)
    x = np.cross(up, z)
    x /= np.linalg.norm(x)
    return np.stack([x, np.cross(z, x), z, position], axis=1)


def circle(frames: int, elevation: float, radius: float) -> np.ndarray:
    """Around the origin at `elevation` degrees above the plane z = 0, up being +z."""
    angles, height = np.linspace(0, 2 * np.pi, frames, endpoint=False), np.radians(elevation)
    poses = []
    for angle in angles:
        towards = np.array([np.cos(angle) * np.cos(height), np.sin(angle) * np.cos(height), np.sin(height)])
        poses.append(look_at(radius * towards, towards, np.array([0.0, 0.0, 1.0])))
    return np.stack(poses).astype(np.float32)


def average(poses: np.ndarray) -> np.ndarray:
    """The mean camera [3, 4] of poses [N, 3, 4]."""
    return look_at(poses[:, :, 3].mean(0), poses[:, :, 2].sum(0), poses[:, :, 1].sum(0))


def spiral(poses: np.ndarray, bounds: np.ndarray, frames: int, turns: int = 2, rate: float = 0.5) -> np.ndarray:
    """Around the mean of forward-facing cameras, as the NeRF paper's videos: each axis swings as far as the cameras'
    90th percentile does, while the camera keeps looking at a point between the near and the far bound.

    bounds: [N, 2], depths of the nearest and farthest thing that each camera sees.
    """
    mean = average(poses)
    near, far = bounds.min() * 0.9, bounds.max() * 5.0
    focus = 1 / (0.25 / near + 0.75 / far)
    radii = np.percentile(np.abs(poses[:, :, 3]), 90, axis=0)
    found = []
    for angle in np.linspace(0, 2 * np.pi * turns, frames, endpoint=False):
        swing = np.array([np.cos(angle), -np.sin(angle), -np.sin(angle * rate)]) * radii
        position = mean[:, :3] @ swing + mean[:, 3]
        backwards = position - (mean[:, :3] @ np.array([0.0, 0.0, -focus]) + mean[:, 3])
        found.append(look_at(position, backwards, poses[:, :, 1].sum(0)))
    return np.stack(found).astype(np.float32)
