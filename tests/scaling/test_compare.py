import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scaling.builders import power_runs, write_run
from scaling.simulated import HOFFMANN
from scipy.optimize import minimize_scalar

from pagnol_jax.cli import scaling as command
from pagnol_jax.errors import UserError
from pagnol_jax.scaling import NON_EMBEDDING, PF_DAY, TOTAL, Curve, RunRecord, fit_frontier, with_convention
from pagnol_jax.scaling.compare import compare
from pagnol_jax.scaling.compare_report import as_json, as_text
from pagnol_jax.scaling.compare_verdict import notes, verdict
from pagnol_jax.scaling.estimate import Estimate
from pagnol_jax.scaling.group_frontiers import (
    BITS,
    NATS,
    chinchilla_frontier,
    least_loss,
    log_least_compute,
    undetermined,
)
from pagnol_jax.scaling.laws import CHINCHILLA, evaluate
from pagnol_jax.scaling.points import final_points


def ladder(
    compute: float = 1.0, exponent: float = -0.05, *, noise: float = 0.0, seed: int = 0, **changes: object
) -> list[RunRecord]:
    """Six runs, one point each, that need `compute` times the compute of L = 20 C^exponent."""
    prefactor = 20 * compute**-exponent * np.exp(-0.5)  # of the one point of a run, which the builder lifts by .5
    runs = power_runs(prefactor, exponent, noise=noise, seed=seed, steps=1)
    return [replace(run, **{"annealed": True, "bytes_per_token": 3.0, **changes}) for run in runs]


def grid(compute: float = 1.0, *, noise: float = 0.0, seed: int = 0) -> list[RunRecord]:
    """Hoffmann's law on 6 x 4 sizes and tokens, with each term as if N D were `compute` times less."""
    random = np.random.default_rng(seed)
    runs = []
    for size in np.geomspace(1e7, 1e9, 6):
        for ratio in (5, 15, 50, 150):
            tokens = size * ratio
            inputs = {"N": size * compute**-0.5, "D": tokens * compute**-0.5}
            loss = evaluate(CHINCHILLA, HOFFMANN, **inputs) * np.exp(noise * random.normal())
            curve = Curve(tokens, 6 * size * tokens, loss)
            runs.append(RunRecord(f"{size:.2g} {ratio}", curve, NON_EMBEDDING, None, size, annealed=True))
    return runs


def holds(estimate: Estimate, value: float) -> bool:
    return estimate.low <= value <= estimate.high


def test_planted_laws_are_had_back_exactly() -> None:
    losses = compare(ladder(), ladder(1.5, -0.052), draws=20).units[0]
    law = losses.laws[0]
    assert law.law == "power law"
    assert law.exponent.value == pytest.approx(-0.002)
    for compute, ratio in zip(losses.compute_flops, law.loss, strict=True):
        assert ratio.value == pytest.approx((compute / 1.5) ** -0.052 / compute**-0.05)
    for loss, ratio in zip(losses.loss, law.compute, strict=True):
        nats = loss * np.log(2) * 3
        assert ratio.value == pytest.approx(1.5 * (nats / 20) ** (-1 / 0.052) / (nats / 20) ** (-1 / 0.05))
    # 20 (C / 1.5)^-.052 = 20 C^-.05 at C = 1.5^26, before the first run; none is looked for there.
    assert law.crossing.compute_flops.value == np.inf
    assert law.crossing.share == 0


def test_crossing_beyond_the_runs() -> None:
    crossing = compare(ladder(), ladder(4e4, -0.065), draws=20).units[0].laws[0].crossing
    assert crossing.compute_flops.value == pytest.approx(4e4 ** (0.065 / 0.015), rel=1e-3)
    assert crossing.share == 1


def test_noisy_laws_are_inside_the_intervals() -> None:
    """Coverage over 300 repeats is 98, 95, 95, 95, 95 %."""
    held = []
    for seed in range(40):
        pair = (ladder(c, noise=0.003, seed=2 * seed + index) for index, c in enumerate((1.0, 1.5)))
        losses = compare(*pair, draws=200, seed=seed).units[0]
        law, paired = losses.laws[0], losses.paired
        assert paired is not None
        assert paired.exponent is not None
        ratio = 1.5**0.05
        held.append((
            holds(law.exponent, 0), holds(law.loss[1], ratio), holds(law.compute[1], 1.5),
            holds(paired.ratio, ratio), holds(paired.exponent, 0),
        ))  # fmt: skip
    assert (np.mean(held, axis=0) >= 0.85).all()


