"""`pagnol scaling plot`: the figures."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pagnol_jax.cli.scaling import inputs
from pagnol_jax.errors import UserError

if TYPE_CHECKING:
    from pagnol_jax.scaling import ComputeUnit, RunRecord
    from pagnol_jax.scaling.plots import Theme

EXAMPLE = """examples, a ladder of runs, its law beyond the data, and the best size for a compute by three approaches:
  pagnol scaling plot runs/ladder --output law.pdf
  pagnol scaling plot runs/grid --kind extrapolation --hold_out xl --output fan.png --dark
  pagnol scaling plot runs/grid --kind approaches --unit flop --output approaches.svg"""


def add_parser(commands: inputs.Commands) -> None:
    """Adds `plot`."""
    description = "Draw loss curves and the law under them, or another figure of runs and laws."
    parser = inputs.add_command(commands, "plot", description, EXAMPLE)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUNS", help=inputs.RUNS_HELP)
    parser.add_argument(
        "--kind",
        choices=KINDS,
        default="frontier",
        help="frontier: curves and PAGnol's line (default); isoflop: loss against size at each budget; residuals, "
        "bootstrap, extrapolation: of Chinchilla's law; approaches: the best size for a compute by all three",
    )
    inputs.add_reading(parser)
    inputs.add_points(parser)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="a .png, .pdf or .svg file")
    parser.add_argument("--reference", metavar="RUN", help="frontier: draw this run dashed, out of the fit")
    parser.add_argument(
        "--hold_out",
        type=lambda text: text.split(","),
        default=[],
        metavar="RUN,...",
        help="extrapolation: runs to predict, not to fit",
    )
    parser.add_argument("--dark", action="store_true", help="light lines on a dark ground")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Writes the figure."""
    from pagnol_jax.scaling import plots

    for option, kind in (("reference", "frontier"), ("hold_out", "extrapolation")):
        if getattr(args, option) and args.kind != kind:
            raise UserError(f"--{option} is for --kind {kind}")
    # An unknown name is told by `exclude`.
    runs = inputs.read(args, args.runs, [*args.exclude, *([args.reference] if args.reference else [])])
    KINDS[args.kind](args, runs, inputs.unit_of(args), plots.DARK if args.dark else plots.LIGHT)
    print(f"wrote {args.output}")


def _frontier(args: argparse.Namespace, runs: Sequence[RunRecord], unit: ComputeUnit, theme: Theme) -> None:
    from pagnol_jax.scaling import fit_frontier, plots, read_runs

    reference = None
    if args.reference:
        everything = read_runs(args.runs, args.corpus, args.columns)
        reference = next((run for run in everything if run.name == args.reference), None)
    fit = fit_frontier(runs, inputs.chooser(args))
    plots.plot_frontier(fit, runs, args.output, unit, reference=reference, theme=theme)


def _isoflop(args: argparse.Namespace, runs: Sequence[RunRecord], unit: ComputeUnit, theme: Theme) -> None:
    from pagnol_jax.scaling import plots
    from pagnol_jax.scaling.isoflop import fit_isoflop
    from pagnol_jax.scaling.valleys import group_valleys

    fit = fit_isoflop(group_valleys(inputs.chooser(args)(runs)))
    plots.plot_isoflop(fit, args.output, unit, theme=theme)


def _residuals(args: argparse.Namespace, runs: Sequence[RunRecord], unit: ComputeUnit, theme: Theme) -> None:
    from pagnol_jax.scaling import plots
    from pagnol_jax.scaling.approaches import fit_chinchilla
    from pagnol_jax.scaling.objectives import huber

    fit = fit_chinchilla(inputs.chooser(args)(runs), huber(), draws=0)
    plots.plot_residuals(fit, args.output, unit, theme=theme)


def _bootstrap(args: argparse.Namespace, runs: Sequence[RunRecord], unit: ComputeUnit, theme: Theme) -> None:
    from pagnol_jax.scaling import plots
    from pagnol_jax.scaling.approaches import fit_chinchilla
    from pagnol_jax.scaling.objectives import huber, least_squares

    points = inputs.chooser(args)(runs)
    fits = [(objective.name, fit_chinchilla(points, objective)) for objective in (huber(), least_squares())]
    plots.plot_bootstrap(fits, args.output, theme=theme)


def _extrapolation(args: argparse.Namespace, runs: Sequence[RunRecord], unit: ComputeUnit, theme: Theme) -> None:
    import numpy as np

    from pagnol_jax.scaling import plots
    from pagnol_jax.scaling.approaches import fit_chinchilla
    from pagnol_jax.scaling.objectives import huber

    points = inputs.chooser(args)(runs)
    names = [runs[index].name for index in points.run]
    unknown = sorted(set(args.hold_out) - set(names))
    if unknown:
        raise UserError(f"--hold_out {unknown[0]}: no such run; there are {', '.join(dict.fromkeys(names))}")
    held = np.isin(names, args.hold_out)
    fit = fit_chinchilla(points.take(~held), huber())
    held_out = points.take(held) if held.any() else None
    plots.plot_extrapolation(fit, args.output, unit, held_out=held_out, theme=theme)


def _approaches(args: argparse.Namespace, runs: Sequence[RunRecord], unit: ComputeUnit, theme: Theme) -> None:
    """Draws those that the runs allow, and says why the others are left out."""
    from pagnol_jax.scaling import plots
    from pagnol_jax.scaling.approaches import all_approaches

    found = all_approaches(runs, inputs.chooser(args)(runs))
    for name, why in found.left_out.items():
        print(f"left out  {name}: {why}")
    plots.plot_approaches(found.told, args.output, unit, theme=theme)


KINDS = {
    "frontier": _frontier,
    "isoflop": _isoflop,
    "residuals": _residuals,
    "bootstrap": _bootstrap,
    "extrapolation": _extrapolation,
    "approaches": _approaches,
}
