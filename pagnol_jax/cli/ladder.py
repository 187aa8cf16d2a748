"""`pagnol ladder`: the runs of a scaling ladder, one after the other."""

import argparse
from pathlib import Path

from pagnol_jax.cli import gin_files
from pagnol_jax.cli.train import train_from_gin
from pagnol_jax.errors import UserError


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Adds `ladder`."""
    parser = subparsers.add_parser(
        "ladder",
        help="train every rung of a ladder",
        description="Trains each gin file of the macro RUNGS on top of the ladder's own file. "
        "Finished rungs are passed over and a stopped one goes on, so the same command completes a killed ladder.",
        epilog="example: pagnol ladder --gin_file gin/ladders/demo.gin --output runs/demo",
    )
    gin_files.add_arguments(parser)
    parser.add_argument("--output", help="folder of the runs (default: runs/<name of the gin file>)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Exit status of the first rung that did not finish, else 0."""
    import gin

    gin_files.parse(args.gin_file, args.gin_bindings, whole=False)
    try:
        rungs = gin.query_parameter("RUNGS/macro.value")
    except ValueError:
        raise UserError(f"{args.gin_file[0]} names no rungs: bind RUNGS to a list of gin files") from None
    output = Path(args.output or f"runs/{Path(args.gin_file[0]).stem}")
    for rung in rungs:
        if status := train_from_gin([*args.gin_file, rung], args.gin_bindings, str(output / Path(rung).stem)):
            return status
    return 0
