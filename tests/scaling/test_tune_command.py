import argparse
import json
import re
from pathlib import Path

import numpy as np
import pytest
from scaling.builders import write_run

from pagnol_jax.cli import scaling as command
from pagnol_jax.errors import UserError

HEADER = "run,parameters_non_embedding,tokens,learning_rate,batch_tokens,loss,annealed"
CELLS = [(n, d) for n in (1e6, 1e7, 1e8) for d in (1e8, 1e9)]


def pagnol(*arguments: object) -> None:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    args = parser.parse_args(["scaling", *map(str, arguments)])
    args.run(args)


def rows(swept: str) -> list[str]:
    """Sweeps by factors of 2 around 1.79 N^-.713 D^.307 (learning rates) or .58 D^.571 (batches)."""
    lines = []
    for n, d in CELLS:
        for step in range(-2, 3):
            excess = 1 + 0.01 * step**2
            rate = 1.79 * n**-0.713 * d**0.307 * (2.0**step if swept == "learning_rate" else 1)
            batch = 0.58 * d**0.571 * (2.0**step if swept == "batch_tokens" else 1)
            lines.append(f"r{len(lines)},{n},{d},{rate!r},{batch!r},{3 * excess * (n * d) ** -0.01},true")
    return lines


def table(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join([HEADER, *lines]) + "\n")
    return path


@pytest.mark.parametrize(
    ("of", "variables", "law"),
    [
        ("learning_rate", "ND", "learning_rate = 1.79 N^-0.713 D^0.307"),
        ("batch_tokens", "D", "batch_tokens = 0.58 D^0.571"),
    ],
)
def test_planted_laws(tmp_path: Path, of: str, variables: str, law: str, capsys: pytest.CaptureFixture[str]) -> None:
    pagnol("tune", table(tmp_path / "t.csv", rows(of)), "--of", of, "--variables", variables)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"swept      {of}, 30 trials in 6 cells of one N and D"
    assert f"law        {law}" in lines


def test_learning_rate_in_what_varies_is_the_default(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unfinished = f"cut,1e6,{CELLS[0][1] / 2},1e-3,1e5,9.0,false"
    pagnol("tune", table(tmp_path / "t.csv", [*rows("learning_rate"), unfinished]))
    lines = capsys.readouterr().out.splitlines()
    assert "law        learning_rate = 1.79 N^-0.713 D^0.307" in lines
    assert lines[-1] == "note       left out, since not annealed: cut"


def test_run_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Folders that share N and D in threes, of which the middle rate, 2 / N, is the best."""
    for size in (1000, 4000, 16000):
        for factor in (0.5, 1, 2):
            file = write_run(tmp_path / f"n{size} {factor}", size) / "metrics.jsonl"
            lines = [json.loads(line) for line in file.read_text().splitlines()]
            for line in lines:
                line["loss_nats_per_token"] *= 1 + 0.01 * np.log2(factor) ** 2
                if "learning_rate" in line:
                    line["learning_rate"] = 2 * factor / size
            file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    pagnol("tune", tmp_path, "--corpus", "wiki", "--variables", "N")
    assert re.search(r"law +learning_rate = 2 N\^-1\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["a,1e6,1e8,1e-3,1e5,3,true"], "the 1 trials at N 1e.06, D 1e.08 have one learning_rate"),
        (["a,1e6,1e8,1e-3,1e5,3,true", "b,1e6,1e8,1e-3,1e5,4,true"], "have one learning_rate, 0.001"),
        (["a,1e6,1e8,1e-3,1e5,3,true", "b,1e6,1e8,2e-3,1e5,3,true"], "have one loss, 3"),
        (["a,1e6,1e8,1e-3,1e5,3,true", "b,1e6,1e8,2e-3,1e5,4,true"], "several sizes or numbers of tokens, not 1 cell"),
        (["a,1e6,1e8,,1e5,3,true", "b,1e6,1e8,2e-3,1e5,3,true"], "run 'a' does not state its learning_rate"),
        (["a,1e6,1e8,1e-3,1e5,nan,true"], "run 'a' has a loss of nan"),
        (["a,1e6,1e8,1e-3,1e5,3,false"], "none of these 1 runs is finished"),
    ],
)
def test_nonsense_is_told_in_one_line(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        pagnol("tune", table(tmp_path / "t.csv", lines))
    assert "\n" not in str(error.value)


def test_a_law_in_what_does_not_vary(tmp_path: Path) -> None:
    one_size = [line for line in rows("learning_rate") if ",1000000.0,1" in line]
    with pytest.raises(UserError, match="vary N by too little"):
        pagnol("tune", table(tmp_path / "t.csv", one_size), "--variables", "N")


@pytest.mark.parametrize("option", ["--of=depth", "--variables=DN"])
def test_unknown_choices_exit_with_a_message(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        pagnol("tune", "runs", option)
    assert "invalid choice" in capsys.readouterr().err
