"""`pagnol scaling fit` and `pagnol scaling plot`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pagnol_jax.errors import UserError

if TYPE_CHECKING:  # numpy is imported when a command runs, so that `pagnol --help` stays quick
    from pagnol_jax.scaling import ComputeUnit, FrontierFit, RunRecord

UNITS = ("pf-days", "flop")
CONVENTIONS = ("non_embedding", "total", "with_attention")
POINTS = ("final", "pareto", "all")

FIT_EXAMPLE = """example, the four points of PAGnol's Figure 1:
  pagnol scaling fit pagnol_figure1/ --exclude published_fit_line \\
      --at 0.0010147,0.0060156,0.030247,0.20032"""
PLOT_EXAMPLE = """example, a ladder of runs:
  pagnol scaling plot runs/ladder --output law.pdf"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `scaling` with its commands."""
    description = "Scaling laws from run records."
    parser = subparsers.add_parser("scaling", help="fit and plot scaling laws", description=description)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    law = "Fit PAGnol's power law of loss against compute, held under the data."
    fit = _add_command(commands, "fit", law, FIT_EXAMPLE)
    fit.add_argument("--json", type=Path, metavar="FILE", help="also write the fit and its points as JSON")
    fit.set_defaults(run=run_fit)
    plot = _add_command(commands, "plot", "Draw the loss curves and the law fitted under them.", PLOT_EXAMPLE)
    plot.add_argument("--output", type=Path, required=True, metavar="FILE", help="a .png, .pdf or .svg file")
    plot.add_argument("--reference", metavar="RUN", help="draw this run dashed, out of the fit")
    plot.add_argument("--dark", action="store_true", help="light lines on a dark ground")
    plot.set_defaults(run=run_plot)


def _add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str, description: str, epilog: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=description,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="RUNS", help="run folders, folders of runs, or CSV tables")
    add("--corpus", help="validation corpus of run folders (default: token-weighted mean over all)")
    add("--columns", type=_pairs, default={}, metavar="FIELD=COLUMN,...", help="columns of a table")
    add("--exclude", type=_names, default=(), metavar="RUN,...", help="runs to leave out")
    add("--unit", choices=UNITS, default="pf-days", help="unit of compute, for --at too (default: pf-days)")
    add("--convention", choices=CONVENTIONS, help="count compute anew, where that is exact")
    points = parser.add_mutually_exclusive_group()
    points.add_argument("--points", choices=POINTS, default="final", help="which checkpoints to fit (default: final)")
    points.add_argument("--at", type=_computes, metavar="C,...", help="the best run's checkpoint at each compute")
    return parser


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _pairs(text: str) -> dict[str, str]:
    from pagnol_jax.scaling.tables import COLUMNS

    pairs = dict(pair.split("=", 1) for pair in text.split(",") if "=" in pair)
    if len(pairs) != len(text.split(",")) or not pairs.keys() <= COLUMNS.keys():
        raise argparse.ArgumentTypeError(f"{text!r} is not FIELD=COLUMN,... with FIELD of {', '.join(COLUMNS)}")
    return pairs


def _computes(text: str) -> tuple[float, ...]:
    try:
        values = tuple(float(value) for value in text.split(","))
    except ValueError:
        values = ()
    if not values or not all(0 < value < float("inf") for value in values):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of positive numbers C,C,...")
    return values


def _fit(args: argparse.Namespace, exclude: Sequence[str]) -> tuple[list[RunRecord], FrontierFit, ComputeUnit]:
    from pagnol_jax import scaling

    unit = dict(zip(UNITS, (scaling.PF_DAY, scaling.FLOP), strict=True))[args.unit]
    choosers = dict(zip(POINTS, (scaling.final_points, scaling.pareto_points, scaling.every_point), strict=True))
    runs = scaling.read_runs(args.runs, args.corpus, args.columns, exclude)
    if not runs:
        raise UserError("no run is left to fit")
    if args.convention:
        runs = [scaling.with_convention(run, scaling.CONVENTIONS[args.convention]) for run in runs]
    choose = scaling.points_at(args.at, unit) if args.at else choosers[args.points]
    return runs, scaling.fit_frontier(runs, choose), unit


def run_fit(args: argparse.Namespace) -> None:
    """Prints the fit, and writes it as JSON where asked."""
    from pagnol_jax.scaling.report import as_json, as_text

    runs, fit, unit = _fit(args, args.exclude)
    print(as_text(fit, runs, unit))
    if args.json:
        text = json.dumps(as_json(fit, runs, unit), indent=2, ensure_ascii=False)
        try:
            args.json.write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise UserError(f"cannot write {args.json}: {error.strerror}") from None


def run_plot(args: argparse.Namespace) -> None:
    """Writes the figure."""
    from pagnol_jax.scaling import plots, read_runs

    reference = None
    if args.reference:
        everything = read_runs(args.runs, args.corpus, args.columns)
        reference = next((run for run in everything if run.name == args.reference), None)
    # An unknown name is told by `exclude`.
    runs, fit, unit = _fit(args, [*args.exclude, *([args.reference] if args.reference else [])])
    theme = plots.DARK if args.dark else plots.LIGHT
    plots.plot_frontier(fit, runs, args.output, unit, reference=reference, theme=theme)
    print(f"wrote {args.output}")
