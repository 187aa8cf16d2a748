"""Greedy decoding against PyTorch, one interleaved run: python -m benchmarks.decoding [--json FILE].

Every decoder lives in its own process and they take turns, so that no two thread pools run at once; a round
measures each once, and the medians of the rounds are compared. Weights are random and of equal shapes;
tokens/s counts new tokens, the reading of the prompts included in the time.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import save

SHAPE = {"layers": 4, "width": 256, "heads": 4, "vocab": 8192, "context": 256}
PEERS = ("recompute", "transformers", "handwritten")
PROMPT = 32


class Decoder:
    """A decoder in its own process, kept alive; one JSON request and answer a line."""

    def __init__(self, name: str) -> None:
        own = ["-m", "benchmarks.decoding", "--serve"]
        peer = ["-m", "benchmarks.peers.decoding_torch", name, json.dumps(SHAPE)]
        environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, *(own if name == "ours" else peer)]
        self.process = subprocess.Popen(
            command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def seconds(self, prompts: list[list[int]], new_tokens: int) -> float:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps({"prompts": prompts, "new_tokens": new_tokens}), file=self.process.stdin, flush=True)
        answer = json.loads(self.process.stdout.readline())
        assert answer["shape"] == [len(prompts), new_tokens], answer
        return answer["seconds"]

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def serve() -> None:
    """Our decoder, answering as the peers do."""
    import flax.linen as nn
    import jax

    from pagnol_jax.models import decode, gpt, sampling
    from pagnol_jax.models.config import GPTConfig

    config = GPTConfig(
        vocab_size=SHAPE["vocab"],
        num_layers=SHAPE["layers"],
        d_model=SHAPE["width"],
        num_heads=SHAPE["heads"],
        max_length=SHAPE["context"],
    )
    params = jax.jit(lambda key: nn.unbox(gpt.init(config, key)))(jax.random.key(0))
    weights = decode.unstack(config, params)
    for line in sys.stdin:
        request = json.loads(line)
        keys = jax.random.split(jax.random.key(0), len(request["prompts"]))
        start = time.perf_counter()
        chunks = decode.generate(weights, request["prompts"], sampling.greedy(), request["new_tokens"], keys=keys)
        tokens = np.concatenate(list(chunks), axis=1)
        seconds = time.perf_counter() - start
        print(json.dumps({"seconds": seconds, "shape": tokens.shape}), flush=True)


def measure(decoders: dict[str, Decoder], batch: int, new_tokens: int, rounds: int) -> dict[str, list[float]]:
    """{decoder: tokens/s of every round}, after one run each to compile and warm up."""
    speeds: dict[str, list[float]] = {name: [] for name in decoders}
    generator = np.random.default_rng(0)
    for number in range(rounds + 1):
        prompts = generator.integers(0, SHAPE["vocab"], (batch, PROMPT)).tolist()
        for name, decoder in decoders.items():
            speed = batch * new_tokens / decoder.seconds(prompts, new_tokens)
            if number:
                speeds[name].append(speed)
    return speeds


def summary(speeds: dict[str, list[float]]) -> dict[str, Any]:
    """Medians, and our ratio to LairGPT's method and to the better PyTorch cache: the median over rounds."""

    def ratio(names: tuple[str, ...]) -> float:
        best = [max(speeds[name][i] for name in names) for i in range(len(speeds["ours"]))]
        return statistics.median(ours / peer for ours, peer in zip(speeds["ours"], best, strict=True))

    return {
        "tokens_per_second": {name: statistics.median(values) for name, values in speeds.items()},
        "times_recompute": ratio(("recompute",)),
        "times_best_cache": ratio(("transformers", "handwritten")),
        "rounds": speeds,
    }


def table(results: list[dict[str, Any]]) -> str:
    names = ("ours", *PEERS)
    lines = ["| batch | new tokens | " + " | ".join(names) + " | × recompute | × best cache |"]
    lines.append("|" + " --- |" * (len(names) + 4))
    for r in results:
        speeds = " | ".join(f"{r['tokens_per_second'][name]:,.0f}" for name in names)
        ratios = f"{r['times_recompute']:.1f} | {r['times_best_cache']:.2f}"
        lines.append(f"| {r['batch']} | {r['new_tokens']} | {speeds} | {ratios} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Tokens/s of greedy decoding, beside PyTorch.")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--new_tokens", type=int, nargs="+", default=[128, 224])
    parser.add_argument("--json", type=Path, help="also write everything to this file")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        return serve()
    decoders = {name: Decoder(name) for name in ("ours", *PEERS)}
    results = []
    for batch in args.batch:
        for new_tokens in args.new_tokens:
            measured = summary(measure(decoders, batch, new_tokens, args.rounds))
            results.append({"batch": batch, "new_tokens": new_tokens, **measured})
    for decoder in decoders.values():
        decoder.close()
    report = {
        "shape": SHAPE | {"prompt": PROMPT, "dtype": "float32"},
        "command": "python -m benchmarks.decoding " + " ".join(sys.argv[1:]),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the end",
        "versions": {n: version(n) for n in ("jax", "jaxlib", "flax", "torch", "transformers")},
        "rounds": args.rounds,
        "results": results,
    }
    print(table(results))
    print(f"\n{report['machine']}; {report['versions']}; medians of {args.rounds} rounds")
    if args.json:
        save(args.json, report)
    return None


if __name__ == "__main__":
    main()
