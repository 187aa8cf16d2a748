"""Run folders: whole files, the identity of a run, metrics cut back, TensorBoard in its own process."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagnol_jax.errors import UserError
from pagnol_jax.train import record
from pagnol_jax.train.record import IDENTITY, Log, RunFolder, versions, write_atomically
from pagnol_jax.train.tensorboard import TensorBoard

RECORD: dict[str, Any] = {key: {"value": key} for key in IDENTITY} | {"total_steps": 10, "mesh": {"data": 1}}


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    path = tmp_path / "tokenizer.json"
    path.write_text("{}")
    return path


def test_versions_name_what_counts() -> None:
    found = versions()
    assert set(found) == {"python", *record.PACKAGES}
    assert all(version[0].isdigit() for version in found.values())


def test_open_again(tmp_path: Path, tokenizer: Path) -> None:
    """More steps and another mesh go on; a run that differs in anything else is another run."""
    folder = RunFolder(tmp_path / "run")
    with folder.locked():
        folder.open(RECORD, tokenizer, "a = 1\n")
    folder.open(RECORD | {"total_steps": 20, "mesh": {"data": 2}}, tokenizer, "a = 2\n")
    assert folder.read()["total_steps"] == 20
    assert (folder.path / "config.gin").read_text() == "a = 2\n"
    folder.open(RECORD | {"model": {"value": "model", "unroll": 8, "remat": "full"}}, tokenizer, "a = 2\n")
    for key in IDENTITY:
        with pytest.raises(UserError, match=rf"holds a run with another {key}; name another folder"):
            folder.open(RECORD | {key: {"value": "other"}}, tokenizer, "a = 3\n")
    assert (folder.path / "config.gin").read_text() == "a = 2\n"


def test_one_process_trains_in_a_folder(tmp_path: Path) -> None:
    for _ in range(2):
        with (
            RunFolder(tmp_path / "run").locked(),
            pytest.raises(UserError, match="run: another process is training here"),
            RunFolder(tmp_path / "run").locked(),
        ):
            pass


@pytest.mark.parametrize("content", [None, "", "{", "[1"])
def test_not_a_run(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(UserError, match="is not a run folder"):
        RunFolder(tmp_path).read()


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.json"
    write_atomically(path, "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(record.os, "fsync", full)
    with pytest.raises(UserError, match=r"run\.json: No space left on device"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@settings(deadline=None, max_examples=30)
@given(steps=st.lists(st.integers(1, 30), max_size=12), at=st.integers(0, 30), tail=st.sampled_from(["", '{"st', "\0"]))
def test_cut_back(tmp_path_factory: pytest.TempPathFactory, steps: list[int], at: int, tail: str) -> None:
    """Lines of later steps go, and what a kill left of a line."""
    folder = RunFolder(tmp_path_factory.mktemp("run"))
    whole = [json.dumps({"step": step, "loss": 0.5}) + "\n" for step in sorted(steps)]
    (folder.path / "metrics.jsonl").write_text("".join(whole) + tail)
    folder.cut_back(at)
    kept = [line for line in whole if json.loads(line)["step"] <= at]
    assert (folder.path / "metrics.jsonl").read_text() == "".join(kept)
    assert not (folder.path / "speed.jsonl").exists()


def until(happened: Any, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_log_and_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What metrics.jsonl has, TensorBoard has."""
    monkeypatch.setattr(record, "TensorBoard", TensorBoard)  # which other tests do without
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    log = Log(RunFolder(tmp_path))
    log.write("metrics", "train", {"step": 3, "tokens": 12, "loss_nats_per_token": 1.5})
    log.write("speed", "speed", {"step": 3, "tokens_per_second": 7.0})
    log.flush()
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["loss_nats_per_token"] == 1.5
    writer = log._tensorboard._process
    assert writer is not None
    log.close()
    assert writer.wait(timeout=120) == 0
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    found = {tag: events.Tensors(tag)[0] for tag in events.Tags()["tensors"]}
    assert set(found) == {"train/loss_nats_per_token", "speed/tokens_per_second"}
    assert found["train/loss_nats_per_token"].step == 3
    assert make_ndarray(found["train/loss_nats_per_token"].tensor_proto) == 1.5


def test_a_dead_tensorboard_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    (tmp_path / "clu").mkdir()
    (tmp_path / "clu" / "__init__.py").write_text("raise SystemExit(1)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    board = TensorBoard(tmp_path / "tensorboard")
    assert board._process is not None
    board._process.wait(timeout=60)
    for step in range(3):
        board.write(step, {"loss": 1.0})
    board.close()
    told = capfd.readouterr().err
    assert told == "pagnol: the TensorBoard writer died; metrics.jsonl has every value\n"


def test_without_tensorflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    board = TensorBoard(tmp_path)
    board.write(1, {"loss": 1.0})
    board.close()
    told = "pagnol: no TensorBoard log: tensorflow is not installed (extra 'data')\n"
    assert capsys.readouterr().err == told
