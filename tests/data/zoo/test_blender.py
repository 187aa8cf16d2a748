"""NeRF-Synthetic scenes: cameras, pictures on white, parts of scenes, and what is wrong with a folder in one line."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
from data.toy_scene import ANGLE, SIDE, disc, write_blender
from PIL import Image

from pagnol_jax.data.zoo import blender
from pagnol_jax.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_blender(tmp_path / "toy")
    return tmp_path / "toy"


def test_a_scene(tmp_path: Path) -> None:
    poses = write_blender(tmp_path / "toy")
    scene = blender.load(str(tmp_path / "toy"))
    assert (scene.name, scene.train.names, scene.test.names) == ("toy", ["r_0", "r_1", "r_2"], ["r_0", "r_1"])
    assert scene.train.size == (SIDE, SIDE)
    np.testing.assert_allclose(scene.train.poses, np.stack(poses)[:, :3], rtol=1e-6)
    assert 2 * math.atan(SIDE / 2 / scene.train.focal) == pytest.approx(ANGLE)
    image, drawn = scene.train.images[1], disc(1)
    np.testing.assert_array_equal(image[0, 0], [1, 1, 1])  # nothing is white
    np.testing.assert_allclose(image[SIDE // 2, SIDE // 2], drawn[SIDE // 2, SIDE // 2, :3] / 255, rtol=1e-6)


def test_half_transparent_is_half_white(folder: Path) -> None:
    Image.fromarray(np.full((SIDE, SIDE, 4), [255, 0, 0, 51], np.uint8)).save(folder / "train" / "r_0.png")
    np.testing.assert_allclose(blender.load(str(folder)).train.images[0, 3, 4], [1, 0.8, 0.8], rtol=1e-6)


def test_smaller_pictures_see_as_much(folder: Path) -> None:
    """Half the side is the mean over 2 x 2 pixels, and half the focal length."""
    whole, half = (blender.load(str(folder), factor).train for factor in (1, 2))
    assert half.focal == pytest.approx(whole.focal / 2)
    mean = whole.images[1].reshape(SIDE // 2, 2, SIDE // 2, 2, 3).mean((1, 3))
    np.testing.assert_allclose(half.images[1], mean, atol=2.5 / 255)


def test_a_part_of_a_scene_is_a_scene(folder: Path) -> None:
    (folder / "train" / "r_1.png").unlink()
    whole_poses = blender.load(str(folder)).train
    assert whole_poses.names == ["r_0", "r_2"]
    (folder / "test" / "r_0.png").unlink()
    (folder / "test" / "r_1.png").unlink()
    with pytest.raises(UserError, match=r"transforms_test\.json: none of the 2 pictures that it lists is there"):
        blender.load(str(folder))


def test_the_flight_looks_at_the_middle(folder: Path) -> None:
    path = blender.load(str(folder)).path
    position, looks = path[:, :, 3], -path[:, :, 2]
    np.testing.assert_allclose(np.linalg.norm(position, axis=1), 4, rtol=1e-6)
    np.testing.assert_allclose(looks, -position / 4, atol=1e-6)
    np.testing.assert_allclose(
        path[:, :, :3].transpose(0, 2, 1) @ path[:, :, :3], np.tile(np.eye(3), (60, 1, 1)), atol=1e-6
    )
    assert (path[:, 2, 1] > 0).all()  # up is up


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("transforms_train.json", "{", "not a list of cameras: JSONDecodeError"),
        ("transforms_train.json", '{"frames": []}', "not a list of cameras: KeyError 'camera_angle_x'"),
        ("transforms_train.json", None, "No such file"),
        ("train/r_0.png", "no picture", "r_0.png: not a whole picture"),
    ],
)
def test_what_is_wrong_is_told(folder: Path, file: str, content: str | None, said: str) -> None:
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_text(content)
    with pytest.raises(UserError, match=re.escape(said)) as error:
        blender.load(str(folder))
    assert "\n" not in str(error.value)


def test_a_picture_cut_short_or_of_another_size(folder: Path) -> None:
    path = folder / "train" / "r_0.png"
    path.write_bytes(path.read_bytes()[:80])
    with pytest.raises(UserError, match="not a whole picture"):
        blender.load(str(folder))
    Image.fromarray(disc(0, (8, 9))).save(path)
    with pytest.raises(UserError, match="picture r_1 is 24x24, r_0 is not"):
        blender.load(str(folder))


def test_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PAGNOL_DATA_DIR", raising=False)
    with pytest.raises(UserError, match=r"\$PAGNOL_DATA_DIR/nerf: set that variable, or give --gin\.SCENE"):
        blender.load("$PAGNOL_DATA_DIR/nerf")
    with pytest.raises(UserError, match="none: no such folder of a scene"):
        blender.load(str(tmp_path / "none"))
