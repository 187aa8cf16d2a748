"""The tiny run, made once a session."""

import pytest
from tiny_run import Tiny, shared


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return shared(tmp_path_factory.getbasetemp())
