"""The loop: what it writes, what stops it, and that neither meshes nor accumulation change what is learnt."""

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import gin
import numpy as np
import pytest
from tiny_run import Tiny, arrays, steps_kept, use

from pagnol_jax.cli import gin_files
from pagnol_jax.cli.main import main
from pagnol_jax.data.batches import Batch
from pagnol_jax.data.mixture import Mixture
from pagnol_jax.data.prepare import open_batches
from pagnol_jax.train import loop
from pagnol_jax.train.load import load_run
from pagnol_jax.train.loop import Progress

SIZES = ["--gin.BATCH_SIZE=8", "--gin.TOTAL_STEPS=12", "--gin.run.train.checkpoint_every=6"]


@pytest.fixture
def train(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs `pagnol train` on the tiny files over eight devices, in this process."""
    use(monkeypatch, tiny)

    def run(run_dir: Path, *more: str) -> int:
        return main(["train", "--gin_file", str(tiny.gin), "--run_dir", str(run_dir), *SIZES, *more])

    return run


@pytest.fixture
def whole(train: Any, tiny: Tiny) -> Path:
    """Twelve steps over a mesh of (8, 1, 1, 1); the second time it is there already."""
    run_dir = tiny.folder / "twelve"
    assert train(run_dir) == 0
    return run_dir


def lines(run_dir: Path, name: str = "metrics.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / name).read_text().splitlines()]


def losses(run_dir: Path) -> list[float]:
    return [line["loss_nats_per_token"] for line in lines(run_dir)]


def test_a_run_explains_itself(whole: Path) -> None:
    assert {path.name for path in whole.iterdir()} >= {
        "config.gin",
        "run.json",
        "tokenizer.json",
        "metrics.jsonl",
        "speed.jsonl",
        "checkpoints",
    }
    train = [line for line in lines(whole) if "split" not in line]
    (validation,) = [line for line in lines(whole) if line.get("split") == "validation"]
    assert [line["step"] for line in train] == list(range(1, 13))
    assert all(line["tokens"] == line["step"] * 8 * 32 for line in lines(whole))
    assert train[-1]["loss_nats_per_token"] < train[0]["loss_nats_per_token"] - 1
    assert validation["perplexity"] == pytest.approx(np.exp(validation["loss_nats_per_token"]))
    record = json.loads((whole / "run.json").read_text())
    in_bits = validation["loss_nats_per_token"] / np.log(2) / record["bytes_per_token"]["files"]
    assert validation["bits_per_byte"] == pytest.approx(in_bits)
    assert record["tokens_per_step"] == 8 * 32
    assert "TOTAL_STEPS = 12" in (whole / "config.gin").read_text()
    assert steps_kept(whole) == [6, 12]
    config, params, tokenizer = load_run(whole)
    assert (config.num_layers, config.vocab_size) == (2, 320)
    assert params["token_embedding"]["embedding"].shape == (320, 32)
    assert tokenizer == whole / "tokenizer.json"


def test_finished_is_finished(whole: Path, train: Any) -> None:
    before = (whole / "metrics.jsonl").read_bytes()
    assert train(whole) == 0
    assert (whole / "metrics.jsonl").read_bytes() == before


def test_fewer_steps_than_done(whole: Path, train: Any, capsys: pytest.CaptureFixture) -> None:
    assert train(whole, "--gin.TOTAL_STEPS=11") == 2
    assert capsys.readouterr().err == f"pagnol: error: {whole} is at step 12 already, past 11\n"
    assert json.loads((whole / "run.json").read_text())["total_steps"] == 12


class StopAtTheEnd:
    """An Interrupt whose signal comes while the twelfth step is made."""

    reads, last = 0, 12

    def __enter__(self) -> "StopAtTheEnd":
        return self

    def __exit__(self, *_: object) -> None: ...

    @property
    def signal(self) -> signal.Signals | None:
        self.reads += 1
        return signal.SIGTERM if self.reads >= self.last else None


class StopAfterTheEnd(StopAtTheEnd):
    """As it, while the last step is evaluated and saved."""

    last = 13


@pytest.mark.parametrize("interrupt", [StopAtTheEnd, StopAfterTheEnd])
def test_a_stop_skips_no_evaluation(
    whole: Path, train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interrupt: type[StopAtTheEnd]
) -> None:
    """Else the run that goes on from that checkpoint would lack it for ever."""
    monkeypatch.setattr(loop, "Interrupt", interrupt)
    run_dir = tmp_path / "run"
    assert train(run_dir) == 128 + signal.SIGTERM
    assert (run_dir / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert steps_kept(run_dir) == [6, 12]


def test_resumed_on_another_mesh(whole: Path, train: Any, tmp_path: Path) -> None:
    """From step 6 on, (2, 2, 2, 1) devices see the batches of (8, 1, 1, 1) and learn the same."""
    copy = Path(shutil.copytree(whole, tmp_path / "copy"))
    shutil.rmtree(copy / "checkpoints" / "12")
    mesh = [f"--gin.mesh.make_mesh.{axis}=2" for axis in ("data", "fsdp", "tensor")]
    assert train(copy, *mesh) == 0
    assert json.loads((copy / "run.json").read_text())["mesh"] == {"data": 2, "fsdp": 2, "tensor": 2, "sequence": 1}
    assert lines(copy)[:6] == lines(whole)[:6]
    np.testing.assert_allclose(losses(copy), losses(whole), rtol=0, atol=1e-5)
    batches = [json.loads((run_dir / "run.json").read_text())["batches"] for run_dir in (copy, whole)]
    assert batches[0] == batches[1]


def test_accumulation_changes_nothing(whole: Path, train: Any, tmp_path: Path) -> None:
    assert train(tmp_path / "run", "--gin.run.train.microbatches=4") == 0
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(whole), rtol=0, atol=1e-5)


def batch_of(tiny: Tiny, step: int) -> Batch:
    gin_files.parse([str(tiny.gin)], [])
    return open_batches(gin.get_configurable(Mixture)(), 8, 32).batch(step)


def test_divergence_keeps_the_batch(tiny: Tiny, train: Any, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run_dir = tmp_path / "run"
    every = "--gin.run.train.checkpoint_every=1"
    assert train(run_dir, "--gin.LEARNING_RATE=1e20", every) == 2
    *_, told = capsys.readouterr().err.splitlines()
    (kept,) = (run_dir / "diverged").iterdir()
    step = int(kept.stem.removeprefix("step_"))
    assert told.startswith("pagnol: error: loss ")
    assert told.endswith(f"at step {step}; its batch is kept in {kept}")
    batch = np.load(kept)
    for name, array in batch_of(tiny, step - 1)._asdict().items():
        np.testing.assert_array_equal(batch[name], array)
    assert steps_kept(run_dir)[-1] == step - 1
    assert all(np.isfinite(array).all() for array in arrays(run_dir).values())
    assert "NaN" not in (run_dir / "metrics.jsonl").read_text()


def test_parameters_that_overflow_are_never_kept(train: Any, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """The loss of the step that broke them is still finite."""
    run_dir = tmp_path / "run"
    assert train(run_dir, "--gin.LEARNING_RATE=1e40", "--gin.run.train.checkpoint_every=1") == 2
    *_, told = capsys.readouterr().err.splitlines()
    assert "a parameter that is not finite at step 1;" in told
    assert steps_kept(run_dir) == []


def test_progress_tells_rates() -> None:
    bar = Progress("name", 10, 20, tokens_per_step=100, peak_flops=1e9)
    said = bar.update(12, 1.5, flops_per_token=1e3)
    bar.close()
    assert said["tokens_per_second"] > 0
    assert said["share_of_matmul_peak"] == pytest.approx(said["tokens_per_second"] * 1e3 / 1e9)
