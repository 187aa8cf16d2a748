"""Where things are kept, on disk or in an object store, and files written whole or not at all."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from pagnol_jax.errors import UserError


def is_remote(path: str | os.PathLike[str]) -> bool:
    """Whether a path names an object store (`gs://bucket/...`)."""
    return "://" in os.fspath(path)


def at(path: str | os.PathLike[str]) -> Path:
    """A path of either kind, with the methods of `pathlib.Path` that both have.

    Raises UserError for another store than Cloud Storage, and where gcsfs (extra `gcs`) is not installed.
    """
    if not is_remote(path):
        return Path(path)
    if not os.fspath(path).startswith("gs://"):
        raise UserError(f"{path}: only gs:// is known of object stores")
    if importlib.util.find_spec("gcsfs") is None:
        raise UserError(f"{path}: gcsfs is not installed (extra 'gcs')")
    # Else epath, for us and for orbax, imports TensorFlow into the training process wherever it finds it.
    os.environ["EPATH_USE_TF"] = "false"
    from etils import epath
    from etils.epath import gpath

    # Its answer is kept: whoever used a path before this one has asked already.
    getattr(getattr(gpath, "_is_tf_installed", None), "cache_clear", bool)()
    return epath.Path(path)  # type: ignore[return-value]


def cache_root() -> Path:
    """Where the package keeps what it can make again: `$PAGNOL_CACHE`, else `~/.cache/pagnol_jax`.

    Always on disk: of a `$PAGNOL_CACHE` in an object store it is the copy.
    """
    root = os.environ.get("PAGNOL_CACHE", "")
    return Path(root) if root and not is_remote(root) else Path.home() / ".cache" / "pagnol_jax"


def write_whole(path: Path, content: str) -> None:
    """Writes a small UTF-8 file through a rename, so that no reader and no crash sees a part of it."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with open(unfinished, "w", encoding="utf-8") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
