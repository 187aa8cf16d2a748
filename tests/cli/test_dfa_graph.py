"""`pagnol dfa graph` on a data set in Planetoid's format."""

from pathlib import Path

import pytest
from data.zoo.planetoid_files import write

from pagnol_jax.cli.main import main

TABLE = "RUNGS = {'gcn_dfa': ['dfa/graph/gcn_dfa.gin'], 'autoencoder': ['dfa/graph/autoencoder.gin']}\n"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pagnol_jax.train.cpu.keep_memory", lambda: None)
    monkeypatch.chdir(tmp_path)
    write(Path("toy"))
    Path("table.gin").write_text(TABLE)


def call(*more: str, file: str = "table.gin") -> list[str]:
    small = ["--gin.GRAPH='toy'", "--gin.FOLDER='toy'", "--gin.SEEDS=2", "--gin.EPOCHS=2"]
    return ["dfa", "graph", "--gin_file", file, "--output", "out", *small, *more]


def test_a_table_its_lines_and_its_figure(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(call("--figure", "figure.png")) == 0
    told = capsys.readouterr()
    assert "| gcn_dfa | test accuracy | 2 |" in told.out
    assert "| autoencoder | test AP | 2 |" in told.out
    assert "| gcn_dfa | conv1 |" in told.out
    assert "gcn_dfa: 100%" in told.err
    assert len(Path("out/gcn_dfa/results.jsonl").read_text().splitlines()) == 2
    assert "node_classes" in Path("out/gcn_dfa/config.gin").read_text()
    assert Path("figure.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--gin.FOLDER='none'",), "none/ind.toy.x: No such file or directory"),
        (("--gin.SEED=2",), "gin: unknown name SEED: nothing here uses it"),
        (("--gin.EPOCHS=0",), "epochs 0 is not a whole number above 0"),
        (("--gin.SEEDS='two'",), "seeds 'two' is not a whole number above 0"),
        (("--figure", "figure.jpg"), "figure.jpg: a figure is one of .png, .pdf, .svg"),
        (("--gin.graph.train.rule=@rules.shallow()",), "shallow"),
    ],
)
def test_bad_input_is_told_in_a_line(more: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(call(*more, file="dfa/graph/gcn.gin")) == 2
    told = capsys.readouterr().err
    assert told.startswith("pagnol: error: ")
    assert said in told
    assert told.count("\n") == 1
