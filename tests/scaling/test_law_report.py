"""`pagnol scaling fit --law`: what it prints, writes, and refuses in a line."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scaling.simulated import grid, losses

from pagnol_jax.cli.main import main
from pagnol_jax.cli.scaling import fit
from pagnol_jax.scaling import law_report
from pagnol_jax.scaling.laws import LAWS

Columns = dict[str, np.ndarray]


def write(path: Path, columns: Columns) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


def runs(noise: float = 0.003) -> Columns:
    inputs = grid(6, 5)
    names = np.array([f"run{index}" for index in range(inputs["N"].size)])
    return {"run": names, "parameters": inputs["N"], "tokens": inputs["D"], "loss": losses(inputs, noise)}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write(tmp_path / "grid.csv", runs())


def test_chinchilla(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    command = ["scaling", "fit", str(table), "--law", "chinchilla", "--objective", "squares"]
    assert main([*command, "--json", str(tmp_path / "law.json")]) == 0
    text = capsys.readouterr().out
    values = json.loads((tmp_path / "law.json").read_text())
    for name, planted in {"A": 406.4, "B": 410.7, "E": 1.69, "alpha": 0.34, "beta": 0.28}.items():
        assert values["constants"][name]["low"] <= planted <= values["constants"][name]["high"]
    a = values["size_exponent"]
    assert a["low"] <= 0.28 / 0.62 <= a["high"]
    assert values["converged"]
    assert values["rms_percent"] == pytest.approx(0.3, rel=0.25)
    assert f"a          {a['value']:.4f} [{a['low']:.4f}, {a['high']:.4f}]" in text
    assert "fit        converged, one optimum within 1 % of the best" in text
    assert all(one.name in text for one in law_report.OBJECTIVES.values())
    assert "variable projection of loss" in text
    assert [one["run"] for one in values["hold_out"]] == ["run17", "run23", "run29"]  # those of most compute
    assert all(abs(one["error_percent"]["value"]) < 1 for one in values["hold_out"])
    # A plain power law knows of no floor.
    assert values["hold_out"][-1]["power_law_error_percent"] < -1


def test_a_that_is_not_pinned_down_is_told(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    columns = runs(noise=0.02)
    few = {name: column[np.isin(np.arange(30) % 6, (0, 1, 2))] for name, column in columns.items()}
    table = write(tmp_path / "few.csv", few)
    assert main(["scaling", "fit", str(table), "--law", "chinchilla", "--objective", "squares"]) == 0
    assert "note       a is not pinned down by these runs" in capsys.readouterr().out


def test_a_law_of_compute_alone(table: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["scaling", "fit", str(table), "--law", "floored_C"]) == 0
    text = capsys.readouterr().out
    assert "L = E + A / C^alpha" in text
    assert "N* ~ C^a" not in text


def test_names_on_the_command_line_are_those_of_the_library() -> None:
    """Written out there, since the library is imported when a command runs."""
    assert set(fit.LAWS) == {name for name, law in LAWS.items() if "S" not in law.inputs}
    assert tuple(law_report.OBJECTIVES) == fit.OBJECTIVES


def one_run(columns: Columns) -> Columns:
    return {name: column[:1] for name, column in columns.items()}


def equal_sizes(columns: Columns) -> Columns:
    return columns | {"parameters": np.full_like(columns["parameters"], 1e8)}


def nan_losses(columns: Columns) -> Columns:
    return columns | {"loss": np.full_like(columns["loss"], np.nan)}


def constant_loss(columns: Columns) -> Columns:
    return columns | {"loss": np.full_like(columns["loss"], 3.0)}


def mixed_units(columns: Columns) -> Columns:
    units = np.where(np.arange(columns["loss"].size) % 2, "nats_per_token", "bits_per_byte")
    return columns | {"loss_unit": units}


def no_tokens(columns: Columns) -> Columns:
    return {name: column for name, column in columns.items() if name != "tokens"} | {"flops": columns["tokens"] * 6e8}


def text_loss(columns: Columns) -> Columns:
    return columns | {"loss": np.array(["low"] * columns["loss"].size)}


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (one_run, "all observations have the same parameters"),
        (equal_sizes, "all observations have the same parameters"),
        (nan_losses, "has a loss of nan"),
        (constant_loss, "all observations have the same loss"),
        (mixed_units, "bytes_per_token"),
        (no_tokens, "needs the tokens of every run"),
        (text_loss, "loss is 'low', not a number"),
    ],
)
def test_nonsense_is_told_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture, spoil: Callable[[Columns], Columns], told: str
) -> None:
    table = write(tmp_path / "bad.csv", spoil(runs()))
    assert main(["scaling", "fit", str(table), "--law", "chinchilla"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("pagnol: error: ")
    assert told in error
    assert error.count("\n") == 1


def test_an_objective_without_a_law(table: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["scaling", "fit", str(table), "--objective", "huber"]) == 2
    assert "--objective is for another --law" in capsys.readouterr().err
