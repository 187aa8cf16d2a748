"""Eight simulated devices on the CPU, set before jax is imported; strict rank promotion."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tiny_run import Tiny

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
flags = re.sub(r"--xla_force_host_platform_device_count=\d+", "", os.environ.get("XLA_FLAGS", ""))
# Tests compile many small programs: the compiler's cheap level is several times faster, and exact enough.
cheap = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count=8 {cheap}".strip()
# What one process has compiled, the others of a session need not: workers, and the commands that tests run. A cache of
# a bounded size is a locked one, so that nobody reads what is half written.
if "PYTEST_XDIST_WORKER" not in os.environ:
    compiled = tempfile.TemporaryDirectory(prefix="pagnol-compiled-")  # removed with the process
    os.environ["JAX_COMPILATION_CACHE_DIR"] = compiled.name
    os.environ["JAX_COMPILATION_CACHE_MAX_SIZE"] = str(2**31)
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"


def pytest_collection_finish() -> None:
    """Calls each of torch's functions by MKL once, on one number.

    MKL up to 2024.2 picks a function's kernel at its first call; when two threads make that call together, one of them
    can run a kernel of low accuracy (relative errors of 5e-5; https://github.com/pytorch/pytorch/issues/188792).
    """
    if torch := sys.modules.get("torch"):
        for dtype in (torch.float32, torch.float64):
            one = torch.ones(1, dtype=dtype)
            for name in ("cos", "erf", "exp", "expm1", "log", "log1p", "log2", "sin", "sqrt", "tan", "tanh"):
                getattr(torch, name)(one)


class NoTensorBoard:
    """For runs inside the tests' own process: each writer would import TensorFlow, for seconds of a core."""

    def __init__(self, folder: Path) -> None: ...
    def write(self, step: int, scalars: dict[str, float]) -> None: ...
    def close(self) -> None: ...


@pytest.fixture(scope="session", autouse=True)
def no_tensorboard() -> Iterator[None]:
    """Of a session, so that fixtures of any scope train without; tests/train/test_record.py has the real one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pagnol_jax.train.record.TensorBoard", NoTensorBoard)
        yield


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The real corpora; tests that ask for it skip where they are not."""
    folder = os.environ.get("PAGNOL_DATA_DIR")
    if not folder or not Path(folder).is_dir():
        pytest.skip("PAGNOL_DATA_DIR names no folder of real data")
    return Path(folder)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """The tiny run, made once a session."""
    from tiny_run import shared  # imports jax, which not every test needs

    return shared(tmp_path_factory.getbasetemp())
