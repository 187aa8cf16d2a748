"""Where the time of a training step goes: its share of the machine's matmul peak, and its largest costs.

    python -m benchmarks.profile_step --json benchmarks/results/profile.json

The share is of FLOPs: 6 per weight of a matrix and token, the vocabulary's among them, and attention as far as it is
causal; over what large products reach on this machine. The costs are from a profile on one core, where operations
run one after another, so that their times add up: each is put to the part of the model that it came from.
"""

import argparse
import collections
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.machine import describe, save
from benchmarks.peers.shapes import SHAPES

STEPS = 5
# The part of the model that an operation's name tells; the first that is found.
PARTS = {
    "attention/(query|key|value|out)/": "attention projections",
    "/attention/": "attention",
    "/mlp/": "feed-forward",
    "norm/": "norms",
    "jvp\\(\\)|while/": "vocabulary and loss",
    "embedding": "embeddings",
}


def label(definition: str, name: str) -> str:
    """'feed-forward: products' and the like, of an operation's definition and its name in the model."""
    part = next((part for pattern, part in PARTS.items() if re.search(pattern, name)), "optimiser and the rest")
    if part == "attention":  # scores and softmax are one operation
        return part
    return f"{part}: {'products' if 'dot_general' in name or ' dot(' in definition else 'elementwise'}"


def profile(shape: str, dtype: str) -> dict[str, float]:
    """{part: milliseconds of a step}, largest first, and 'whole step'. On one core: call it in a process of its own."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    import jax

    from benchmarks.training import build

    _, compiled, step = build(SHAPES[shape], dtype)
    step()
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        with jax.profiler.trace(folder):
            for _ in range(STEPS):
                step()
        seconds = time.perf_counter() - start
        trace = jax.profiler.ProfileData.from_file(str(next(Path(folder).rglob("*.xplane.pb"))))
    lines = re.findall(r"^ *(?:ROOT )?%?([\w.\-]+) = (.*)$", compiled.as_text(), re.MULTILINE)
    definitions = {name: text for name, text in lines if " while(" not in text and " call(" not in text}
    costs: collections.Counter[str] = collections.Counter()
    for event in (event for plane in trace.planes for line in plane.lines for event in line.events):
        if definition := definitions.get(event.name):
            name = re.search(r'op_name="([^"]*)"', definition)
            costs[label(definition, name[1] if name else "")] += event.duration_ns / 1e6 / STEPS
    return {"whole step": seconds / STEPS * 1e3} | dict(costs.most_common())


def measure(shape: str, dtype: str) -> dict[str, Any]:
    """Median step on all cores and its share of the peak; the profile."""
    from benchmarks.training import build
    from pagnol_jax.train.peak import matmul_peak_flops

    config, _, step = build(SHAPES[shape], dtype)
    seconds = []
    for _ in range(3 + 2 * STEPS):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    median, peak = statistics.median(seconds[3:]), matmul_peak_flops(dtype)
    batch, length = SHAPES[shape].batch, SHAPES[shape].length
    flops = batch * length * config.flops_per_token(attention_length=length // 2)
    command = [sys.executable, "-m", "benchmarks.profile_step", "--profile", shape, dtype]
    costs = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout
    return {
        "shape": shape,
        "dtype": dtype,
        "step_seconds": median,
        "matmul_peak_flops": peak,
        "share_of_peak": flops / median / peak,
        "one_core_ms": json.loads(costs),
    }


def report(result: dict[str, Any]) -> str:
    """A line of numbers and the costs under it."""
    costs = dict(result["one_core_ms"])
    whole = costs.pop("whole step")
    lines = [
        f"{result['shape']} {result['dtype']}: {result['step_seconds']:.3f} s a step, "
        f"{result['share_of_peak']:.0%} of {result['matmul_peak_flops'] / 1e9:.0f} GFLOP/s"
    ]
    lines += [f"  {ms / whole:5.1%}  {name}" for name, ms in costs.items()]
    return "\n".join([*lines, f"  {1 - sum(costs.values()) / whole:5.1%}  between operations"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--profile", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.profile:
        print(json.dumps(profile(*args.profile)))
        return
    results = []
    for shape in args.shapes:
        results.append(measure(shape, args.dtype))
        print(report(results[-1]), flush=True)
    if args.json:
        save(args.json, {"machine": describe(), "results": results})


if __name__ == "__main__":
    main()
