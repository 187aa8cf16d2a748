"""`pagnol scaling compare`: groups of runs against the first of them."""

from __future__ import annotations

import argparse
import string
from pathlib import Path
from typing import TYPE_CHECKING

from pagnol_jax.cli.scaling import inputs
from pagnol_jax.errors import UserError

if TYPE_CHECKING:
    from pagnol_jax.scaling import RunRecord

EXAMPLE = """examples, two languages, and three training rules by their losses on one text:
  pagnol scaling compare runs/ladder_fr runs/ladder_en --names fr,en --plot fr_en.pdf
  pagnol scaling compare runs/backprop runs/dfa runs/shallow --corpus literature"""


def add_parser(commands: inputs.Commands) -> None:
    """Adds `compare`."""
    description = "Compare groups of runs with the first: exponents, loss at equal compute, compute at equal loss."
    parser = inputs.add_command(commands, "compare", description, EXAMPLE)
    parser.add_argument("a", type=Path, metavar="A", help="a folder of run folders, or a table")
    parser.add_argument("b", type=Path, nargs="+", metavar="B", help="another, which is told against A")
    parser.add_argument("--names", type=_names, metavar="A,B,...", help="what to call them (default: as their paths)")
    inputs.add_reading(parser)
    parser.add_argument("--unit", choices=inputs.UNITS, default="pf-days", help="unit of the printed compute")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="also write the comparison as JSON, a list of several"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="also draw them: a .png, .pdf or .svg file")
    parser.add_argument("--dark", action="store_true", help="of --plot: light lines on a dark ground")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Prints the comparisons, and writes and draws them where asked."""
    from pagnol_jax.scaling.compare import compare_all
    from pagnol_jax.scaling.compare_report import as_json, as_text

    paths = [args.a, *args.b]
    names = args.names or _called(paths)
    if len(names) != len(paths):
        raise UserError(f"--names has {len(names)} names for {len(paths)} groups")
    comparisons = compare_all(_read(args, paths), names)
    unit = inputs.unit_of(args)
    print("\n\n".join(as_text(comparison, unit) for comparison in comparisons))
    if args.json:
        found = [as_json(comparison, unit) for comparison in comparisons]
        inputs.write_json(args.json, found if len(found) > 1 else found[0])
    if args.plot:
        from pagnol_jax.scaling import plots

        theme = plots.DARK if args.dark else plots.LIGHT
        plots.plot_comparison(comparisons[0], args.plot, unit, others=comparisons[1:], theme=theme)


def _read(args: argparse.Namespace, paths: list[Path]) -> list[list[RunRecord]]:
    """The groups, each without those of --exclude that it holds."""
    excluded = [_excluded(args, path) for path in paths]
    unknown = sorted(set(args.exclude).difference(*excluded))
    if unknown:
        raise UserError(f"--exclude {unknown[0]}: no such run in {' or '.join(map(str, paths))}")
    return [inputs.read(args, [path], names) for path, names in zip(paths, excluded, strict=True)]


def _excluded(args: argparse.Namespace, path: Path) -> list[str]:
    """Names of --exclude that are folders or runs of `path`; a folder is not read, so it may be one that cannot be."""
    from pagnol_jax.scaling import read_runs

    folders = [name for name in args.exclude if (path / name / "run.json").exists()]
    if len(folders) == len(args.exclude):
        return folders
    names = {run.name for run in read_runs([path], args.corpus, args.columns, folders)}
    return [*folders, *(name for name in args.exclude if name in names)]


def _called(paths: list[Path]) -> list[str]:
    """The last parts of the paths, numbered by letters where two of them are one."""
    stems = [path.resolve().stem for path in paths]
    if len(set(stems)) == len(stems):
        return stems
    return [f"{stem} ({letter})" for stem, letter in zip(stems, string.ascii_uppercase, strict=False)]


def _names(text: str) -> list[str]:
    names = text.split(",")
    if len(names) < 2 or not all(names) or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"{text!r} is not different names A,B,...")
    return names
