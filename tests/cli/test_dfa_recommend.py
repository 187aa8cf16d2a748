"""`pagnol dfa recommend` on a file in Criteo's format."""

import json
from pathlib import Path

import numpy as np
import pytest

from pagnol_jax.cli.main import main

SMALL = ["--gin.BATCH_SIZE=60", "--gin.EPOCHS=2", "--gin.recommender.DeepFM.mlp=(8, 8, 8)"]
FILES = ["--gin_file", "dfa/recommend/deepfm_dfa.gin", "--gin_file", "dfa/recommend/hashed.gin"]


def log(path: Path) -> str:
    """A click log of 200 rows; its path as gin reads it."""
    random = np.random.default_rng(0)
    rows = [[str(random.integers(2)), *map(str, random.integers(0, 9, 39))] for _ in range(200)]
    path.write_text("".join("\t".join(row) + "\n" for row in rows))
    return f"--gin.CRITEO='{path}'"


def test_a_run_and_its_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PAGNOL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("pagnol_jax.train.cpu.keep_memory", lambda: None)
    call = ["dfa", "recommend", *FILES, "--run_dir", str(tmp_path / "run"), *SMALL, log(tmp_path / "train.txt")]
    assert main([*call, "--gin.criteo_vocabulary.hashed.size=20"]) == 0
    told = capsys.readouterr().out
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["epochs"] == 2
    assert results["model"]["architecture"] == "DeepFM"
    assert f"test AUC {results['test_auc']:.4f}" in told
    assert "hashed.size = 20" in (tmp_path / "run" / "config.gin").read_text()
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) >= 2


def test_a_file_that_is_missing_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    call = ["dfa", "recommend", *FILES, "--run_dir", str(tmp_path / "run"), "--gin.CRITEO='none.txt'"]
    assert main(call) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "none.txt: no such file" in line


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["dfa", "recommend", "--help"])
    assert "example: pagnol dfa recommend --gin_file" in capsys.readouterr().out
