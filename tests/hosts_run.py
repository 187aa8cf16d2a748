"""The tiny run on several hosts: processes of this machine that meet on loopback."""

import json
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_run import Result, Tiny, arrays, finish, steps_kept

TENSORBOARD = "pagnol: no TensorBoard log: tensorflow is not installed (extra 'data')"


def flags(processes: int, process: int, port: int) -> list[object]:
    return ["--coordinator", f"127.0.0.1:{port}", "--num_processes", processes, "--process_id", process]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def start(
    tiny: Tiny, run_dir: Path | str, processes: int, *more: object, devices: int = 1, **variables: str
) -> list[subprocess.Popen[str]]:
    """The tiny run on that many processes of `devices` devices each."""
    port = free_port()
    return [
        tiny.start(*tiny.command(run_dir, *more), *flags(processes, process, port), devices=devices, **variables)
        for process in range(processes)
    ]


def ends(processes: list[subprocess.Popen[str]]) -> list[Result]:
    """How they end, without the line that process 0 has of TensorBoard."""
    results = [finish(process) for process in processes]
    return [result._replace(errors=[x for x in result.errors if x != TENSORBOARD]) for result in results]


def train(
    tiny: Tiny, run_dir: Path | str, processes: int, *more: object, devices: int = 1, **variables: str
) -> list[Result]:
    """The tiny run on several processes, to its end."""
    return ends(start(tiny, run_dir, processes, *more, devices=devices, **variables))


def newest(run_dir: Path) -> int:
    return max(steps_kept(run_dir), default=0) if (run_dir / "checkpoints").is_dir() else 0


def wait_for(processes: list[subprocess.Popen[str]], happened: Callable[[], Any]) -> None:
    """Returns when it happened, or one of the processes ended."""
    while not happened() and all(process.poll() is None for process in processes):
        time.sleep(0.002)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    begin = time.monotonic()
    yield
    assert time.monotonic() - begin < seconds


def send(processes: list[subprocess.Popen[str]], number: signal.Signals, *to: int) -> None:
    for process in to:
        processes[process].send_signal(number)


def lines(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def losses(run_dir: Path) -> list[tuple[int, str, float]]:
    """(step, corpus or "", loss) of every line."""
    return [(x["step"], x.get("corpus", ""), x["loss_nats_per_token"]) for x in lines(run_dir)]


def assert_close(found: Path, expected: Path, tolerance: float, state: float | None = None) -> None:
    """Losses of the same steps within the tolerance, and the newest checkpoint's arrays within `state`."""
    ours, theirs = losses(found), losses(expected)
    assert [x[:2] for x in ours] == [x[:2] for x in theirs]
    np.testing.assert_allclose([x[2] for x in ours], [x[2] for x in theirs], rtol=0, atol=tolerance)
    if state is not None:
        reference = arrays(expected)
        for name, array in arrays(found).items():
            np.testing.assert_allclose(array, reference[name], rtol=0, atol=state, err_msg=name)


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Programs compiled once for all processes, and C++ logs as a user has them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.mktemp("compiled")))
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        patch.setenv("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
        patch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
        yield