def test_verdict_on_more_compute_and_on_equal_laws() -> None:
    names = ("fr", "en")
    more = verdict(compare(ladder(noise=0.001, seed=1), ladder(1.5, noise=0.001, seed=2), names), PF_DAY)
    assert more[0].startswith("power law: no difference between the exponents is shown: en - fr = ")
    assert any("the loss of en is higher than that of fr in bits per byte: +2." in line for line in more)
    assert any(line.startswith("power law: en needs 1.4") or "en needs 1.5" in line for line in more)
    equal = verdict(compare(ladder(noise=0.001, seed=1), ladder(noise=0.001, seed=2), names), PF_DAY)
    assert not any("higher" in line or "lower" in line or "falls" in line for line in equal)
    assert "includes 1: no difference is shown" in equal[-1]


def test_equal_nats_of_longer_tokens_are_fewer_bits_per_byte() -> None:
    comparison = compare(ladder(), ladder(bytes_per_token=4.0, tokenizer="other"), draws=20)
    bits, nats = comparison.units
    assert (bits.unit, bits.comparable, nats.unit, nats.comparable) == (BITS, True, NATS, False)
    assert [ratio.value for ratio in bits.laws[0].loss] == pytest.approx([0.75] * 3)
    assert [ratio.value for ratio in nats.laws[0].loss] == pytest.approx([1] * 3)
    assert [ratio.value for ratio in nats.laws[0].compute] == pytest.approx([1] * 3)
    assert bits.laws[0].exponent.value == nats.laws[0].exponent.value
    assert bits.paired is not None
    final = [run.curve.loss_nats_per_token[-1] / np.log(2) for run in ladder()]
    assert bits.paired.difference.value == pytest.approx(np.mean(final) * (1 / 4 - 1 / 3))
    assert "the tokenizers differ: nats per token do not compare, bits per byte and exponents do" in notes(comparison)


def test_without_bytes_per_token_there_are_nats_only() -> None:
    comparison = compare(ladder(), ladder(bytes_per_token=None), draws=20)
    assert [losses.unit for losses in comparison.units] == [NATS]
    assert any(note.startswith("bytes per token are not stated") for note in notes(comparison))
    assert any("no difference" in line and NATS in line for line in verdict(comparison, PF_DAY))
    apart = compare(ladder(), ladder(bytes_per_token=None, tokenizer="other"), draws=20)
    assert verdict(apart, PF_DAY)[-1].startswith("the losses of A and B cannot be compared")


def test_conventions_are_converted_or_refused() -> None:
    total = [with_convention(run, TOTAL) for run in ladder()]
    comparison = compare(ladder(), total, draws=20)
    assert {run.convention for group in comparison.groups for run in group.runs} == {NON_EMBEDDING}
    assert comparison.units[0].laws[0].compute[1].value == pytest.approx(1)
    without = [replace(run, parameters=None, parameters_non_embedding=None) for run in total]
    with pytest.raises(UserError, match="A and B count compute by conventions that do not convert") as error:
        compare(ladder(), [replace(run, convention=None) for run in without])
    assert "\n" not in str(error.value)


def test_frontier_of_chinchillas_law_is_its_least_loss() -> None:
    frontier = chinchilla_frontier(HOFFMANN)
    for compute in (1e18, 1e22):

        def loss(log_n: float, compute: float = compute) -> float:
            return float(evaluate(CHINCHILLA, HOFFMANN, N=np.exp(log_n), D=compute / 6 / np.exp(log_n)))

        least = minimize_scalar(loss, bounds=(10, 35), method="bounded", options={"xatol": 1e-10}).fun
        assert least_loss(frontier, compute) == pytest.approx(least, rel=1e-9)
        assert log_least_compute(frontier, least) == pytest.approx(np.log(compute))
    assert log_least_compute(frontier, 1.69) == np.inf
    assert np.isnan(chinchilla_frontier(HOFFMANN * [1, 1, 1, -1, 1])).all()


