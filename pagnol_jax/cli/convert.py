"""`pagnol convert`: weights from one format to another."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # imported when the command runs, so that `pagnol --help` stays quick
    from pagnol_jax.convert.formats import Weights

FORMATS = ("pagnol", "huggingface", "lairgpt", "t5x")


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Adds `convert`."""
    parser = subparsers.add_parser(
        "convert",
        help="exchange weights with LairGPT, Hugging Face and t5x",
        description="Converts a run folder, a pagnol folder, a Hugging Face folder (GPT-2, GPT-NeoX, BLOOM, "
        "Falcon), a t5x MODEL_DIR or a LairGPT .pt file; SOURCE tells its format by itself. A run folder given to t5x "
        "keeps its optimiser and its step: t5x goes on from it.",
        epilog="example: pagnol convert runs/demo exported --to huggingface",
    )
    parser.add_argument("source", type=Path, metavar="SOURCE", help="folder or .pt file to read")
    parser.add_argument("dest", type=Path, metavar="DEST", help="folder (for lairgpt: .pt file) to write; must be new")
    parser.add_argument("--to", required=True, choices=FORMATS, help="format to write")
    parser.add_argument("--num_heads", type=int, metavar="N", help="of a LairGPT file whose width is none of PAGnol's")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Reads, writes, and says what was there."""
    from pagnol_jax.convert import formats

    origin, weights = read(args.source, args.num_heads)
    print(f"read {args.source} ({origin}): {describe(weights)}")
    to = formats.FORMATS[args.to]
    whole = origin == "run" and args.to == "t5x"
    detail = write_state(args.source, args.dest, weights) if whole else to.write(args.dest, weights)
    print(f"wrote {args.dest} ({to.title}{detail and ' ' + detail})")


def read(source: Path, num_heads: int | None) -> tuple[str, Weights]:
    """(name of the format, what it holds)."""
    from pagnol_jax.convert import formats

    if (source / "run.json").is_file():
        from pagnol_jax.train.load import load_run

        config, params, tokenizer = load_run(source)
        return "run", formats.Weights(config, params, tokenizer.read_text("utf-8") if tokenizer.exists() else None)
    format = formats.detect(source)
    return format.title, format.read(source, num_heads)


def write_state(source: Path, dest: Path, weights: Weights) -> str:
    """A run's whole state as t5x's checkpoint; returns what it holds."""
    from pagnol_jax.convert import t5x
    from pagnol_jax.train.load import load_state

    state = load_state(source)
    progress = t5x.Progress(state.step, state.optimizer)
    return t5x.write(dest, state.config, state.params, weights.tokenizer, progress)


def describe(weights: Weights) -> str:
    """One line: the shape of the model, its parameters and tensors, whether it has a tokenizer."""
    from pagnol_jax.models.store import flatten

    config, flat = weights.config, flatten(weights.params)
    count = sum(array.size for array in flat.values())
    dtypes = " and ".join(sorted({array.dtype.name for array in flat.values()}))
    tokenizer = "a tokenizer" if weights.tokenizer else "no tokenizer"
    return (
        f"{config.num_layers} layers, width {config.d_model}, {config.num_heads} heads, "
        f"{config.position.name} positions; {count:,} parameters in {len(flat)} {dtypes} tensors; {tokenizer}"
    )
