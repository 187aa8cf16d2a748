"""`pagnol scaling export`: runs as a table."""

from __future__ import annotations

import argparse
from pathlib import Path

from pagnol_jax.cli.scaling import inputs

EXAMPLE = """example, the runs of a ladder in one small file, which every command reads as it reads the folders:
  pagnol scaling export runs/ladder --output ladder.jsonl"""


def add_parser(commands: inputs.Commands) -> None:
    """Adds `export`."""
    parser = inputs.add_command(commands, "export", "Write runs as a table.", EXAMPLE)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUNS", help=inputs.RUNS_HELP)
    inputs.add_reading(parser)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="a .csv, .jsonl or .parquet file")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Writes the table."""
    from pagnol_jax.scaling.export import write_table

    runs = inputs.read(args, args.runs)
    write_table(runs, args.output)
    print(f"wrote {args.output}: {len(runs)} runs")
