import pytest
from toy_cache import toy_documents, write_cache


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
    """(cache, its documents)."""
    documents = toy_documents()
    return write_cache(tmp_path_factory.mktemp("toy") / "cache", documents), documents
