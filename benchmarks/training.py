"""Training steps against PyTorch, one interleaved run: a full step is forward, backward, clipping and AdamW.

    python -m benchmarks.training --json benchmarks/results/training.json

Every trainer lives in its own process and they take turns, so that no two thread pools run at once; a round
measures each once. Ratios are medians over rounds of ours over theirs within a round.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.machine import describe, save
from benchmarks.peers.shapes import BETAS, CLIP_NORM, EPSILON, LARGE, LEARNING_RATE, SHAPES, WEIGHT_DECAY, Peer, Shape

TRAINERS = ("ours", "hand_written", "hugging_face")
ALL_SHAPES = SHAPES | LARGE
SECONDS = 3.0  # a turn


class Ours(NamedTuple):
    """The training step of `pagnol train`, on one device, compiled."""

    config: Any
    compiled: Any
    step: Callable[[], float]


def build(shape: Shape, dtype: str, rule: Any = None, **changes: Any) -> Ours:
    """Compiles the step for a shape, with a state and the shape's batch to run it on.

    rule: a training rule, by default backpropagation. changes: of the model's configuration.
    """
    import jax

    from pagnol_jax.data.batches import packed
    from pagnol_jax.dfa.rules import backprop
    from pagnol_jax.models import activations, positions
    from pagnol_jax.models.config import GPTConfig
    from pagnol_jax.sharding.mesh import make_mesh
    from pagnol_jax.sharding.rules import platform
    from pagnol_jax.train import optimizer
    from pagnol_jax.train.cpu import keep_memory
    from pagnol_jax.train.step import make_steps

    keep_memory()
    whole = {"unroll": shape.num_layers, "remat": None} if platform() == "cpu" else {"unroll": 1, "remat": "dots"}
    config = GPTConfig(
        vocab_size=shape.vocab_size,
        num_layers=shape.num_layers,
        d_model=shape.d_model,
        num_heads=shape.num_heads,
        max_length=shape.length,
        position=positions.learned(),
        activation=activations.gelu(),
        tie_embeddings=shape.tied,
        dtype=dtype,
        **(whole | changes),
    )
    constant = optimizer.Schedule("constant", lambda step: LEARNING_RATE)
    adamw = optimizer.adamw(constant, *BETAS, EPSILON, WEIGHT_DECAY, CLIP_NORM)
    mesh = make_mesh()
    steps = make_steps(config, adamw, mesh, rule=backprop() if rule is None else rule)
    batch = packed(shape.tokens().astype("int32"), sep_id=-1)  # one document a window, as the peers have it
    with jax.set_mesh(mesh):
        state = steps.init(jax.random.key(0))
        batch = jax.device_put(batch, steps.batch_sharding)
        train = steps.train.lower(state, batch).compile()

    def step() -> float:
        nonlocal state
        state, metrics = train(state, batch)
        return float(metrics.loss)

    return Ours(config, train, step)


def ours(shape: Shape, dtype: str) -> Peer:
    import jax

    config, _, step = build(shape, dtype)
    return Peer(config.parameters(), f"jax {jax.__version__}", step)


def serve(trainer: str, shape: Shape, dtype: str) -> None:
    """Answers each line of standard input with a turn: steps done, seconds, last loss."""
    if trainer == "ours":
        peer = ours(shape, dtype)
    else:
        from benchmarks.peers import torch_training

        peer = getattr(torch_training, trainer)(shape, dtype)
    losses = [peer.step() for _ in range(3)]
    print(json.dumps({"parameters": peer.parameters, "first_loss": losses[0]}), flush=True)
    for _ in sys.stdin:
        start, count = time.perf_counter(), 0
        while time.perf_counter() - start < SECONDS or count < 2:
            loss, count = peer.step(), count + 1
        seconds = time.perf_counter() - start
        print(json.dumps({"steps": count, "seconds": seconds, "loss": loss}), flush=True)


class Trainer:
    """A trainer in a process of its own."""

    def __init__(self, name: str, shape: str, dtype: str) -> None:
        command = [sys.executable, "-m", "benchmarks.training", "--serve", name, shape, dtype]
        environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        environment |= {"JAX_PLATFORMS": "cpu"} if shape in SHAPES else {}
        self.process = subprocess.Popen(
            command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.start = self._answer()

    def turn(self) -> dict[str, Any]:
        assert self.process.stdin
        print("go", file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def compare(shape: str, dtype: str, rounds: int, names: tuple[str, ...] = TRAINERS) -> dict[str, Any]:
    """Tokens/s of every trainer in every round. Raises AssertionError where they do not do the same work."""
    trainers = {name: Trainer(name, shape, dtype) for name in names}
    starts = {name: trainer.start for name, trainer in trainers.items()}
    assert len({start["parameters"] for start in starts.values()}) == 1, starts
    first = [start["first_loss"] for start in starts.values()]
    assert max(first) - min(first) < 0.1, starts
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for _ in range(rounds):
        for name, trainer in trainers.items():
            turns[name].append(trainer.turn())
    for name, trainer in trainers.items():
        trainer.close()
        assert turns[name][-1]["loss"] < starts[name]["first_loss"], f"{name} does not learn"
    tokens = ALL_SHAPES[shape].batch * ALL_SHAPES[shape].length
    speeds = {name: [tokens * t["steps"] / t["seconds"] for t in found] for name, found in turns.items()}
    return {"shape": shape, "dtype": dtype, "tokens_per_second": speeds}


def row(result: dict[str, Any]) -> str:
    """A line of the table: medians, and medians of ratios round by round."""
    speeds = result["tokens_per_second"]
    medians = [f"{statistics.median(speeds[name]):,.0f}" for name in TRAINERS]
    ratios = [
        f"{statistics.median(a / b for a, b in zip(speeds['ours'], speeds[name], strict=True)):.2f}"
        for name in TRAINERS[1:]
    ]
    return f"| {' | '.join([result['shape'], result['dtype'], *medians, *ratios])} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        trainer, shape, dtype = args.serve
        return serve(trainer, ALL_SHAPES[shape], dtype)
    print("| shape | dtype | pagnol_jax, tokens/s | PyTorch by hand | transformers | / by hand | / transformers |")
    print("|---|---|---|---|---|---|---|")
    machine, results = describe(), []
    for dtype in args.dtypes:
        for shape in args.shapes:
            results.append(compare(shape, dtype, args.rounds))
            print(row(results[-1]), flush=True)
    if args.json:
        save(args.json, {"machine": machine, "results": results})


if __name__ == "__main__":
    main()
