"""The rungs of PAGnol's ladder as their gin files describe them, and a designed ladder written as a gin file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pagnol_jax.cli import gin_files
from pagnol_jax.errors import writing

if TYPE_CHECKING:
    from pagnol_jax.models.config import GPTConfig
    from pagnol_jax.scaling.design import Design
    from pagnol_jax.scaling.plan import Plan, RungPlan

BASE = ("models/pagnol_s.gin", "runs/pagnol.gin")  # of the ladders written here
# Width and depth: in proportion up to PAGnol-S, then through M, L and XL towards GPT-3 (Brown et al. 2020, table 2.1).
WIDTHS, DEPTHS = (0, 768, 1024, 1280, 1600, 12288), (0, 12, 24, 36, 48, 96)
HEAD_DIM = 64
WARMUP_SHARE = 10  # a warm-up takes no more than a tenth of the steps
LEAST_BLOCKS = 0.2  # share of N outside the tables, where they count: PAGnol-XXS's. Others would be mostly vocabulary
# Step Law's rate grows without bound as N shrinks; this is the largest that the CPU ladders use.
MOST_LEARNING_RATE = 1e-2


class Rung(NamedTuple):
    """A run that gin files describe, at its own batch."""

    file: str
    config: GPTConfig
    batch_size: int
    length: int
    warmup_steps: int


def read_rung(*files: str) -> Rung:
    """The rung of gin files, with the vocabulary that its mixture trains. Raises UserError for what gin refuses."""
    import gin

    gin_files.parse(files, [], whole=False)
    from pagnol_jax.models.config import GPTConfig

    vocab_size = gin.query_parameter("mixture.trained_bpe.vocab_size")
    macros = (gin.query_parameter(f"{name}/macro.value") for name in ("BATCH_SIZE", "LENGTH", "WARMUP_STEPS"))
    return Rung(files[0], gin_files.call(GPTConfig, vocab_size=vocab_size), *macros)


def pagnol_rungs() -> list[Rung]:
    """PAGnol's ladder, XXS to XL."""
    found = {f"runs/{path.name}" for folder in gin_files.SEARCH_PATH for path in folder.glob("runs/pagnol_*.gin")}
    return sorted(map(read_rung, found), key=lambda rung: rung.config.parameters())


def nearest(plan: Plan) -> RungPlan:
    """The rung whose N, counted as the law counts it, is nearest to N* in ratio, trained on the whole budget."""
    from pagnol_jax.scaling.plan import plan_rung

    def size(rung: Rung) -> int:
        return rung.config.parameters(embedding=plan.basis.with_embedding)

    rung = min(pagnol_rungs(), key=lambda rung: abs(np.log(size(rung) / plan.best.parameters)))

    def command(steps: int) -> str:
        warmup = "" if steps >= WARMUP_SHARE * rung.warmup_steps else f" --gin.WARMUP_STEPS={steps // WARMUP_SHARE}"
        return f"pagnol train --gin_file {rung.file} --gin.TOTAL_STEPS={steps}{warmup}"

    name = Path(rung.file).stem
    return plan_rung(plan, f"{name} ({rung.file})", size(rung), rung.batch_size * rung.length, command)


def shapes(with_embedding: bool) -> dict[int, GPTConfig]:
    """N -> model, a size for each multiple of 64 in PAGnol's proportions, heads of 64, N counted as asked."""
    base = read_rung(*BASE).config
    widths = np.arange(2 * HEAD_DIM, WIDTHS[-1] + 1, HEAD_DIM)
    configs = [
        replace(base, d_model=int(width), num_layers=round(depth), num_heads=int(width) // HEAD_DIM)
        for width, depth in zip(widths, np.interp(widths, WIDTHS, DEPTHS), strict=True)
    ]
    sizes = {config.parameters(embedding=with_embedding): config for config in configs}
    return {size: config for size, config in sizes.items() if config.parameters(embedding=False) >= LEAST_BLOCKS * size}


def write_ladder(path: Path, design: Design, models: dict[int, GPTConfig], target_flops: float) -> None:
    """Writes a design as a ladder for `pagnol ladder`: batch and learning rate by Step Law, warm-up of a tenth.

    Args:
      path: of the gin file.
      design: its sizes are keys of `models`.
      models: as `shapes` gives them.
      target_flops: the compute that it is to tell about.

    Raises:
      UserError: a file that cannot be written.
    """
    runs = zip(design.parameters, design.tokens, strict=True)
    rungs = [_rung(models[int(size)], float(tokens)) for size, tokens in runs]
    lines = [
        f"# The {design.tokens.size} runs that tell most about {target_flops:.3g} FLOP. Cost: "
        f"{design.compute_flops.sum():.3g} FLOP (6 N D).",
        "# Batch sizes and learning rates are Step Law's (arXiv 2503.04715): sweep the rates before the losses count.",
        "# Data: French Wikipedia; for other data give its gin file after this one.",
        f"#   pagnol ladder --gin_file {path} --output runs/{path.stem}",
        *(f"include '{file}'" for file in BASE),
        "",
        "RUNGS = {",
        *(f"    {name!r}: {settings!r}," for name, settings in rungs),
        "}",
    ]
    with writing(path):
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _rung(config: GPTConfig, tokens: float) -> tuple[str, list[str]]:
    """Name and settings of a run."""
    from pagnol_jax.scaling.tuning_laws import PUBLISHED

    step_law = {law.of: law for law in PUBLISHED if law.source.startswith("Step Law")}
    size = config.parameters(embedding=False)
    sequences = step_law["batch_tokens"].predict(size, tokens) / config.max_length
    batch_size = 2 ** max(3, round(float(np.log2(sequences))))
    steps = round(tokens / (batch_size * config.max_length))
    rate = float(step_law["learning_rate"].predict(size, tokens))
    name = f"{config.d_model}x{config.num_layers}_{tokens / 1e9:.3g}G"
    return name, [
        f"config.GPTConfig.num_layers = {config.num_layers}",
        f"config.GPTConfig.d_model = {config.d_model}",
        f"config.GPTConfig.num_heads = {config.num_heads}",
        f"BATCH_SIZE = {batch_size}",
        f"TOTAL_STEPS = {steps}",
        f"WARMUP_STEPS = {steps // WARMUP_SHARE}",
        f"LEARNING_RATE = {min(rate, MOST_LEARNING_RATE):.2g}",
    ]
