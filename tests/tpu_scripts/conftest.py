"""A cloud for every test."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tpu_scripts.cloud import Cloud


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    """One worker a slice; no resource yet."""
    made = Cloud(tmp_path / "cloud")
    yield made
    made.close()
