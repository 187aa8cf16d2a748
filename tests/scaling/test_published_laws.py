"""The page of published laws: that its numbers are what they must be, and that it says what they are."""

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from benchmarks import published_laws
from benchmarks.published import chinchilla, compute, figure_1, kaplan, recovery, simulate
from benchmarks.published.coverage import Method, outside, study
from benchmarks.published.section import FOLDERS, Options, data_folder, table
from pagnol_jax.errors import UserError
from pagnol_jax.scaling.allocate import optimum
from pagnol_jax.scaling.laws import CHINCHILLA
from pagnol_jax.scaling.objectives import asymmetric
from pagnol_jax.scaling.parametric import fit_law

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def options(data_dir: Path) -> Options:
    return Options(data_dir / "scaling", draws=20, repeats=2, processes=1)


def test_the_page_says_its_numbers() -> None:
    report = json.loads((ROOT / published_laws.NUMBERS).read_text(encoding="utf-8"))
    assert published_laws.page(report) == (ROOT / published_laws.PAGE).read_text(encoding="utf-8")
    assert (report["draws"], report["repeats"]) == (1000, 500)


def test_what_must_be_shown_is_on_the_page() -> None:
    sections = json.loads((ROOT / published_laws.NUMBERS).read_text(encoding="utf-8"))["sections"]
    numbers = {name: section["numbers"] for name, section in sections.items()}
    assert all(fit["inside"] and fit["distance"] <= 0.008 for fit in numbers["porian"]["fits"])
    assert len(numbers["porian"]["fits"]) == 15
    for one in numbers["gadre"]["errors"]:
        assert one["percent"] == pytest.approx(one["published_percent"], rel=0.02)
    assert all("Huber" in one for one in outside(numbers["recovery"]["methods"]))  # wide ones: the page says why
    assert {one["repeats"] for one in numbers["recovery"]["methods"]} == {500}
    assert all(one["wall_seconds"] < 30 for one in numbers["chinchilla"]["bootstraps"].values())
    assert {one["draws"] for one in numbers["chinchilla"]["bootstraps"].values()} == {4000}


def test_figure_1(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figure_1, "_laws", lambda runs: [])  # these take their time
    numbers = figure_1.measure(options)
    assert max(numbers["relative_error"].values()) <= 1e-4
    told = [(fit["points"], fit["exponent"], fit["prefactor"]) for fit in numbers["lines"].values()]
    expected = [
        (4, -0.036155, 3.40392),
        (1696, -0.037937, 3.36892),
        (1460, -0.035322, 3.40152),
        (140, -0.043231, 3.27645),
        (107, -0.0359248, 3.39397),
        (4, -0.042961, 3.39609),
    ]
    np.testing.assert_allclose(told, expected, rtol=2e-5)
    pareto = numbers["lines"]["Pareto set above .002 PF-days"]
    assert (pareto["free_exponent"], pareto["free_prefactor"]) == pytest.approx((-0.0361, 3.4135), rel=3e-4)


def test_conventions_told_apart(options: Options) -> None:
    said = "\n".join(compute.page(compute.measure(options)))
    assert "Figure 1 counts **6*N_non_embedding*D**" in said
    assert "Tables 1 and 3 count **6*N_total*D**" in said
    assert "| xlarge | 3 | 3.12 | 3.07 |" in said


def test_kaplan(options: Options) -> None:
    laws = kaplan.measure(options)["laws"].values()
    assert [one["size_exponent"] for one in laws] == pytest.approx([0.75, 0.787], abs=1e-3)
    assert [one["size_exponent_all_parameters"] for one in laws] == pytest.approx([0.4565, 0.5126], abs=1e-4)


def test_the_package_s_asymmetric_loss_is_on_raw_loss(options: Options) -> None:
    inputs, loss = chinchilla.read(options.data)
    found = []
    for log in (False, True):
        fit = fit_law(
            CHINCHILLA, inputs, loss, objective=asymmetric(log=log), starts=CHINCHILLA.starts(inputs, loss)[::4]
        )
        found.append({name: one.value for name, one in fit.constants.items()})
    assert found[0] == pytest.approx(chinchilla.PACKAGE, rel=1e-4)
    assert found[1]["B"] < 0.75 * chinchilla.PACKAGE["B"]


def test_simulated_ladder() -> None:
    runs = simulate.ladder()
    flops = 6 * runs["N"] * runs["D"]
    budgets, counts = np.unique(flops.round(-12), return_counts=True)
    assert counts.tolist() == [2, 3, 7, 5, 4]
    assert budgets[-1] / budgets[0] == pytest.approx(100)
    for budget in budgets:  # the optimum lies inside
        own = runs["N"][np.isclose(flops, budget)]
        assert own.min() < optimum(CHINCHILLA, simulate.HOFFMANN, budget).parameters < own.max()


def made_up(seed: int, draws: int) -> np.ndarray:
    """Two estimators of 1 with a normal error of 1: an interval of 95 %, and one of half its width."""
    value = 1 + np.random.default_rng(seed).normal()
    return np.array([[value, value], [value - 1.96, value - 0.98], [value + 1.96, value + 0.98]])


def test_coverage_is_counted() -> None:
    (told,) = study([Method("made up", {"x": 1.0, "log y": 1.0}, made_up, share=0.5)], 1000, draws=10, processes=1)
    assert (told["draws"], told["repeats"]) == (5, 1000)
    right, narrow = told["quantities"].values()
    assert right["coverage_percent"] == pytest.approx(95, abs=1.5)
    assert right["median_width"] == pytest.approx(3.92)
    assert right["std"] == pytest.approx(1, abs=0.05)
    assert right["bias"] == pytest.approx(0, abs=0.1)
    assert outside([told]) == [f"made up, y ({narrow['coverage_percent']:.1f} %)"]


@pytest.mark.parametrize("method", recovery.methods(), ids=lambda method: method.label)
def test_a_repeat_of_every_approach(method: Method) -> None:
    value, low, high = method.repeat(0, 30)
    truth = np.array(list(method.truth.values()))
    assert value.shape == truth.shape
    assert (low < value).all()
    assert (value < high).all()
    assert (abs(value - truth) < 3 * (high - low)).all()


def test_processes_change_nothing() -> None:
    methods = [Method("1, envelope", {"a": 0.45}, recovery.envelope)]
    run: Callable[[int], list] = partial(study, methods, 3, 10)
    assert run(2) == run(1)


def test_missing_data_are_told_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in FOLDERS[1:]:
        (tmp_path / "scaling" / name).mkdir(parents=True)
    monkeypatch.setenv("PAGNOL_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["published_laws"])
    with pytest.raises(SystemExit) as left:
        published_laws.main()
    assert left.value.code == 2
    said = capsys.readouterr().err
    assert said == f"published_laws: {tmp_path}/scaling lacks pagnol_figure1: no public run tables to fit\n"
    monkeypatch.delenv("PAGNOL_DATA_DIR")
    with pytest.raises(UserError, match="PAGNOL_DATA_DIR is not set"):
        data_folder()


def test_table() -> None:
    assert table([{"a": "1", "b": "x"}, {"a": "2", "b": "y"}]) == "| a | b |\n| --- | --- |\n| 1 | x |\n| 2 | y |"
