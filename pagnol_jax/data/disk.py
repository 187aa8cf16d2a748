"""Where things are kept, and files written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


def cache_root() -> Path:
    """Where the package keeps what it can make again: `$PAGNOL_CACHE`, else `~/.cache/pagnol_jax`."""
    return Path(os.environ.get("PAGNOL_CACHE") or Path.home() / ".cache" / "pagnol_jax")


def write_whole(path: Path, content: str) -> None:
    """Writes a small UTF-8 file through a rename, so that no reader and no crash sees a part of it."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with open(unfinished, "w", encoding="utf-8") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
