"""`pagnol scaling fit`: PAGnol's frontier line, or another law."""

from __future__ import annotations

import argparse
from pathlib import Path

from pagnol_jax.cli.scaling import inputs

EXAMPLE = """examples, the four points of PAGnol's Figure 1, and Chinchilla's law:
  pagnol scaling fit pagnol_figure1/ --exclude published_fit_line \\
      --at 0.0010147,0.0060156,0.030247,0.20032
  pagnol scaling fit runs/grid --law chinchilla"""


def add_parser(commands: inputs.Commands) -> None:
    """Adds `fit`."""
    description = "Fit a law: PAGnol's line of loss against compute, held under the data, or another."
    parser = inputs.add_command(commands, "fit", description, EXAMPLE)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUNS", help=inputs.RUNS_HELP)
    inputs.add_reading(parser)
    inputs.add_points(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the fit and its points as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Prints the fit, and writes it as JSON where asked."""
    from pagnol_jax.scaling import fit_frontier
    from pagnol_jax.scaling.report import as_json, as_text

    runs, unit = inputs.read(args, args.runs), inputs.unit_of(args)
    fit = fit_frontier(runs, inputs.chooser(args))
    print(as_text(fit, runs, unit))
    if args.json:
        inputs.write_json(args.json, as_json(fit, runs, unit))
