"""`pagnol scaling fit`: PAGnol's frontier line, or another law."""

from __future__ import annotations

import argparse
from pathlib import Path

from pagnol_jax.cli.scaling import inputs

FRONTIER = "frontier"
LAWS = (
    "power_C", "power_N", "power_D", "floored_C", "floored_N", "floored_D",
    "kaplan_data", "chinchilla", "chinchilla_tied", "overtrained",
)  # fmt: skip
OBJECTIVES = ("huber", "huber_1e-4", "absolute", "squares", "raw_squares", "asymmetric")
EXAMPLE = """examples, the four points of PAGnol's Figure 1, and Chinchilla's law:
  pagnol scaling fit pagnol_figure1/ --exclude published_fit_line \\
      --at 0.0010147,0.0060156,0.030247,0.20032
  pagnol scaling fit runs/grid --law chinchilla --objective squares"""


def add_parser(commands: inputs.Commands) -> None:
    """Adds `fit`."""
    description = "Fit a law: PAGnol's line of loss against compute, held under the data, or another."
    parser = inputs.add_command(commands, "fit", description, EXAMPLE)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUNS", help=inputs.RUNS_HELP)
    laws = (FRONTIER, *LAWS)
    parser.add_argument("--law", choices=laws, default=FRONTIER, help=f"{', '.join(laws)} (default: {FRONTIER})")
    parser.add_argument(
        "--objective", choices=OBJECTIVES, help="what another law than the frontier minimises (default: huber)"
    )
    inputs.add_reading(parser)
    inputs.add_points(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the fit as JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Prints the fit, and writes it as JSON where asked."""
    from pagnol_jax.errors import UserError
    from pagnol_jax.scaling import fit_frontier, law_report, report
    from pagnol_jax.scaling.laws import LAWS

    if args.law == FRONTIER and args.objective:
        raise UserError("--objective is for another --law: the frontier line is fitted by least squares")
    runs, unit = inputs.read(args, args.runs), inputs.unit_of(args)
    if args.law == FRONTIER:
        fit = fit_frontier(runs, inputs.chooser(args))
        text, values = report.as_text(fit, runs, unit), report.as_json(fit, runs, unit)
    else:
        points = inputs.chooser(args)(runs)
        told = law_report.fit_report(LAWS[args.law], runs, points, args.objective or OBJECTIVES[0], unit)
        text, values = law_report.as_text(told), law_report.as_json(told)
    print(text)
    if args.json:
        inputs.write_json(args.json, values)
