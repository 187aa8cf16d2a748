"""`pagnol scaling compare`: two groups of runs against each other."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pagnol_jax.cli.scaling import inputs
from pagnol_jax.errors import UserError

if TYPE_CHECKING:
    from pagnol_jax.scaling import RunRecord

EXAMPLE = """examples, two languages, and two training rules by their losses on one text:
  pagnol scaling compare runs/ladder_fr runs/ladder_en --names fr,en --plot fr_en.pdf
  pagnol scaling compare runs/backprop runs/dfa --corpus literature"""


def add_parser(commands: inputs.Commands) -> None:
    """Adds `compare`."""
    description = "Compare two groups of runs: exponents, loss at equal compute, compute at equal loss."
    parser = inputs.add_command(commands, "compare", description, EXAMPLE)
    parser.add_argument("a", type=Path, metavar="A", help="a folder of run folders, or a table")
    parser.add_argument("b", type=Path, metavar="B", help="another, which is told against A")
    parser.add_argument("--names", type=_names, metavar="A,B", help="what to call them (default: as their paths)")
    inputs.add_reading(parser)
    parser.add_argument("--unit", choices=inputs.UNITS, default="pf-days", help="unit of the printed compute")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the comparison as JSON")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="also draw both: a .png, .pdf or .svg file")
    parser.add_argument("--dark", action="store_true", help="of --plot: light lines on a dark ground")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Prints the comparison, and writes and draws it where asked."""
    from pagnol_jax.scaling.compare import compare
    from pagnol_jax.scaling.compare_report import as_json, as_text

    a, b = _read(args)
    comparison = compare(a, b, args.names or _called(args.a, args.b))
    unit = inputs.unit_of(args)
    print(as_text(comparison, unit))
    if args.json:
        inputs.write_json(args.json, as_json(comparison, unit))
    if args.plot:
        from pagnol_jax.scaling import plots

        plots.plot_comparison(comparison, args.plot, unit, theme=plots.DARK if args.dark else plots.LIGHT)


def _read(args: argparse.Namespace) -> tuple[list[RunRecord], list[RunRecord]]:
    """Both groups, each without those of --exclude that it holds."""
    excluded = [_excluded(args, path) for path in (args.a, args.b)]
    unknown = sorted(set(args.exclude) - set(excluded[0]) - set(excluded[1]))
    if unknown:
        raise UserError(f"--exclude {unknown[0]}: no such run in {args.a} or {args.b}")
    a, b = (inputs.read(args, [path], names) for path, names in zip((args.a, args.b), excluded, strict=True))
    return a, b


def _excluded(args: argparse.Namespace, path: Path) -> list[str]:
    """Names of --exclude that are folders or runs of `path`; a folder is not read, so it may be one that cannot be."""
    from pagnol_jax.scaling import read_runs

    folders = [name for name in args.exclude if (path / name / "run.json").exists()]
    if len(folders) == len(args.exclude):
        return folders
    names = {run.name for run in read_runs([path], args.corpus, args.columns, folders)}
    return [*folders, *(name for name in args.exclude if name in names)]


def _called(a: Path, b: Path) -> tuple[str, str]:
    """The last parts of the paths, told apart where they are one."""
    first, second = a.resolve().stem, b.resolve().stem
    return (first, second) if first != second else (f"{first} (A)", f"{second} (B)")


def _names(text: str) -> tuple[str, str]:
    names = text.split(",")
    if len(names) != 2 or not all(names) or names[0] == names[1]:
        raise argparse.ArgumentTypeError(f"{text!r} is not two different names A,B")
    return names[0], names[1]
