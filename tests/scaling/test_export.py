"""Records to tables and back."""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from scaling.builders import power_runs, write_run

from pagnol_jax.cli.main import main
from pagnol_jax.scaling import RunRecord, read_runs


def assert_equal(one: RunRecord, other: RunRecord) -> None:
    for field in fields(RunRecord):
        if field.name == "curve":
            for column, same in zip(one.curve, other.curve, strict=True):
                np.testing.assert_array_equal(column, same)
        else:
            assert getattr(one, field.name) == getattr(other, field.name)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_folders_come_back_from_a_table(tmp_path: Path, suffix: str) -> None:
    folders = [write_run(tmp_path / "runs" / name, size) for name, size in (("s", 1000), ("m", 3000), ("l", 9000))]
    table = tmp_path / f"runs{suffix}"
    assert main(["scaling", "export", *map(str, folders), "--output", str(table)]) == 0
    for run, again in zip(read_runs(folders), read_runs([table]), strict=True):
        assert_equal(run, again)


def test_what_is_not_stated_stays_so(tmp_path: Path) -> None:
    from pagnol_jax.scaling.export import write_table

    run = power_runs(30, -0.05, 2)[0]
    bare = replace(run, convention=None, parameters=None, tokenizer=None, corpus=None, unique_tokens=3e9)
    bare = replace(bare, curve=run.curve._replace(tokens=np.full(5, np.nan)))
    write_table([bare], tmp_path / "bare.jsonl")
    assert_equal(bare, read_runs([tmp_path / "bare.jsonl"])[0])


def test_nonsense(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    run = write_run(tmp_path / "runs" / "s")
    assert main(["scaling", "export", str(run), "--output", str(tmp_path / "runs.xlsx")]) == 2
    assert capsys.readouterr().err.endswith("a table is one of .csv, .jsonl, .parquet\n")
    assert main(["scaling", "export", str(run), "--output", str(tmp_path / "no" / "runs.csv")]) == 2
    assert "No such file or directory" in capsys.readouterr().err
