"""A training step under DFA against one under backpropagation, one interleaved run; and what either computes.

    python -m benchmarks.dfa_training --json benchmarks/results/dfa_training.json

The same model, batch and optimiser; arms live in processes of their own and take turns, as in `benchmarks.training`.
Ratios are medians over rounds of an arm's seconds per step over backpropagation's in the same round. `looped` leaves
the backward pass of the scanned layers a loop.
"""

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.machine import describe, save
from benchmarks.peers.shapes import Shape

# PAGnol-XXS and PAGnol-S of gin/models/, on batches that a CPU takes.
SHAPES = {
    "xxs-t256": Shape(3, 768, 12, 50262, False, 256, 8),
    "s-t256": Shape(12, 768, 12, 50262, False, 256, 4),
}
MICRO = ("blocks", "blocks/attended", "blocks/mlp/hidden")
# (taps, normalise), changes of the model, whether the layers stay a loop; taps None is backpropagation.
ARMS: dict[str, tuple[Any, dict[str, Any], bool]] = {
    "backprop": (None, {}, False),
    "macro": ((("blocks",), ("blocks",)), {"fold_norms": True}, False),
    "micro": ((MICRO, MICRO), {"fold_norms": True}, False),
    "micro, looped": ((MICRO, MICRO), {"fold_norms": True}, True),
}
SECONDS = 4.0  # a turn


def serve(arm: str, shape: Shape, scanned: bool) -> None:
    """Answers each line of standard input with a turn: steps done, seconds."""
    from benchmarks.training import build
    from pagnol_jax import dfa
    from pagnol_jax.dfa import parallel, rules

    points, changes, looped = ARMS[arm]
    rule = rules.dfa(points[0], "final_norm", normalise=points[1]) if points else rules.backprop()
    how = functools.partial(dfa.value_and_grad, layers=parallel.looped if looped else parallel.batched)
    with mock.patch.object(dfa, "value_and_grad", how):
        _, compiled, step = build(shape, "float32", rule, **changes, **({"unroll": 1} if scanned else {}))
    losses = [step() for _ in range(2)]
    flops = compiled.cost_analysis()["flops"]  # of a loop's body once: whole where layers are unrolled
    print(json.dumps({"flops": flops, "first_loss": losses[0]}), flush=True)
    for _ in sys.stdin:
        start, count = time.perf_counter(), 0
        while time.perf_counter() - start < SECONDS or count < 2:
            count += bool(step())
        print(json.dumps({"steps": count, "seconds": time.perf_counter() - start}), flush=True)


class Arm:
    """A rule in a process of its own."""

    def __init__(self, name: str, shape: str, scanned: bool) -> None:
        command = [sys.executable, "-m", "benchmarks.dfa_training", "--serve", name, shape, str(int(scanned))]
        environment = os.environ | {"JAX_PLATFORMS": "cpu"}
        self.process = subprocess.Popen(
            command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.start = self.answer()

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout
        return json.loads(self.process.stdout.readline())

    def turn(self) -> float:
        """Seconds of a step."""
        assert self.process.stdin
        print("go", file=self.process.stdin, flush=True)
        answer = self.answer()
        return answer["seconds"] / answer["steps"]

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def compare(shape: str, scanned: bool, rounds: int) -> dict[str, Any]:
    """Seconds per step and FLOPs of every arm."""
    arms = {name: Arm(name, shape, scanned) for name in ARMS}
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(rounds):
        for name, arm in arms.items():
            seconds[name].append(arm.turn())
    for arm in arms.values():
        arm.close()
    flops = {name: arm.start["flops"] for name, arm in arms.items()}
    return {"shape": shape, "scanned": scanned, "seconds_per_step": seconds, "flops": flops}


def rows(result: dict[str, Any]) -> list[str]:
    """Lines of the table."""
    seconds, flops = result["seconds_per_step"], result["flops"]
    lines = []
    for name in ARMS:
        ratio = statistics.median(a / b for a, b in zip(seconds[name], seconds["backprop"], strict=True))
        counted = "" if result["scanned"] else f"{flops[name] / flops['backprop']:.2f}"
        layers = "scanned" if result["scanned"] else "unrolled"
        cells = [result["shape"], layers, name, f"{statistics.median(seconds[name]):.3f}", f"{ratio:.2f}", counted]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        arm, shape, scanned = args.serve
        return serve(arm, SHAPES[shape], bool(int(scanned)))
    print("| shape | layers | arm | seconds per step | / backprop | FLOPs / backprop |\n|---|---|---|---|---|---|")
    machine, results = describe(), []
    for shape in args.shapes:
        for scanned in (False, True):
            results.append(compare(shape, scanned, args.rounds))
            print("\n".join(rows(results[-1])), flush=True)
    if args.json:
        save(args.json, {"machine": machine, "results": results})


if __name__ == "__main__":
    main()
