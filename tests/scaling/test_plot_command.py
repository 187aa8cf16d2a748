import argparse
import csv
from pathlib import Path

import numpy as np
import pytest
from scaling.figures import check_written
from scaling.simulated import HOFFMANN, losses

from pagnol_jax.cli import scaling as command
from pagnol_jax.cli.scaling import plot
from pagnol_jax.errors import UserError
from pagnol_jax.scaling.allocate import optimum
from pagnol_jax.scaling.laws import CHINCHILLA

FLOP = ("--unit", "flop")


def pagnol(*arguments: object) -> None:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    args = parser.parse_args(["scaling", "plot", *map(str, arguments)])
    args.run(args)


def write_table(path: Path, compute: np.ndarray, size: np.ndarray) -> Path:
    """A run a row, by Hoffmann's law."""
    tokens = compute / (6 * size)
    rows = zip(compute, size, tokens, losses({"N": size, "D": tokens}, 0.003), strict=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["run", "flops", "params", "tokens", "loss"])
        writer.writerows([f"r{index}", *row] for index, row in enumerate(rows))
    return path


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    """Seven sizes at each of four budgets."""
    compute = np.repeat(np.geomspace(1e18, 1e20, 4), 7)
    best = optimum(CHINCHILLA, HOFFMANN, compute).parameters
    return write_table(tmp_path / "grid.csv", compute, best * np.tile(np.geomspace(1 / 5, 5, 7), 4))


@pytest.mark.parametrize("kind", plot.KINDS)
def test_every_kind_of_figure(grid: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    pagnol(grid, *FLOP, "--kind", kind, "--output", tmp_path / "a.png")
    check_written(tmp_path / "a.png")
    *left_out, last = capsys.readouterr().out.splitlines()
    assert last == f"wrote {tmp_path / 'a.png'}"
    # A size at one budget alone has no curve to envelop.
    assert [line.split(":", maxsplit=1)[0] for line in left_out] == ["left out  1  envelope"] * (kind == "approaches")


def test_held_out_runs_are_predicted(grid: Path, tmp_path: Path) -> None:
    pagnol(grid, *FLOP, "--kind", "extrapolation", "--hold_out", "r26,r27", "--output", tmp_path / "a.svg", "--dark")
    check_written(tmp_path / "a.svg")
    with pytest.raises(UserError, match=r"--hold_out r99: no such run"):
        pagnol(grid, *FLOP, "--kind", "extrapolation", "--hold_out", "r99", "--output", tmp_path / "a.svg")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("isoflop", "no compute budget has runs of 4 sizes"),
        ("residuals", "it needs more than the 3 observations"),
        ("bootstrap", "it needs more than the 3 observations"),
        ("extrapolation", "it needs more than the 3 observations"),
        ("approaches", "no approach has told the best size"),
    ],
)
def test_nonsense_is_told_in_one_line(tmp_path: Path, kind: str, message: str) -> None:
    table = write_table(tmp_path / "few.csv", np.array([1e18, 1e19, 1e20]), np.array([1e8, 3e8, 1e9]))
    with pytest.raises(UserError, match=message) as error:
        pagnol(table, *FLOP, "--kind", kind, "--output", tmp_path / "a.png")
    assert "\n" not in str(error.value)


def test_options_of_other_kinds_are_refused(grid: Path, tmp_path: Path) -> None:
    output = ("--output", tmp_path / "a.png")
    with pytest.raises(UserError, match="--reference is for --kind frontier"):
        pagnol(grid, "--kind", "isoflop", "--reference", "r1", *output)
    with pytest.raises(UserError, match="--hold_out is for --kind extrapolation"):
        pagnol(grid, "--hold_out", "r1", *output)
