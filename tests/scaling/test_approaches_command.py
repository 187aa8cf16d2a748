"""`pagnol scaling approaches`: three ways to one exponent."""

from pathlib import Path

import numpy as np
import pytest
from scaling.simulated import HOFFMANN

from pagnol_jax.cli.main import main
from pagnol_jax.scaling.laws import CHINCHILLA, evaluate


def write(path: Path, budgets: np.ndarray, sizes: np.ndarray) -> str:
    """Runs of every size at every budget, losses of Hoffmann's law with 0.2 % of noise."""
    random = np.random.default_rng(0)
    lines = ["run,parameters,tokens,loss"]
    for budget in budgets:
        for size in sizes:
            tokens = budget / 6 / size
            loss = evaluate(CHINCHILLA, HOFFMANN, N=size, D=tokens) * np.exp(0.002 * random.normal())
            lines.append(f"{size:.3g} at {budget:.3g},{size},{tokens},{loss}")
    path.write_text("\n".join(lines))
    return str(path)


def test_three_ways_agree(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    table = write(tmp_path / "grid.csv", np.geomspace(1e18, 1e20, 5), np.geomspace(2e7, 2e9, 8))
    assert main(["scaling", "approaches", table, "--unit", "flop"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split("  ")[0] == "approach"
    assert "N* at 1e+20 FLOP" in lines[0]
    start = lines[0].index("  a ") + 2
    found = {line[:start].strip(): float(line[start:].split()[0]) for line in lines if line[:1] in "123"}
    for name in ("2  IsoFLOP, parabola", "3  Huber(0.001)", "3  least squares"):
        assert found[name] == pytest.approx(0.28 / 0.62, abs=0.02)
    # One point a run is no curve.
    assert any(line.startswith("left out   1  envelope: ") for line in lines)


def test_runs_that_tell_nothing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    table = write(tmp_path / "line.csv", np.array([1e18]), np.array([1e8, 2e8, 3e8]))
    assert main(["scaling", "approaches", table]) == 2
    error = capsys.readouterr().err
    assert "no compute budget has runs of 4 sizes" in error
    assert error.count("\n") == 1
