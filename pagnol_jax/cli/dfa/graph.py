"""`pagnol dfa graph`: graph networks trained by a rule, one architecture and arm or a whole table of them."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from pagnol_jax.cli import gin_files, ladder


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds `graph`."""
    parser = subparsers.add_parser(
        "graph",
        help="graph networks on Cora: Chebyshev, GCN, spline, GAT, DNA, autoencoder",
        description="Trains the network that gin files describe with every seed, or each of a table's RUNGS, and "
        "prints mean and spread beside the paper's run. A line a seed goes to OUTPUT/NAME/results.jsonl as soon as it "
        "is done; finished seeds are passed over, so the same command completes a killed one.",
        epilog="example: pagnol dfa graph --gin_file gin/dfa/graph/gcn_dfa.gin --gin.SEEDS=3",
    )
    gin_files.add_arguments(parser)
    parser.add_argument("--output", type=Path, default=Path("runs/dfa_graph"), help="folder of the runs (%(default)s)")
    parser.add_argument("--figure", type=Path, help="a .png, .pdf or .svg of the results, to write")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Exit status 0; Stopped after a signal."""
    import gin

    runs = ladder.runs_of(args.gin_file, args.gin_bindings)
    from pagnol_jax.train.cpu import keep_memory
    from pagnol_jax.train.zoo import graph, graph_results

    if args.figure:
        from pagnol_jax.cli.dfa import graph_figure
        from pagnol_jax.scaling.plots import style

        style.check(args.figure)
    keep_memory()
    begin = time.perf_counter(), time.process_time()
    for name, (files, bindings) in runs.items():
        gin_files.parse(files, bindings)
        gin_files.call(graph.train, run_dir=args.output / name, config_text=gin.operative_config_str)
    taken, busy = time.perf_counter() - begin[0], time.process_time() - begin[1]
    print(graph_results.table(args.output, list(runs)))
    print(f"\n{args.output}: {taken / 60:.1f} minutes, {busy / 60:.1f} of a core")
    if args.figure:
        graph_figure.draw(graph_results.findings(args.output, list(runs)), args.figure)
    return 0
