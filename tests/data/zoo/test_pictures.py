"""Pictures and videos come back as they were written."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pagnol_jax.data.zoo.pictures import read_image, write_image, write_video
from pagnol_jax.errors import UserError


def test_a_picture_comes_back(tmp_path: Path) -> None:
    image = np.random.default_rng(0).uniform(-0.1, 1.1, size=(5, 7, 3)).astype(np.float32)
    write_image(tmp_path / "new" / "x.png", image)
    np.testing.assert_allclose(read_image(tmp_path / "new" / "x.png"), np.clip(image, 0, 1), atol=0.51 / 255)


@pytest.mark.parametrize("suffix", [".webp", ".gif", ".png"])
def test_a_video_moves(tmp_path: Path, suffix: str) -> None:
    frames = [np.full((8, 8, 3), grey) for grey in (0.1, 0.5, 0.9)]
    write_video(tmp_path / f"x{suffix}", frames)
    with Image.open(tmp_path / f"x{suffix}") as video:
        assert video.n_frames == 3
        for index, grey in enumerate((0.1, 0.5, 0.9)):
            video.seek(index)
            np.testing.assert_allclose(np.asarray(video.convert("RGB")) / 255, grey, atol=0.02)


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"give a file of suffix \.webp, \.gif, \.png"):
        write_video(tmp_path / "x.mp4", [])
    with pytest.raises(UserError, match="no such picture"):
        read_image(tmp_path / "none.png")
    with pytest.raises(UserError, match="cannot be written"):
        write_image(tmp_path / "x.nosuch", np.zeros((2, 2, 3)))
