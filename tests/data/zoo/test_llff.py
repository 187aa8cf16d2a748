"""LLFF scenes, written by the test: a point that the cameras see stays where they see it."""

from pathlib import Path

import numpy as np
import pytest
from data.toy_scene import LLFF_BOUNDS, LLFF_FOCAL, LLFF_SIZE, POINT, disc, pixel, write_llff

from pagnol_jax.data.zoo import camera_paths, llff
from pagnol_jax.errors import UserError


@pytest.mark.parametrize(("factor", "reduced"), [(1, None), (4, None), (4, 4)])
def test_cameras_see_what_they_saw(tmp_path: Path, factor: int, reduced: int | None) -> None:
    """Centring and scaling move the world with its cameras; smaller pictures have a shorter focal length."""
    poses = write_llff(tmp_path / "toy", reduced=reduced)
    scene = llff.load(str(tmp_path / "toy"), factor)
    assert scene.test.names == ["IMG_00", "IMG_08"]
    assert len(scene.train.names) == 8
    assert scene.train.size == (LLFF_SIZE[0] // factor, LLFF_SIZE[1] // factor)
    assert scene.train.focal == pytest.approx(LLFF_FOCAL / factor)
    scale = 1 / (0.75 * LLFF_BOUNDS[0])
    mean = camera_paths.average(np.stack(poses)[:, :3] * [1, 1, 1, scale])
    moved = mean[:, :3].T @ (POINT * scale - mean[:, 3])
    for pose, at in zip(scene.test.poses, (0, 8), strict=True):
        seen = pixel(pose, scene.test.focal, moved, scene.test.size)
        np.testing.assert_allclose(seen * factor, pixel(poses[at], LLFF_FOCAL, POINT, LLFF_SIZE), atol=1e-3)
    every = np.concatenate([scene.train.poses, scene.test.poses])
    np.testing.assert_allclose(camera_paths.average(every), np.eye(4)[:3], atol=1e-6)


def test_pictures_are_the_photographs(tmp_path: Path) -> None:
    write_llff(tmp_path / "toy")
    scene = llff.load(str(tmp_path / "toy"), factor=1)
    middle = LLFF_SIZE[0] // 2, LLFF_SIZE[1] // 2
    for index, image in ((0, scene.test.images[0]), (1, scene.train.images[0])):
        np.testing.assert_allclose(image[middle], disc(index, LLFF_SIZE)[middle][:3] / 255, atol=0.03)  # JPEG


def test_the_spiral_looks_at_its_point(tmp_path: Path) -> None:
    """Every camera of the flight sees the point in focus in the middle of its picture, from near the mean camera."""
    write_llff(tmp_path / "toy")
    scene = llff.load(str(tmp_path / "toy"))
    bounds = np.array(LLFF_BOUNDS) / (0.75 * LLFF_BOUNDS[0])
    focus = 1 / (0.25 / (bounds[0] * 0.9) + 0.75 / (bounds[1] * 5))
    assert len(scene.path) == llff.FRAMES
    for pose in scene.path[::17]:
        np.testing.assert_allclose(pixel(pose, 1.0, np.array([0, 0, -focus]), (0, 0)), 0, atol=1e-5)
    radii = np.percentile(np.abs(np.concatenate([scene.train.poses, scene.test.poses])[:, :, 3]), 90, axis=0)
    assert (np.abs(scene.path[:, :, 3]) <= radii + 1e-5).all()


def test_what_is_wrong_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "toy"
    write_llff(folder)
    (folder / "images" / "IMG_03.JPG").unlink()
    with pytest.raises(UserError, match="9 pictures for 10 cameras"):
        llff.load(str(folder))
    np.save(folder / "poses_bounds.npy", np.zeros((10, 15)))
    with pytest.raises(UserError, match=r"a table of shape \[10, 15\], not one of 17 numbers a camera"):
        llff.load(str(folder))
    (folder / "poses_bounds.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(UserError, match="not a whole table of cameras"):
        llff.load(str(folder))
    (folder / "poses_bounds.npy").unlink()
    with pytest.raises(UserError, match=r"poses_bounds\.npy: no such file"):
        llff.load(str(folder))


def test_no_pictures(tmp_path: Path) -> None:
    write_llff(tmp_path / "toy", reduced=8)
    with pytest.raises(UserError, match="no pictures in images_4 nor images"):
        llff.load(str(tmp_path / "toy"), factor=4)
