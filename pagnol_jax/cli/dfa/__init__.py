"""`pagnol dfa`: the networks of the Direct Feedback Alignment study, a module per domain."""

from __future__ import annotations

import argparse
import importlib
import importlib.util

DOMAINS = ("graph", "recommend", "nerf", "gpt")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `dfa` with a command per domain."""
    description = "Networks trained by Direct Feedback Alignment, and by what it is compared with."
    parser = subparsers.add_parser("dfa", help="train without backpropagation, in four domains", description=description)
    commands = parser.add_subparsers(required=True, metavar="DOMAIN")
    for name in DOMAINS:
        if importlib.util.find_spec(f"pagnol_jax.cli.dfa.{name}"):
            importlib.import_module(f"pagnol_jax.cli.dfa.{name}").add_parser(commands)