def test_a_law_of_n_and_d_recovers_the_multiplier_and_judges() -> None:
    comparison = compare(grid(noise=0.001, seed=1), grid(1.5, noise=0.001, seed=2), draws=100)
    losses = comparison.units[0]
    assert losses.judge.law.startswith("Chinchilla")
    for law in losses.laws[2:]:
        assert all(holds(ratio, 1.5) and ratio.width < 0.3 for ratio in law.compute)
        assert holds(law.exponent, 0)
        assert law.held_out_percent < 0.5 < losses.laws[0].held_out_percent
    (fit,) = (each.fit for each in comparison.frontiers[0] if each.law == "Chinchilla (least squares)")
    assert fit is not None
    assert holds(fit.constants["alpha"], 0.34)
    text, values = as_text(comparison, PF_DAY), as_json(comparison, PF_DAY)
    assert "E (nats per token)" in text
    assert "note       the power laws predict held-out runs less well" in text
    chinchilla = values["groups"][0]["laws"]["Chinchilla (least squares)"]
    assert chinchilla["a"]["value"] == pytest.approx(0.28 / (0.34 + 0.28), abs=0.02)
    assert json.loads(json.dumps(values, allow_nan=False)) == values


def test_what_does_not_determine_a_law_of_n_and_d() -> None:
    runs = grid()
    assert undetermined(final_points(runs)) == ""
    assert undetermined(final_points(ladder())) == "D follows from N, so their parts in the loss cannot be told"
    assert undetermined(final_points(runs[:5])) == "it takes 6 runs, these are 5"
    assert undetermined(final_points(runs[:8])) == "it takes 3 values of N, these are 2"
    unsaid = [replace(run, parameters_non_embedding=None) for run in runs]
    assert undetermined(final_points(unsaid)) == "N or D is not stated"


def test_hold_out_is_that_of_a_frontier_fit() -> None:
    runs = ladder(noise=0.01)
    held = fit_frontier(runs, draws=0).hold_out
    power, pagnol = compare(runs, ladder(), draws=20).frontiers[0]
    assert held is not None
    assert power.held_out_percent == pytest.approx(held.error_percent_unconstrained)
    assert pagnol.held_out_percent == pytest.approx(held.error_percent)


def test_inefficient_and_unfinished_runs_leave_the_frontier_alone() -> None:
    def beside(run: RunRecord, name: str, **changes: object) -> RunRecord:
        return replace(run, name=name, curve=run.curve._replace(loss_nats_per_token=[9.0]), **changes)

    runs = ladder()
    more = [*runs, beside(runs[2], "worse"), beside(runs[3], "stopped", annealed=False)]
    comparison = compare(runs, more, draws=20)
    assert comparison.units[0].laws[0].compute[1].value == pytest.approx(1)
    assert "B: left out, since not annealed: stopped" in notes(comparison)
    assert len(comparison.groups[1].runs) == 7


def test_pairs_need_one_name_one_n_and_one_d_and_count_by_design() -> None:
    sweep = [replace(run, name=f"{run.name}{rate}") for run in ladder() for rate in "xyz"]
    paired = compare(ladder() + sweep, ladder(1.5) + sweep, draws=20).units[0].paired
    assert paired is not None
    assert (len(paired.names), paired.designs) == (24, 6)
    assert paired.ratio.value == pytest.approx(1.5 ** (0.05 / 4))
    renamed = [replace(run, name=run.name + "b") for run in ladder()]
    resized = [replace(run, parameters_non_embedding=run.parameters_non_embedding * 1.1) for run in ladder()]
    for other in (renamed, resized):
        assert compare(ladder(), other, draws=20).units[0].paired is None


def test_losses_and_computes_that_do_not_overlap() -> None:
    comparison = compare(ladder(), ladder(1e9), draws=20)
    assert comparison.units[0].laws[0].compute == ()
    assert verdict(comparison, PF_DAY)[-1].startswith("no loss was reached by both A and B")
    later = [replace(run, curve=run.curve._replace(compute_flops=run.curve.compute_flops * 1e6)) for run in ladder()]
    apart = compare(ladder(), later, draws=20)
    assert apart.units[0].laws[0].loss == ()
    assert any("share no range of compute" in note for note in notes(apart))


