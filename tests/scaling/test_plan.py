import json
from dataclasses import replace
from pathlib import Path

import gin
import numpy as np
import pytest
from scaling.test_command import pagnol

from pagnol_jax.cli import gin_files
from pagnol_jax.cli.ladder import rungs as rungs_of
from pagnol_jax.cli.scaling import plan as command
from pagnol_jax.cli.scaling import rungs
from pagnol_jax.errors import UserError
from pagnol_jax.models.config import GPTConfig
from pagnol_jax.scaling import PF_DAY, TOTAL, Curve, RunRecord
from pagnol_jax.scaling.allocate import optimum
from pagnol_jax.scaling.chips import Budget, parse_slice
from pagnol_jax.scaling.laws import CHINCHILLA, evaluate
from pagnol_jax.scaling.plan import PUBLISHED, basis_of, make_plan

HOFFMANN = PUBLISHED["hoffmann"].parameters
POD = ("--chips", "v5p-128", "--hours", 100, "--mfu", 0.6)


def runs(noise: float) -> list[RunRecord]:
    """Runs of Hoffmann's law: six sizes at five ratios, up to 1.2e20 FLOP."""
    random, records = np.random.default_rng(1), []
    for size in np.geomspace(2e7, 5e8, 6):
        for ratio in np.geomspace(5, 80, 5):
            tokens = ratio * size
            loss = evaluate(CHINCHILLA, HOFFMANN, N=size, D=tokens) * np.exp(noise * random.normal())
            curve = Curve(np.array([tokens]), np.array([6 * size * tokens]), np.array([loss]))
            records.append(RunRecord(f"{size:.0f}x{ratio:.0f}", curve, TOTAL, parameters=size))
    return records


@pytest.mark.parametrize(
    ("name", "chips", "peak"),
    # Google's accelerator types: v4 and v5p count TensorCores, two a chip, v5e and v6e count chips.
    [("v4-8", 4, 2.75e14), ("v5p-128", 64, 4.59e14), ("v5litepod-16", 16, 1.97e14), ("V5e-16", 16, 1.97e14),
     ("v6e-8", 8, 9.2e14)],
)  # fmt: skip
def test_slices(name: str, chips: int, peak: float) -> None:
    slice_ = parse_slice(name)
    assert slice_.chips == chips
    assert slice_.chip.peak_flops_per_second == peak


@pytest.mark.parametrize("name", ["v9-8", "v5p", "v5p-", "v5p-0", "v5p-7", "h100", ""])
def test_unknown_slices_are_told_in_a_line(name: str) -> None:
    with pytest.raises(UserError, match="--chips") as error:
        parse_slice(name)
    assert "\n" not in str(error.value)


def test_chip_hours_of_pagnol_xl() -> None:
    # 3 PF-days, which PAGnol's table 3 gives for XL, on v5e: 366 chip-hours at its peak, 914 at 40 %.
    for mfu, hours in ((1.0, 366), (0.4, 914)):
        budget = Budget(parse_slice("v5e-1"), hours, mfu, price=2.0)
        assert budget.compute_flops == pytest.approx(3 * PF_DAY.flops, rel=2e-3)
        assert budget.cost == 2 * hours


def test_plan_by_published_constants() -> None:
    plan = make_plan(PUBLISHED["hoffmann"], 5.76e23, inference_tokens=1e13)
    assert plan.parameters.value == pytest.approx(40e9, rel=0.01)  # figure 4 of Hoffmann et al.
    assert np.isnan(plan.parameters.low)
    assert plan.extrapolation is None
    factors = [smaller.compute_factor.value for smaller in plan.smaller]
    assert factors == sorted(factors)
    assert plan.lifetime is not None
    assert plan.lifetime.parameters < plan.best.parameters
    for smaller in plan.smaller:  # where a smaller model starts to pay, both cost the same over their lives
        both = [model.compute_flops + 2 * model.parameters * smaller.pays_from_tokens
                for model in (smaller.allocation, plan.best)]  # fmt: skip
        assert both[0] == pytest.approx(float(both[1]))


def test_plan_by_runs() -> None:
    basis = basis_of(runs(noise=0.003), draws=200)
    assert basis.with_embedding
    assert basis.noise == pytest.approx(0.003, rel=0.4)
    plan, truth = make_plan(basis, 1.2e21), optimum(CHINCHILLA, HOFFMANN, 1.2e21)
    assert plan.extrapolation == pytest.approx(10)
    for told, value in ((plan.parameters, truth.parameters), (plan.tokens, truth.tokens), (plan.loss, truth.loss)):
        assert told.low < value < told.high
        assert told.low < told.value < told.high
    near = make_plan(basis, 1e20)
    assert near.loss.width < plan.loss.width  # intervals widen as a law is extrapolated


def test_size_without_embedding_is_counted_so() -> None:
    bare = [replace(run, convention=None, parameters_non_embedding=run.parameters) for run in runs(noise=0.003)]
    assert not basis_of(bare, draws=2).with_embedding


def test_nearest_rung_is_counted_from_its_gin_file() -> None:
    found = {Path(rung.file).stem: rung.config for rung in rungs.pagnol_rungs()}
    assert list(found) == [f"pagnol_{size}" for size in ("xxs", "xs", "s", "m", "l", "xl")]
    assert found["pagnol_m"].parameters(embedding=False) == pytest.approx(302e6, rel=2e-3)  # table 3 of PAGnol
    plan = make_plan(PUBLISHED["hoffmann"], 2e20)
    rung = rungs.nearest(plan)
    assert rung.name == "pagnol_l (runs/pagnol_l.gin)"
    assert rung.allocation.parameters == found["pagnol_l"].parameters()
    assert rung.steps == round(rung.allocation.tokens / (512 * 1024))
    assert rung.loss.value >= plan.loss.value
    assert 0.9 < rung.worth_flops / 2e20 <= 1


