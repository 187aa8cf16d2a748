"""`pagnol scaling plot`: the figures."""

from __future__ import annotations

import argparse
from pathlib import Path

from pagnol_jax.cli.scaling import inputs

EXAMPLE = """example, a ladder of runs:
  pagnol scaling plot runs/ladder --output law.pdf"""


def add_parser(commands: inputs.Commands) -> None:
    """Adds `plot`."""
    parser = inputs.add_command(commands, "plot", "Draw the loss curves and the law fitted under them.", EXAMPLE)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUNS", help=inputs.RUNS_HELP)
    inputs.add_reading(parser)
    inputs.add_points(parser)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="a .png, .pdf or .svg file")
    parser.add_argument("--reference", metavar="RUN", help="draw this run dashed, out of the fit")
    parser.add_argument("--dark", action="store_true", help="light lines on a dark ground")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Writes the figure."""
    from pagnol_jax.scaling import fit_frontier, plots, read_runs

    reference = None
    if args.reference:
        everything = read_runs(args.runs, args.corpus, args.columns)
        reference = next((run for run in everything if run.name == args.reference), None)
    # An unknown name is told by `exclude`.
    runs = inputs.read(args, args.runs, [*args.exclude, *([args.reference] if args.reference else [])])
    unit = inputs.unit_of(args)
    fit = fit_frontier(runs, inputs.chooser(args))
    theme = plots.DARK if args.dark else plots.LIGHT
    plots.plot_frontier(fit, runs, args.output, unit, reference=reference, theme=theme)
    print(f"wrote {args.output}")
