import argparse
import json
from pathlib import Path

import pytest
from scaling.builders import write_run

from pagnol_jax.cli import scaling as command
from pagnol_jax.errors import UserError

VERTICES = ("--at", "0.0010147,0.0060156,0.030247,0.20032", "--exclude", "published_fit_line")
# The points of PAGnol's figure 1 (Launay et al. 2022) that its line was fitted to.
FIGURE = """curve,compute_pf_days,test_loss
xxsmall,1.014686e-03,4.443830
xsmall,6.015640e-03,4.095150
small,3.024733e-02,3.874820
medium,2.003172e-01,3.634430
"""


def pagnol(*arguments: object) -> None:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    args = parser.parse_args(["scaling", *map(str, arguments)])
    args.run(args)


@pytest.fixture
def ladder(tmp_path: Path) -> Path:
    for size in (1000, 3000, 9000, 30000):
        write_run(tmp_path / "ladder" / f"n{size}", size)
    return tmp_path / "ladder"


def check_published(path: Path) -> None:
    fit = json.loads(path.read_text())
    assert fit["exponent"] == pytest.approx(-0.0362, abs=1e-4)
    assert fit["prefactor_nats_per_token"] == pytest.approx(3.404, abs=2e-3)
    assert fit["compute_unit"] == "PF-days"
    assert [point["run"] for point in fit["points"]] == ["xxsmall", "xsmall", "small", "medium"]


def test_figure_1_from_its_four_points(tmp_path: Path) -> None:
    (tmp_path / "figure.csv").write_text(FIGURE)
    pagnol("fit", tmp_path / "figure.csv", "--json", tmp_path / "fit.json")
    check_published(tmp_path / "fit.json")


def test_figure_1_from_its_curves(data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figure = data_dir / "scaling" / "pagnol_figure1"
    pagnol("fit", figure, *VERTICES, "--json", tmp_path / "fit.json")
    check_published(tmp_path / "fit.json")
    printed = capsys.readouterr().out
    assert "exponent   -0.03616" in printed
    assert "prefactor  3.4039" in printed
    pagnol(
        "plot",
        figure,
        *VERTICES[:2],
        "--reference",
        "published_fit_line",
        "--output",
        tmp_path / "figure.svg",
    )
    assert (tmp_path / "figure.svg").stat().st_size > 10_000


def test_ladder_of_run_folders(ladder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pagnol("fit", ladder, "--corpus", "wiki", "--unit", "flop", "--json", tmp_path / "fit.json")
    fit = json.loads((tmp_path / "fit.json").read_text())
    assert fit["exponent"] == pytest.approx(-0.05)
    assert fit["prefactor_nats_per_token"] == pytest.approx(20)
    assert fit["compute_convention"] == "6*N_non_embedding*D"
    assert fit["hold_out"]["run"] == "n30000"
    assert fit["bootstrap"]["runs"] == 4
    assert fit["points"][0]["bits_per_byte"] == pytest.approx(fit["points"][0]["loss_nats_per_token"] / 2.7725887)
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split()[:5] == ["n9000", "9K", "18K", "9M", "4.86e+11"] for line in lines)
    assert any(line.startswith("note       4 runs carry the interval") for line in lines)


def test_convention_and_points(ladder: Path, tmp_path: Path) -> None:
    pagnol("fit", ladder, "--convention", "total", "--points", "all", "--json", tmp_path / "fit.json")
    fit = json.loads((tmp_path / "fit.json").read_text())
    assert fit["compute_convention"] == "6*N_total*D"
    assert len(fit["points"]) == 8


def test_notes_on_runs_that_are_not_annealed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for size in (1000, 1500):
        write_run(tmp_path / f"n{size}", size, seen=(5,))
    pagnol("fit", tmp_path)
    printed = capsys.readouterr().out
    assert "not annealed, so above the loss their compute can give: n1000, n1500" in printed
    assert "bootstrap  none: an interval needs at least three runs" in printed
    assert "hold-out   none" in printed
    assert "compute spans 0.4 decades" in printed


def test_plot_of_a_ladder(ladder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pagnol("plot", ladder, "--output", tmp_path / "law.png", "--dark")
    assert capsys.readouterr().out == f"wrote {tmp_path / 'law.png'}\n"


@pytest.mark.parametrize("verb", ["fit", "plot"])
@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("a,1,3", "at least two runs"),
        ("a,1,3\nb,1,4", "same compute"),
        ("a,1,3\nb,2,3", "same loss"),
        ("a,1,nan\nb,2,3", "run 'a' has a loss of nan"),
        ("a,1,x\nb,2,3", "line 2: loss is 'x', not a number"),
        ("", "holds no row"),
    ],
)
def test_nonsense_is_told_in_one_line(tmp_path: Path, verb: str, table: str, message: str) -> None:
    (tmp_path / "t.csv").write_text(f"run,flops,loss\n{table}\n")
    output = ("--output", tmp_path / "a.png") if verb == "plot" else ()
    with pytest.raises(UserError, match=message) as error:
        pagnol(verb, tmp_path / "t.csv", *output)
    assert "\n" not in str(error.value)


def test_other_nonsense(ladder: Path, tmp_path: Path) -> None:
    names = ",".join(path.name for path in ladder.iterdir())
    for arguments, message in (
        ([ladder, "--exclude", names], "no run is left"),
        ([ladder, "--exclude", "typo"], "no such run"),
        ([ladder, "--at", "1e9"], "no run has a checkpoint around"),
        ([ladder, "--json", tmp_path / "none" / "fit.json"], "cannot write"),
        ([tmp_path / "none"], "does not exist"),
    ):
        with pytest.raises(UserError, match=message):
            pagnol("fit", *arguments)


@pytest.mark.parametrize("option", ["--at=1,x", "--at=-1", "--columns=loss", "--columns=colour=red"])
def test_malformed_options_exit_with_a_message(ladder: Path, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        pagnol("fit", ladder, option)
    assert f"argument {option.split('=', maxsplit=1)[0]}" in capsys.readouterr().err
