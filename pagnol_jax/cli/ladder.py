"""`pagnol ladder`: the runs of a scaling ladder, one after the other."""

import argparse
from pathlib import Path

from pagnol_jax.cli import gin_files
from pagnol_jax.cli.train import add_host_arguments, among_hosts, train_from_gin
from pagnol_jax.errors import UserError


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Adds `ladder`."""
    parser = subparsers.add_parser(
        "ladder",
        help="train every rung of a ladder",
        description="Trains each rung of the macro RUNGS on top of the ladder's own files: RUNGS names the runs, each "
        "with its gin files and bindings. "
        "Finished rungs are passed over and a stopped one goes on, so the same command completes a killed ladder.",
        epilog="example: pagnol ladder --gin_file gin/ladders/demo.gin --output runs/demo",
    )
    gin_files.add_arguments(parser)
    add_host_arguments(parser)
    parser.add_argument("--output", help="folder of the runs (default: runs/<name of the gin file>)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Exit status of the first rung that did not finish, else 0."""
    with among_hosts(args):
        return train_rungs(args)


def train_rungs(args: argparse.Namespace) -> int:
    """Trains the rungs in order, up to the first that does not finish, whose exit status it returns."""
    gin_files.parse(args.gin_file, args.gin_bindings, whole=False)
    output = Path(args.output or f"runs/{Path(args.gin_file[0]).stem}")
    for name, (files, bindings) in of_rungs(args.gin_file, args.gin_bindings).items():
        if status := train_from_gin(files, bindings, str(output / name)):
            return status
    return 0


def rungs(ladder: str) -> dict[str, list[str]]:
    """RUNGS of what gin has parsed: the name of each run, its gin files and its bindings.

    Raises UserError where it is not bound to that.
    """
    import gin

    try:
        table = gin.query_parameter("RUNGS/macro.value")
    except ValueError:
        table = None
    whole = isinstance(table, dict) and all(isinstance(row, list) for row in table.values())
    if not whole or not all(isinstance(cell, str) for row in table.values() for cell in row):
        raise UserError(f"{ladder} names no rungs: bind RUNGS to {{'name': ['file.gin', 'NAME = value'], ...}}")
    return table


def runs_of(files: list[str], bindings: list[str]) -> dict[str, tuple[list[str], list[str]]]:
    """{name: (gin files, bindings)} of every rung of a ladder, or of the one run that `files` are."""
    import gin

    gin_files.parse(files, bindings, whole=False)
    if any(scope == "RUNGS" for scope, _ in gin.config._CONFIG):
        return of_rungs(files, bindings)
    return {Path(files[0]).stem: (files, bindings)}


def of_rungs(files: list[str], bindings: list[str]) -> dict[str, tuple[list[str], list[str]]]:
    """{name: (gin files, bindings)} of the rungs of what gin has parsed. Raises UserError as `rungs`."""
    named = {name: settings(cells) for name, cells in rungs(files[0]).items()}
    return {name: ([*files, *more], [*own, *bindings]) for name, (more, own) in named.items()}


def settings(cells: list[str]) -> tuple[list[str], list[str]]:
    """The gin files and the bindings of a rung."""
    return [cell for cell in cells if cell.endswith(".gin")], [cell for cell in cells if not cell.endswith(".gin")]
