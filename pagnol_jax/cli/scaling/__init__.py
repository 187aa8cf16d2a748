"""`pagnol scaling`: laws from run records, a module per command."""

from __future__ import annotations

import argparse

from pagnol_jax.cli.scaling import approaches, compare, export, fit, plan, plot, tune


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `scaling` with its commands."""
    description = "Scaling laws from run records."
    parser = subparsers.add_parser("scaling", help="fit, plot and plan with scaling laws", description=description)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in (fit, approaches, tune, compare, plan, plot, export):
        command.add_parser(commands)
