"""`pagnol tpu` on small models: figures, files, refusals."""

import json
import re
from pathlib import Path

import pytest

from pagnol_jax.cli import gin_files
from pagnol_jax.cli.main import main
from pagnol_jax.tpu import plan
from pagnol_jax.tpu.topology import Topology, topology
from pagnol_jax.train.run import train

RUN = ["--gin_file", "runs/pagnol_xxs.gin"]
SMALL = [
    "--gin.BATCH_SIZE=16",
    "--gin.LENGTH=256",
    "--gin.config.GPTConfig.num_layers=6",
    "--gin.config.GPTConfig.d_model=256",
    "--gin.config.GPTConfig.num_heads=4",
    "--gin.mixture.trained_bpe.vocab_size=2000",
]


def small(*command: str) -> int:
    return main(["tpu", command[0], *RUN, *SMALL, *command[1:]])


@pytest.mark.parametrize(("remat", "most"), [("None", 1.10), ("'dots'", 1.10), ("'full'", 1.40)])
def test_compiled_flops_are_the_model_s(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], remat: str, most: float
) -> None:
    """6 N and causal attention, and what remat makes again; parameters and moments lie split over the mesh."""
    mesh = ["--gin_file", "mesh/fsdp.gin", f"--gin.config.GPTConfig.remat={remat}"]
    assert small("compile", *mesh, "--topology", "v5e:2x4", "--json", str(tmp_path / "step.json")) == 0
    told = capsys.readouterr().out
    step = json.loads((tmp_path / "step.json").read_text())
    assert f"{step['flops_ratio']:.2f}" in told
    # At this width attention is a quarter of the whole, and a block of 256 x 256 half masked.
    attention = step["attention_flops"] / step["model_flops"]
    assert 0.99 <= step["flops_ratio"] <= most + 1.4 * attention
    assert step["kernels_not_counted"] == []
    assert 1 <= step["argument_bytes"] / (12 * step["parameters"] / 8) <= 1.5  # the least tile is 8 x 128
    assert step["peak_bytes"] >= step["argument_bytes"] + step["temporary_bytes"]
    assert {tuple(entry["axes"]) for entry in step["traffic"]} == {("fsdp",)}
    gathered = sum(entry["bytes"] for entry in step["traffic"] if entry["kind"] == "all-gather")
    assert gathered == pytest.approx(2 * 2 * step["parameters"] * 7 / 8, rel=0.5)
    assert step["mfu_bound"] <= (step["model_flops"] + step["attention_flops"]) / step["compiled_flops"]


def test_two_slices_exchange_gradients_alone(tmp_path: Path) -> None:
    mesh = ["--gin.mesh.make_mesh.data=2", "--gin.mesh.make_mesh.fsdp=4"]
    command = ["--topology", "v5e:2x2", "--num_slices", "2", "--json", str(tmp_path / "step.json")]
    assert small("compile", *mesh, *command) == 0
    step = json.loads((tmp_path / "step.json").read_text())
    between = [entry["bytes"] for entry in step["traffic"] if entry["kind"] == "send between slices"]
    gradients = 2 * step["parameters"] / 4  # bfloat16, each chip of a slice its part
    assert sum(between) == pytest.approx(gradients, rel=0.5)
    assert step["roofline_seconds"]["dcn"] == pytest.approx(sum(between) / 6.25e9)
    assert step["chips"] == 8


def test_a_plan_is_a_gin_file_that_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = tmp_path / "planned.gin"
    assert small("plan", "--topology", "v5e:2x4", "--compiles", "1", "--output", str(written)) == 0
    told = capsys.readouterr().out
    assert "refused    tensor 8: does not divide num_heads 4" in told
    assert "chosen " in told
    assert "include 'runs/pagnol_xxs.gin'" in written.read_text()
    gin_files.parse([str(written)], [])
    bound = gin_files.bindings(train)
    config = bound["model"](vocab_size=2000)
    assert (config.num_layers, bound["batch_size"]) == (6, 16)
    mesh = bound["mesh"](devices=topology("v5e:2x4").devices)
    assert mesh.size == 8


def test_what_cannot_be_compiled_is_told_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    def told(*command: str) -> str:
        assert small(*command) == 2
        lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
        return next(line.removeprefix("pagnol: error: ") for line in lines if line.startswith("pagnol: error: "))

    assert told("compile", "--topology", "v9:2x2").startswith("--topology v9:2x2: give a chip and a shape")
    assert "v5e slices have 2 dimensions" in told("compile", "--topology", "v5e:2x2x2")
    assert "--topology v5e:3x5" in told("compile", "--topology", "v5e:3x5")
    mesh = "--gin.mesh.make_mesh"
    heads = told("compile", "--topology", "v5e:2x4", f"{mesh}.data=1", f"{mesh}.tensor=8")
    assert heads == "mesh {'data': 1, 'fsdp': 1, 'tensor': 8, 'sequence': 1} does not divide num_heads 4 by 8"
    two = told("compile", "--topology", "v5e:2x2", "--num_slices", "2", f"{mesh}.data=1", f"{mesh}.fsdp=8")
    assert two == "data 1 is not a multiple of the 2 slices: only it may cross them"
    wide = ["--gin.config.GPTConfig.d_model=16384", "--gin.config.GPTConfig.num_heads=128"]
    large = told("compile", "--topology", "v5e:2x2", *wide, "--gin.config.GPTConfig.num_layers=2")
    assert re.fullmatch(r"the step does not fit: [\d.]+ GB in a chip's 16.9 GB", large)


def xl(length: int = 2048) -> tuple:
    gin_files.parse(["runs/pagnol_xl.gin"], [f"LENGTH={length}"])
    bound = gin_files.bindings(train)
    return bound["model"](vocab_size=50_262), bound["batch_size"], length


@pytest.mark.parametrize("name", ["v5e:4x4", "v5e:16x16", "v5p:4x4x4"])
def test_uneven_sizes_are_refused_with_a_reason(name: str) -> None:
    """XL: 25 heads, width 1,600 = 64 x 25."""
    there = topology(name)
    config, batch_size, length = xl()
    found = plan.candidates(config, there, batch_size, length)
    assert found.refused["tensor 2"] == "does not divide num_heads 25"
    if there.chips >= 128:
        assert found.refused["fsdp 128"] == "does not divide d_model 1600"
    assert found.layouts
    for layout in found.layouts:
        assert layout.chips == there.chips
        assert config.num_heads % layout.tensor == 0
        assert config.d_model % layout.fsdp == 0
        assert batch_size % (layout.data * layout.fsdp * layout.microbatches) == 0


def test_long_sequences_may_be_split(v5e: Topology) -> None:
    config, batch_size, length = xl(32_768)
    assert any(layout.sequence > 1 for layout in plan.candidates(config, v5e, batch_size, length).layouts)
    assert all(layout.sequence == 1 for layout in plan.candidates(config, v5e, batch_size, 2048).layouts)