def test_written_ladder_is_the_designed_one(tmp_path: Path) -> None:
    pagnol("plan", *POD, "--ladder", tmp_path / "next.gin", "--json", tmp_path / "plan.json")
    told = json.loads((tmp_path / "plan.json").read_text())["ladder"]
    ladder = str(tmp_path / "next.gin")
    gin_files.parse([ladder], [], whole=False)
    table = rungs_of(ladder)
    assert len(table) == 10
    for settings, size, tokens in zip(table.values(), told["parameters"], told["tokens"], strict=True):
        gin_files.parse([ladder], settings)  # as `pagnol ladder` does: every macro bound, and of use
        config = gin_files.call(GPTConfig, vocab_size=gin.query_parameter("mixture.trained_bpe.vocab_size"))
        assert config.parameters() == size
        assert config.head_dim == 64
        steps, batch, length, warmup, rate = (
            gin.query_parameter(f"{name}/macro.value")
            for name in ("TOTAL_STEPS", "BATCH_SIZE", "LENGTH", "WARMUP_STEPS", "LEARNING_RATE")
        )
        assert steps * batch * length == pytest.approx(tokens, rel=1e-3)
        assert 0 < warmup < steps
        assert 1e-4 < rate <= 1e-2


def test_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    served = ("--inference_tokens", 1e12, "--unique_tokens", 1e11, "--price", 4)
    pagnol("plan", *POD, *served, "--json", tmp_path / "plan.json")
    printed, told = capsys.readouterr().out, json.loads((tmp_path / "plan.json").read_text())
    assert told["compute_flops"] == pytest.approx(64 * 4.59e14 * 0.6 * 360_000)
    assert told["cost"] == 64 * 100 * 4
    assert told["parameters"]["interval_95"] is None
    assert told["lifetime_optimum"]["loss_nats_per_token"] == pytest.approx(told["loss_nats_per_token"]["value"])
    assert told["ladder"]["standard_errors_along_optimum"]["exponent"] is None
    assert sum(told["ladder"]["compute_flops"]) <= 0.01 * told["compute_flops"]
    for line in (
        "N*         5.15G parameters",
        "compute    6.35e+21 FLOP = 73.4 PF-days, as 6 N D, N with embeddings",
        "cost       6,400 chip-hours at 4 = 25,600",
        "pagnol train --gin_file runs/pagnol_xl.gin --gin.TOTAL_STEPS=",
        "published constants: no intervals",
        "N* is off the ladder",
        "D* is 2.05 epochs of the data",
    ):
        assert line in printed


def test_report_of_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        f"{run.name},{run.parameters},{run.curve.tokens[0]},{run.curve.loss_nats_per_token[0]}" for run in runs(3e-3)
    ]
    (tmp_path / "runs.csv").write_text("\n".join(["run,parameters,tokens,loss", *rows]))
    arguments = ("--chips", "v5e-64", "--budget", 10_000, "--price", 1.2, "--runs", tmp_path / "runs.csv")
    pagnol("plan", *arguments, "--json", tmp_path / "plan.json")
    told = json.loads((tmp_path / "plan.json").read_text())
    assert told["hours"] == pytest.approx(10_000 / 1.2 / 64)
    assert told["cost"] == pytest.approx(10_000)
    low, high = told["parameters"]["interval_95"]
    assert low < told["parameters"]["value"] < high
    assert "times the compute of the largest run: a far extrapolation" in capsys.readouterr().out


def test_a_budget_too_small_for_a_ladder_still_has_a_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ("--chips", "v5e-1", "--hours", 1)
    pagnol("plan", *small)
    printed = capsys.readouterr().out
    assert "ladder     none: the sizes at hand give 0 candidates" in printed
    assert "--gin.WARMUP_STEPS=" in printed  # the rung's own warm-up would be longer than the run
    with pytest.raises(UserError, match="give 0 candidates"):
        pagnol("plan", *small, "--ladder", tmp_path / "next.gin")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--chips", "v9-8", "--hours", 1), "of v4, v5e, v5litepod, v5p, v6e"),
        (("--chips", "v5e-8", "--budget", 100), "--budget needs the price of a chip-hour"),
        ((*POD, "--ladder", "/none/next.gin"), "cannot write /none/next.gin"),
    ],
)
def test_nonsense_is_told_in_one_line(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        pagnol("plan", *arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "lines", [["a,1e7,1e8,3"], ["a,1e7,1e8,3"] * 2, ["a,1e7,1e8,nan", "b,2e7,1e9,3"], ["a,1e7,1e8,3", "b,1e7,1e9,2.9"]]
)
def test_runs_that_hold_no_law_are_told_in_one_line(tmp_path: Path, lines: list[str]) -> None:
    (tmp_path / "runs.csv").write_text("\n".join(["run,parameters,tokens,loss", *lines]))
    with pytest.raises(UserError) as error:
        pagnol("plan", *POD, "--runs", tmp_path / "runs.csv")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "arguments",
    [("--hours", 0), ("--hours", "x"), (), ("--hours", 1, "--budget", 2), ("--hours", 1, "--mfu", 1.5),
     ("--hours", 1, "--mfu", 0), ("--hours", 1, "--runs", "a", "--law", "hoffmann"), ("--hours", 1, "--share", 2)],
)  # fmt: skip
def test_malformed_options_exit_with_a_message(
    arguments: tuple[object, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        pagnol("plan", "--chips", "v5e-8", *arguments)
    assert "error: " in capsys.readouterr().err.splitlines()[-1]


def test_every_published_law_can_be_asked_for() -> None:
    assert set(command.LAWS) == set(PUBLISHED)
