"""Public run tables, skipped where PAGNOL_DATA_DIR is unset."""

import csv
import os
from pathlib import Path

import pytest

DATA = Path(os.environ.get("PAGNOL_DATA_DIR", "/nonexistent")) / "scaling"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="PAGNOL_DATA_DIR with scaling/ is not set")


def rows(*path: str) -> list[dict[str, str]]:
    """The rows of a table below scaling/."""
    with DATA.joinpath(*path).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))
