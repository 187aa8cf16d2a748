"""Pictures and videos as files, by Pillow: arrays [H, W, 3] of values in [0, 1]."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from pagnol_jax.errors import UserError

VIDEOS: dict[str, dict[str, Any]] = {
    ".webp": {"quality": 85, "method": 4},
    ".gif": {},
    ".png": {},
}  # all three may move


def read_image(path: Path, factor: int = 1, background: float | None = None) -> np.ndarray:
    """[H, W, 3] float32 in [0, 1], reduced by the mean over factor x factor pixels, in which
    transparent ones count for nothing.

    background: the grey that shows through transparent pixels; None takes colours as they are.
    Raises UserError where the file is missing or no picture.
    """
    try:
        with Image.open(path) as file:
            picture = file.convert("RGBA").reduce(factor)
    except FileNotFoundError:
        raise UserError(f"{path}: no such picture") from None
    except (UnidentifiedImageError, OSError, SyntaxError) as error:  # PIL's word for a broken PNG is SyntaxError
        raise UserError(f"{path}: not a whole picture: {str(error).splitlines()[0]}") from None
    pixels = np.asarray(picture, np.float32) / 255
    if background is None:
        return pixels[..., :3]
    alpha = pixels[..., 3:]
    return pixels[..., :3] * alpha + background * (1 - alpha)


def write_image(path: Path, image: np.ndarray) -> None:
    """Writes what the suffix says. Raises UserError where it cannot."""
    _write(path, [image])


def write_video(path: Path, frames: Sequence[np.ndarray], frames_per_second: float = 20.0) -> None:
    """A moving .webp, .gif or .png that plays for ever. Raises UserError for another suffix and where it cannot."""
    check_video(path)
    duration = round(1000 / frames_per_second)
    _write(path, frames, save_all=True, duration=duration, loop=0, **VIDEOS[path.suffix])


def check_video(path: Path) -> None:
    """Raises UserError for a file that `write_video` cannot write."""
    if path.suffix not in VIDEOS:
        raise UserError(f"{path}: give a file of suffix {', '.join(VIDEOS)}")


def _write(path: Path, frames: Sequence[np.ndarray], **options: Any) -> None:
    first, *rest = [Image.fromarray((np.clip(frame, 0, 1) * 255).round().astype(np.uint8)) for frame in frames]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        first.save(path, **options | ({"append_images": rest} if rest else {}))
    except (OSError, ValueError) as error:  # ValueError: a suffix that Pillow does not know
        raise UserError(f"{path}: cannot be written: {error}") from None
