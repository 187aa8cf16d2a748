"""`pagnol train`: one run from gin files."""

import argparse
from contextlib import AbstractContextManager
from pathlib import Path

from pagnol_jax.cli import gin_files


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Adds `train`."""
    parser = subparsers.add_parser(
        "train",
        help="train a model, or go on with a stopped run",
        description="Trains the model that gin files describe. A run folder that exists is resumed exactly.",
        epilog="example: pagnol train --gin_file gin/runs/demo.gin --run_dir runs/first --gin.TOTAL_STEPS=200",
    )
    gin_files.add_arguments(parser)
    add_host_arguments(parser)
    parser.add_argument("--run_dir", help="folder of the run (default: runs/<name of the first gin file>)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Exit status 0, or 128 + the number of the signal that stopped the run after a checkpoint."""
    with among_hosts(args):
        return train_from_gin(args.gin_file, args.gin_bindings, args.run_dir or f"runs/{Path(args.gin_file[0]).stem}")


def add_host_arguments(parser: argparse.ArgumentParser) -> None:
    """--coordinator, --num_processes and --process_id, which a TPU pod does without."""
    group = parser.add_argument_group("several hosts", "the same command on each; a TPU pod knows all three of itself")
    group.add_argument("--coordinator", metavar="HOST:PORT", help="of process 0, a free port there")
    group.add_argument("--num_processes", type=int, metavar="N", help="processes of this run, one a host")
    group.add_argument("--process_id", type=int, metavar="I", help="this process, from 0 on")


def among_hosts(args: argparse.Namespace) -> AbstractContextManager[None]:
    """Around a command: this process as one of the run's, if there are several."""
    from pagnol_jax.train import hosts

    return hosts.joined(hosts.place(args.coordinator, args.num_processes, args.process_id))


def train_from_gin(files: list[str], bindings: list[str], run_dir: str) -> int:
    """Parses, trains in `run_dir`, and says on stderr how to go on if a signal came."""
    import logging
    import sys

    import absl.logging  # makes the logger that orbax uses
    import gin

    for name in (absl.logging.get_absl_logger().name, "asyncio"):  # pages for what is told here in a line
        logging.getLogger(name).setLevel(logging.CRITICAL)
    gin_files.parse(files, bindings)
    from pagnol_jax.train import hosts
    from pagnol_jax.train.cpu import keep_memory
    from pagnol_jax.train.run import train

    keep_memory()
    stopped = gin_files.call(train, run_dir=run_dir, config_text=gin.operative_config_str)
    if stopped is None:
        return 0
    if hosts.first():
        print(f"pagnol: {stopped.name}: checkpoint saved; the same command goes on from it", file=sys.stderr)
    return 128 + stopped
