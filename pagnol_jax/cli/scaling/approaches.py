"""`pagnol scaling approaches`: the best size for a compute, three ways."""

from __future__ import annotations

import argparse
from pathlib import Path

from pagnol_jax.cli.scaling import inputs

EXAMPLE = """example, a grid of sizes and tokens:
  pagnol scaling approaches runs/grid --convention total"""


def add_parser(commands: inputs.Commands) -> None:
    """Adds `approaches`."""
    description = "Tell the best size for a compute by envelope, IsoFLOP and parametric fit."
    parser = inputs.add_command(commands, "approaches", description, EXAMPLE)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUNS", help=inputs.RUNS_HELP)
    inputs.add_reading(parser)
    inputs.add_points(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Prints what each approach tells, and why another does not."""
    from pagnol_jax.scaling.approaches import all_approaches, as_lines

    runs = inputs.read(args, args.runs)
    print("\n".join(as_lines(all_approaches(runs, inputs.chooser(args)(runs)), inputs.unit_of(args))))
