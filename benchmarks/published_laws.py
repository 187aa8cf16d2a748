"""The published scaling laws re-derived from public run data, and recovery studies: one command, one page.

    python -m benchmarks.published_laws

Reads $PAGNOL_DATA_DIR/scaling, prints the page and writes it and its numbers. Every section is timed.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.machine import describe, save
from benchmarks.published.section import Options, data_folder, table, text
from pagnol_jax.errors import UserError

if TYPE_CHECKING:
    from benchmarks.published.section import Section

PAGE = Path("docs/results/published_laws.md")
NUMBERS = Path("benchmarks/results/published_laws.json")


def sections() -> dict[str, Section]:
    """By name, in the order of the page."""
    from benchmarks.published import chinchilla, compute, figure_1, gadre, kaplan, olmo, porian, recovery, small_ladder

    modules = (figure_1, compute, porian, gadre, olmo, chinchilla, recovery, small_ladder, kaplan)
    return {module.__name__.rsplit(".", 1)[1]: module.SECTION for module in modules}


def seconds() -> tuple[float, float]:
    """Wall clock, and CPU of this process and of those that it has waited for."""
    spent = os.times()
    return time.perf_counter(), spent.user + spent.system + spent.children_user + spent.children_system


def measure(options: Options) -> dict[str, Any]:
    """Numbers and seconds of every section, and of the whole, with what they were measured on."""
    machine = describe()
    machine["versions"]["scipy"] = metadata.version("scipy")
    start = seconds()
    found = {}
    for name, section in sections().items():
        print(f"{name} ...", file=sys.stderr, flush=True)
        before = seconds()
        numbers = section.measure(options)
        found[name] = {"numbers": numbers, **_spent(before)}
        print(f"{name}: {_told(found[name])}", file=sys.stderr, flush=True)
    settings = {"draws": options.draws, "repeats": options.repeats, "processes": options.processes}
    return {"machine": machine, **settings, "sections": found, **_spent(start)}


def _spent(since: tuple[float, float]) -> dict[str, float]:
    wall, cpu = (after - before for after, before in zip(seconds(), since, strict=True))
    return {"wall_seconds": wall, "cpu_seconds": cpu}


def _told(spent: dict[str, Any]) -> str:
    return f"{spent['wall_seconds']:.1f} s, {spent['cpu_seconds']:.1f} s of CPU"


def page(report: dict[str, Any]) -> str:
    """The Markdown page of a report."""
    machine = report["machine"]
    versions = ", ".join(f"{name} {machine['versions'][name]}" for name in ("jax", "numpy", "scipy"))
    blocks = [
        "# Published laws, re-derived",
        text(
            f"Written by `{machine['command']}` from public run tables; the numbers are in `{NUMBERS}`. Bootstraps of "
            f"{report['draws']:,} draws and studies of {report['repeats']} repeats, where nothing else is said."
        ),
    ]
    for name, section in sections().items():
        blocks += [f"## {section.title}", *section.page(report["sections"][name]["numbers"])]
    times = {section.title: report["sections"][name] for name, section in sections().items()} | {"**all**": report}
    blocks += [
        "## Time",
        text(
            f"Measured on {machine['cores']} cores of {machine['processor']}, load {machine['load']:.1f} at the start, "
            f"{report['processes']} processes in the recovery studies; Python {machine['python']}, {versions}. Seconds "
            "of wall clock as measured, and of CPU, compilation included:"
        ),
        table(
            {"section": name, "wall": f"{one['wall_seconds']:.1f}", "CPU": f"{one['cpu_seconds']:.1f}"}
            for name, one in times.items()
        ),
    ]
    return "\n\n".join(blocks) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=PAGE, help="the page (default: %(default)s)")
    parser.add_argument("--json", type=Path, default=NUMBERS, help="its numbers (default: %(default)s)")
    parser.add_argument("--draws", type=int, default=1000, help="of every bootstrap (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=500, help="of every recovery study (default: %(default)s)")
    args = parser.parse_args()
    try:
        options = Options(data_folder(), args.draws, args.repeats, os.cpu_count() or 1)
    except UserError as error:
        parser.exit(2, f"published_laws: {error}\n")
    os.environ["JAX_PLATFORMS"] = "cpu"
    report = measure(options)
    save(args.json, report)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(page(report), encoding="utf-8")
    print(page(report), end="")


if __name__ == "__main__":
    main()
