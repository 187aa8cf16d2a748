"""`pagnol scaling tune`: laws of learning rate or batch size from sweeps."""

from __future__ import annotations

import argparse
from pathlib import Path

from pagnol_jax.cli.scaling import inputs
from pagnol_jax.errors import UserError

HYPERPARAMETERS = ("learning_rate", "batch_tokens")
VARIABLES = ("ND", "C", "N", "D")
EXAMPLE = """example, a run folder for each model size, number of tokens and learning rate:
  pagnol scaling tune runs/sweep --of learning_rate --variables ND"""


def add_parser(commands: inputs.Commands) -> None:
    """Adds `tune`."""
    description = "Fit a law of the best learning rate or batch size to sweeps, cell by cell of one N and D."
    parser = inputs.add_command(commands, "tune", description, EXAMPLE)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUNS", help=inputs.RUNS_HELP)
    parser.add_argument("--of", choices=HYPERPARAMETERS, default=HYPERPARAMETERS[0], help="what was swept")
    parser.add_argument("--variables", choices=VARIABLES, help="of the law, C = 6 N D (default: N, D as they vary)")
    inputs.add_reading(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Prints the cells and the law."""
    from pagnol_jax.scaling.tuning import trials
    from pagnol_jax.scaling.tuning_report import as_lines

    runs = inputs.read(args, args.runs)
    finished = [run for run in runs if run.annealed is not False]
    if not finished:
        raise UserError(f"none of these {len(runs)} runs is finished: a sweep compares annealed losses")
    print("\n".join(as_lines(trials(finished, args.of), args.variables)))
    unfinished = [run.name for run in runs if run.annealed is False]
    if unfinished:
        print(f"note       left out, since not annealed: {', '.join(unfinished)}")
