"""`pagnol dfa`: the networks of the Direct Feedback Alignment study, a module per domain."""

from __future__ import annotations

import argparse

from pagnol_jax.cli.dfa import gpt, graph, nerf, recommend


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `dfa` with a command per domain."""
    description = "Networks trained by Direct Feedback Alignment, and by what it is compared with."
    parser = subparsers.add_parser(
        "dfa", help="train without backpropagation, in four domains", description=description
    )
    commands = parser.add_subparsers(required=True, metavar="DOMAIN")
    for domain in (graph, recommend, nerf, gpt):
        domain.add_parser(commands)
