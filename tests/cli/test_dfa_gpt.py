"""`pagnol dfa gpt`: the table of arms from run folders, its figure, and the command from gin files to both."""

import json
import os
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from data.toy_cache import toy_documents, write_cache
from scaling.builders import write_run

from pagnol_jax.cli.dfa import gpt_report
from pagnol_jax.cli.main import main
from pagnol_jax.data.batches import MixtureBatches
from pagnol_jax.errors import UserError
from pagnol_jax.train import run


def write_arm(folder: Path, name: str, size: int, alignment: list[list[float]], moment: int) -> None:
    """A run whose loss falls with `size`, and its alignment per block at steps 5 and 10."""
    path = write_run(folder / name, size)
    lines = [{"step": 5 * (i + 1), "watched": "alignment/blocks"} for i in range(len(alignment))]
    with (path / "metrics.jsonl").open("a") as file:
        for line, values in zip(lines, alignment, strict=True):
            file.write(json.dumps(line | {f"{i}": value for i, value in enumerate(values)}) + "\n")
    os.utime(path / "run.json", (moment, moment))


@pytest.fixture
def study(tmp_path: Path) -> Path:
    write_arm(tmp_path, "macro_1e-2", 1000, [[0.1, 0.2], [0.3, 0.4]], 2)
    write_arm(tmp_path, "macro_3e-3", 4000, [[0.2, 0.3], [0.45, 0.55]], 3)
    write_arm(tmp_path, "backprop", 9000, [], 1)
    return tmp_path


def test_the_table_has_the_best_run_of_every_arm(study: Path) -> None:
    runs = gpt_report.read(study)
    lines = gpt_report.table(runs).splitlines()
    assert [line.split()[0] for line in lines] == ["arm", "backprop", "macro"]
    losses = {run.record.name: run.record.curve.loss_nats_per_token[-1] for run in runs}
    assert f"{losses['macro_3e-3']:.4f}" in lines[2]
    assert f"{np.exp(losses['macro_3e-3']):.2f}" in lines[2]
    assert lines[2].endswith("0.45 0.55")
    assert lines[2].split()[2] == "2"  # learning rates tried


def test_the_figure_shows_alignment_where_there_is_any(study: Path, tmp_path: Path) -> None:
    heights = []
    best = gpt_report.best(gpt_report.read(study))
    for runs in (best, best[:1]):
        gpt_report.draw(runs, tmp_path / "figure.png")
        image = matplotlib.image.imread(tmp_path / "figure.png")
        assert image.std() > 0.01
        heights.append(len(image))
    assert heights[0] > heights[1]


def test_bad_input_is_told_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="holds no runs"):
        gpt_report.read(tmp_path)
    assert main(["dfa", "gpt", "--gin_file", "dfa/gpt/study.gin", "--figure", "figure.txt"]) == 2
    assert "figure.txt: a figure is one of .png, .pdf, .svg" in capsys.readouterr().err


def test_the_command_trains_the_arms_and_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = write_cache(tmp_path / "cache", toy_documents())
    monkeypatch.setattr(
        run, "open_batches", lambda mixture, **sizes: MixtureBatches(cache, {"a": 1.0, "b": 1.0}, **sizes)
    )
    arms = {"backprop": ["LEARNING_RATE = 1e-2"], "micro": ["dfa/gpt/micro.gin", "LEARNING_RATE = 1e-2"]}
    shape = {"num_layers": 2, "d_model": 32, "num_heads": 1, "unroll": 1}
    small = {"BATCH_SIZE": 8, "LENGTH": 8, "TOTAL_STEPS": 2, "WARMUP_STEPS": 1, "RUNGS": arms}
    bindings = [f"--gin.{name}={value}" for name, value in small.items()]
    bindings += [f"--gin.config.GPTConfig.{name}={value}" for name, value in shape.items()]
    files = ["--gin_file", "dfa/gpt/study.gin", "--gin_file", "data/files.gin", "--gin.PATTERN='x.txt'"]
    figure = tmp_path / "arms.png"
    outputs = ["--output", str(tmp_path / "runs"), "--figure", str(figure)]
    for _ in range(2):  # the second time passes over what is done
        assert main(["dfa", "gpt", *files, *bindings, *outputs]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[0] for line in lines] == ["arm", "backprop", "micro"]
    assert figure.stat().st_size > 10_000
