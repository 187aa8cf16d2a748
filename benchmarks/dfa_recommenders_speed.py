"""Training speed of the click models at the sizes of the paper, with tables of a million rows.

    python -m benchmarks.dfa_recommenders_speed train.txt

Rows per second of CPU time of the whole process, which other work on the machine does not change, and of wall clock.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import jax

from benchmarks.dfa_recommenders import LEAVES
from benchmarks.machine import describe, save
from pagnol_jax.cli import gin_files
from pagnol_jax.data.zoo.rows import Batches
from pagnol_jax.train.cpu import keep_memory
from pagnol_jax.train.zoo import recommend

NUMBERS = Path("benchmarks/results/dfa_recommenders_speed.json")
STEPS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("log", help="a file in Criteo's format, of some batches of 2,048 at least")
    log = parser.parse_args().log
    keep_memory()
    report = json.loads(NUMBERS.read_text()) if NUMBERS.exists() else {"machine": describe(), "leaves": {}}
    for leaf in LEAVES:
        if leaf not in report["leaves"]:
            report["leaves"][leaf] = measured(leaf, log)
            save(NUMBERS, report)
        print(leaf, report["leaves"][leaf], file=sys.stderr, flush=True)


def measured(leaf: str, log: str) -> dict[str, Any]:
    """The best of some steps after the first, which compiles."""
    gin_files.parse([f"dfa/recommend/{leaf}.gin", "dfa/recommend/hashed.gin"], [f"CRITEO = {log!r}"])
    bound = gin_files.bindings(recommend.train)
    batches = Batches(bound["data"], bound["batch_size"], bound["seed"], bound["order"])
    optimizer = recommend.adam(bound["learning_rate"], bound.get("clip_norm"))
    net = recommend.network(bound["model"](sizes=bound["data"].sizes), bound["rule"], optimizer, bound["seed"])
    state, _ = jax.block_until_ready(net.update(net.init(jax.random.key(0)), batches(0)))
    cpu, wall = [], []
    for step in range(1, STEPS + 1):
        before = time.process_time(), time.perf_counter()
        state, _ = jax.block_until_ready(net.update(state, batches(step)))
        cpu.append(time.process_time() - before[0])
        wall.append(time.perf_counter() - before[1])
    parameters = sum(x.size for x in jax.tree.leaves(state.params))
    rates = {"rows_per_cpu_second": bound["batch_size"] / min(cpu), "rows_per_second": bound["batch_size"] / min(wall)}
    return {"batch_size": bound["batch_size"], "parameters": parameters} | rates


if __name__ == "__main__":
    main()
