"""The TPU's compiler, where it is installed."""

import pytest

from pagnol_jax.tpu.topology import Topology, prepare_environment, topology


@pytest.fixture(scope="session", autouse=True)
def compiler() -> None:
    pytest.importorskip("libtpu", reason="the TPU's compiler is not installed: pip install 'pagnol_jax[tpu]'")
    prepare_environment()


@pytest.fixture(scope="session")
def v5e() -> Topology:
    """Eight chips."""
    return topology("v5e:2x4")