def test_few_runs_carry_no_interval() -> None:
    comparison = compare(ladder()[:2], ladder(1.5)[:2])
    assert np.isnan(comparison.units[0].laws[0].compute[1].low)
    assert verdict(comparison, PF_DAY)[0].endswith("without an interval: too few runs")
    assert "A: 2 efficient runs carry no interval" in notes(comparison)
    assert "nan" not in as_text(comparison, PF_DAY)


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        (ladder()[:1], "B: a comparison takes two finished runs or more of each group, not 1"),
        (ladder(annealed=False), "not 0"),
        (ladder(exponent=0.0), "B: no run of more compute has a lower loss than"),
        ([ladder()[0], *ladder(bytes_per_token=4.0)[1:]], r"B: bytes per token differ between runs \(3 to 4\)"),
        ([replace(run, parameters_non_embedding=1e6) for run in ladder()], "B: all runs have one size"),
    ],
)
def test_nonsense_is_told_in_one_line(runs: list[RunRecord], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        compare(ladder(), runs)
    assert "\n" not in str(error.value)


def pagnol(*arguments: object) -> None:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    args = parser.parse_args(["scaling", *map(str, arguments)])
    args.run(args)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    for group in ("fr", "en"):
        for size in (1000, 3000, 9000, 30000):
            write_run(tmp_path / group / f"n{size}", size)
    return tmp_path / "fr", tmp_path / "en"


def test_command_on_run_folders(folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outputs = ["--json", tmp_path / "c.json", "--plot", tmp_path / "c.svg"]
    pagnol("compare", *folders, "--corpus", "wiki", "--unit", "flop", *outputs)
    assert "<svg" in (tmp_path / "c.svg").read_text()
    printed = capsys.readouterr().out
    assert "A          fr: 4 runs, 4 of them efficient, 6e+09 to 5.4e+12 FLOP" in printed
    assert "compute of en over fr at" in printed
    values = json.loads((tmp_path / "c.json").read_text())
    assert [unit["unit"] for unit in values["units"]] == [BITS, NATS]
    assert values["units"][0]["laws"]["power law"]["exponent_difference"]["value"] == pytest.approx(0)
    assert values["groups"][1]["laws"]["power law"]["exponent"]["value"] == pytest.approx(-0.05)
    assert values["groups"][0]["hold_out"] == {"left_out": ["n30000"], "predicted": "n30000"}


def test_command_on_the_same_folder_says_so(folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    pagnol("compare", folders[0], folders[0])
    assert "note       fr (A) and fr (B) are the same runs" in capsys.readouterr().out


def test_command_leaves_out_runs_of_either_group(
    folders: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    (folders[0] / "n1000" / "metrics.jsonl").unlink()
    pagnol("compare", *folders, "--exclude", "n1000", "--names", "un,deux")
    assert "A          un: 3 runs" in capsys.readouterr().out
    write_run(folders[1] / "extra", 300)
    pagnol("compare", *folders, "--exclude", "n1000,extra")
    assert "B          en: 3 runs" in capsys.readouterr().out
    with pytest.raises(UserError, match="--exclude typo: no such run in"):
        pagnol("compare", *folders, "--exclude", "n1000,typo")
    with pytest.raises(UserError, match="does not exist"):
        pagnol("compare", folders[0], folders[1] / "none", "--exclude", "n1000")


def test_command_tells_several_groups_against_the_first(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for size in (1000, 3000, 9000):
        write_run(tmp_path / "de" / f"n{size}", size)
    outputs = ["--json", tmp_path / "c.json", "--plot", tmp_path / "c.svg"]
    pagnol("compare", *folders, tmp_path / "de", *outputs)
    printed = capsys.readouterr().out
    assert printed.index("en - fr") < printed.index("B          de: 3 runs") < printed.index("de - fr")
    found = json.loads((tmp_path / "c.json").read_text())
    assert [[group["name"] for group in each["groups"]] for each in found] == [["fr", "en"], ["fr", "de"]]
    with pytest.raises(UserError, match="--names has 2 names for 3 groups"):
        pagnol("compare", *folders, tmp_path / "de", "--names", "a,b")


@pytest.mark.parametrize("names", ["a", "a,a", "a,b,a", "a,"])
def test_malformed_names_exit_with_a_message(names: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        pagnol("compare", "x", "y", "--names", names)
    assert "argument --names" in capsys.readouterr().err
