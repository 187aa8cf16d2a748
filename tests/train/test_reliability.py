"""Runs that are killed, stopped, damaged or starved of disk end as if nothing had happened, bit for bit."""

import contextlib
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tiny_run import Result, Tiny, assert_same_run, finish, steps_kept

from pagnol_jax.train.load import load_run
from pagnol_jax.train.record import RunFolder


@pytest.fixture(scope="module")
def whole(tiny: Tiny) -> Path:
    """The run that nothing interrupts."""
    result = tiny.train("whole")
    assert result == Result(0, "", result.errors)
    assert steps_kept(tiny.folder / "whole") == [40, 50, 60]
    return tiny.folder / "whole"


def wait_until(process: subprocess.Popen[str], happened: Callable[[], bool]) -> None:
    """Returns when it happened, or the process ended."""
    while process.poll() is None and not happened():
        time.sleep(0.002)


def unfinished(run_dir: Path) -> bool:
    """Whether a checkpoint is being written."""
    return any(run_dir.glob("checkpoints/*tmp*"))


DELAYS = {"start-up": 6.0, "training": 0.5, "checkpoint": 0.03}  # seconds after the moment, at most


def killed_at(tiny: Tiny, run_dir: Path, rng: random.Random, moment: str, *more: object) -> str:
    """Starts the run, kills it at a random time after `moment`, and says where that was."""
    before = newest(run_dir)
    process = tiny.start(*tiny.command(run_dir, *more))
    if moment != "start-up":
        wait_until(process, lambda: newest(run_dir) > before)
    if moment == "checkpoint":
        wait_until(process, lambda: unfinished(run_dir))
    time.sleep(rng.uniform(0, DELAYS[moment]))
    process.send_signal(signal.SIGKILL)
    status = finish(process).status
    writing = ", writing a checkpoint" if unfinished(run_dir) else ""
    return f"{moment}: status {status}, newest checkpoint {newest(run_dir)}{writing}"


def newest(run_dir: Path) -> int:
    return max(steps_kept(run_dir), default=0) if (run_dir / "checkpoints").is_dir() else 0


def check_kills(tiny: Tiny, whole: Path, run_dir: Path, moments: list[str], *more: object) -> None:
    rng = random.Random(0)
    for number, moment in enumerate(moments, start=1):
        print(f"kill {number}: {killed_at(tiny, run_dir, rng, moment, *more)}")
    result = tiny.train(run_dir, *more)
    assert result.status == 0, result.errors
    assert_same_run(run_dir, whole)
    assert not unfinished(run_dir)


def test_three_kills(tiny: Tiny, whole: Path, tmp_path: Path) -> None:
    check_kills(tiny, whole, tmp_path / "run", ["checkpoint", "start-up", "training"])


@pytest.mark.slow
def test_ten_kills(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DELAYS, "training", 2.0)
    longer = ["--gin.TOTAL_STEPS=400"]
    assert tiny.train(tmp_path / "whole", *longer).status == 0
    moments = ["start-up", "training", "checkpoint"] * 3 + ["training"]
    check_kills(tiny, tmp_path / "whole", tmp_path / "run", moments, *longer)


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)], ids=lambda number: number.name
)
def test_signals_checkpoint_and_exit(tiny: Tiny, whole: Path, tmp_path: Path, number: signal.Signals) -> None:
    run_dir = tmp_path / "run"
    process = tiny.start(*tiny.command(run_dir))
    wait_until(process, lambda: newest(run_dir) >= 10)
    process.send_signal(number)
    result = finish(process)
    assert result.status == 128 + number
    saved = f"pagnol: {number.name}: checkpoint saved; the same command goes on from it"
    assert [line for line in result.errors if "TensorBoard" not in line] == [saved]
    assert 10 < newest(run_dir) < 60
    resumed = tiny.train(run_dir)
    assert (resumed.status, resumed.errors[0]) == (0, f"pagnol: run resumes at step {newest_before(resumed)}")
    assert_same_run(run_dir, whole)


def newest_before(result: Result) -> int:
    """The step that a run said it resumes at."""
    return int(result.errors[0].rsplit(" ", 1)[1])


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, of eight megabytes."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small disk")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def fill(disk: Path) -> Path:
    """A file that takes what is left of a disk."""
    ballast = disk / "ballast"
    for size in (1 << 16, 1 << 10, 1):
        with ballast.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"x" * size)
    return ballast


# Every 10 steps a checkpoint finds the disk full, every 30 the metrics of 30 steps do before it.
@pytest.mark.parametrize("every", [10, pytest.param(30, marks=pytest.mark.slow)])
def test_full_disk_loses_nothing(tiny: Tiny, whole: Path, small_disk: Path, every: int) -> None:
    run_dir = small_disk / "run"
    more = [f"--gin.run.train.checkpoint_every={every}"]
    process = tiny.start(*tiny.command(run_dir, *more))
    wait_until(process, lambda: newest(run_dir) > 0)
    ballast = fill(small_disk)
    result = finish(process)
    told, *others = result.errors[1:]
    assert (result.status, others) == (2, [])
    assert told.startswith("pagnol: error: ")
    assert "No space left on device" in told
    kept = newest(run_dir)
    assert f"step {kept}" in told
    again = tiny.train(run_dir, *more)
    assert (again.status, len(again.errors)) == (2, 1)
    assert "No space left on device" in again.errors[0]
    assert newest(run_dir) == kept
    assert load_run(run_dir)[2].read_bytes() == (whole / "tokenizer.json").read_bytes()
    ballast.unlink()
    resumed = tiny.train(run_dir, *more)
    assert (resumed.status, resumed.errors[0]) == (0, f"pagnol: run resumes at step {kept}")
    assert_same_run(run_dir, whole)


def test_a_second_process_is_refused(tiny: Tiny, whole: Path) -> None:
    before = (whole / "metrics.jsonl").read_bytes()
    with RunFolder(whole).locked():
        result = tiny.train(whole)
    assert (result.status, result.errors) == (2, [f"pagnol: error: {whole}: another process is training here"])
    assert (whole / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("damage", ["flipped", "cut short", "missing"])
def test_damaged_checkpoint_falls_back(tiny: Tiny, whole: Path, tmp_path: Path, damage: str) -> None:
    run_dir = Path(shutil.copytree(whole, tmp_path / "run"))
    files = [path for path in run_dir.glob("checkpoints/60/state/**/*") if path.is_file()]
    victim = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 4  # amid the arrays: some bytes of such a file mean nothing
    victim.unlink()
    if damage != "missing":
        victim.write_bytes(content if damage == "flipped" else content[:-100])
    result = tiny.train(run_dir)
    assert result.status == 0
    assert result.errors[0].startswith("pagnol: checkpoint 60 is damaged: ")
    assert result.errors[1] == "pagnol: run resumes at step 50"
    assert_same_run(run_dir, whole)
    assert (run_dir / "damaged" / "60").is_dir()
