"""Training steps on a GPU against a compiled PyTorch GPT-2 of the same shape, bfloat16, one interleaved run.

    python -m benchmarks.gpu_training --json benchmarks/results/gpu_training.json

Both sides: learned positions, exact GELU, fused attention (cuDNN's here, flash through
`scaled_dot_product_attention` there), AdamW in float32, clipping. Every trainer lives in its own process and they take
turns; ratios are medians over rounds of ours over theirs within a round. Shares of the peak count 6 N of all matrices
and 6 L d T for causal attention. Needs jax[cuda12] and a CUDA torch in one environment; `--shapes tiny` runs anywhere.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

from benchmarks import training
from benchmarks.machine import describe, save
from benchmarks.peers.shapes import LARGE, Shape

TRAINERS = ("ours", "compiled")


def flops_per_token(shape: Shape) -> float:
    """Of training: 6 N of the matrices, the projection to the vocabulary among them, and causal attention."""
    d = shape.d_model
    return 6 * (12 * shape.num_layers * d**2 + d * shape.vocab_size) + 6 * shape.num_layers * d * shape.length


def row(result: dict[str, Any], peak: float) -> str:
    """A line of the table."""
    speeds, shape = result["tokens_per_second"], LARGE[result["shape"]]
    ratio = statistics.median(a / b for a, b in zip(speeds["ours"], speeds["compiled"], strict=True))
    medians = [statistics.median(speeds[name]) for name in TRAINERS]
    shares = [f"{median * flops_per_token(shape) / peak:.1%}" for median in medians]
    return f"| {result['shape']} | {medians[0]:,.0f} | {medians[1]:,.0f} | {ratio:.2f} | {shares[0]} | {shares[1]} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--shapes", nargs="+", choices=LARGE, default=["s", "m", "l", "xl"])
    parser.add_argument("--peak", type=float, default=989e12, help="bfloat16 FLOP/s (default: 989e12, an H100 SXM)")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    print("| shape | pagnol_jax, tokens/s | compiled PyTorch | ratio | MFU, ours | MFU, PyTorch |")
    print("|---|--:|--:|--:|--:|--:|")
    machine, results = describe(), []
    for shape in args.shapes:
        results.append(training.compare(shape, "bfloat16", args.rounds, TRAINERS))
        print(row(results[-1], args.peak), flush=True)
    if args.json:
        save(args.json, {"machine": machine, "peak_flops": args.peak, "results": results})


if __name__ == "__main__":
    main()
