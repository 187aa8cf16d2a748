"""`pagnol dfa gpt`: one GPT trained by several rules, compared at equal tokens."""

from __future__ import annotations

import argparse
from pathlib import Path

from pagnol_jax.cli import gin_files, ladder
from pagnol_jax.cli.train import add_host_arguments, among_hosts


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `gpt`."""
    parser = subparsers.add_parser(
        "gpt",
        help="GPTs by backpropagation, DFA (macro, micro), shallow and frozen",
        description="Trains each of the RUNGS of gin files, named ARM or ARM_LEARNING-RATE, and prints the best run of "
        "each arm: perplexity, alignment and size of the activations per block. Finished runs are passed over and a "
        "stopped one goes on, so the same command completes a killed study.",
        epilog="example: pagnol dfa gpt --gin_file gin/dfa/gpt/study.gin --gin_file gin/data/matched_fr.gin "
        "--output runs/dfa_fr --figure runs/dfa_fr.png",
    )
    gin_files.add_arguments(parser)
    add_host_arguments(parser)
    parser.add_argument("--output", help="folder of the runs (default: runs/<name of the first gin file>)")
    parser.add_argument("--figure", type=Path, help="a .png, .pdf or .svg of losses and alignment, to write")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Exit status of the first run that did not finish, else 0."""
    from pagnol_jax.cli.dfa import gpt_report
    from pagnol_jax.scaling.plots import style

    if args.figure:
        style.check(args.figure)
    with among_hosts(args):
        status = ladder.train_rungs(args)
    if status:
        return status
    runs = gpt_report.read(Path(args.output or f"runs/{Path(args.gin_file[0]).stem}"))
    print(gpt_report.table(runs))
    if args.figure:
        gpt_report.draw(gpt_report.best(runs), args.figure)
    return 0
