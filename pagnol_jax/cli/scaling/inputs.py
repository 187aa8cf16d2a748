"""The arguments that name runs, and what is read of them, for every scaling command."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pagnol_jax.errors import UserError, writing

if TYPE_CHECKING:  # numpy is imported when a command runs, so that `pagnol --help` stays quick
    from pagnol_jax.scaling import ComputeUnit, RunRecord
    from pagnol_jax.scaling.points import Chooser

Commands = argparse._SubParsersAction
UNITS = ("pf-days", "flop")
CONVENTIONS = ("non_embedding", "total", "with_attention")
POINTS = ("final", "pareto", "all")
RUNS_HELP = "run folders, folders of runs, or tables (.csv, .jsonl, .parquet)"


def add_command(commands: Commands, name: str, description: str, epilog: str) -> argparse.ArgumentParser:
    """A command whose first line of help is its description."""
    return commands.add_parser(
        name,
        help=description,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_reading(parser: argparse.ArgumentParser) -> None:
    """How runs are read: --corpus, --columns, --exclude, --convention."""
    add = parser.add_argument
    add("--corpus", help="validation corpus of run folders (default: token-weighted mean over all)")
    add("--columns", type=_pairs, default={}, metavar="FIELD=COLUMN,...", help="columns of a table")
    add("--exclude", type=_names, default=(), metavar="RUN,...", help="runs to leave out")
    add("--convention", choices=CONVENTIONS, help="count compute anew, where that is exact")


def add_points(parser: argparse.ArgumentParser) -> None:
    """Which checkpoints enter: --points or --at, with --unit."""
    parser.add_argument("--unit", choices=UNITS, default="pf-days", help="unit of compute, for --at too")
    points = parser.add_mutually_exclusive_group()
    points.add_argument("--points", choices=POINTS, default="final", help="which checkpoints to fit (default: final)")
    points.add_argument("--at", type=_computes, metavar="C,...", help="the best run's checkpoint at each compute")


def read(args: argparse.Namespace, paths: Sequence[Path], exclude: Sequence[str] | None = None) -> list[RunRecord]:
    """Comparable runs of `paths`, compute counted as asked. Raises UserError where none is left."""
    from pagnol_jax import scaling

    runs = scaling.read_runs(paths, args.corpus, args.columns, args.exclude if exclude is None else exclude)
    if not runs:
        raise UserError("no run is left to fit")
    if args.convention:
        runs = [scaling.with_convention(run, scaling.CONVENTIONS[args.convention]) for run in runs]
    return scaling.harmonise(runs)


def unit_of(args: argparse.Namespace) -> ComputeUnit:
    """The unit of --unit."""
    from pagnol_jax import scaling

    return dict(zip(UNITS, (scaling.PF_DAY, scaling.FLOP), strict=True))[args.unit]


def chooser(args: argparse.Namespace) -> Chooser:
    """The choice of --points or --at."""
    from pagnol_jax import scaling

    choosers = dict(zip(POINTS, (scaling.final_points, scaling.pareto_points, scaling.every_point), strict=True))
    return scaling.points_at(args.at, unit_of(args)) if args.at else choosers[args.points]


def write_json(path: Path, values: dict[str, Any] | list[dict[str, Any]]) -> None:
    """Writes values, indented. Raises UserError where the file cannot be written."""
    with writing(path):
        path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


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
