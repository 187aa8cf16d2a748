"""Runs made up for tests."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pagnol_jax.scaling import NON_EMBEDDING, Curve, RunRecord


def power_runs(
    prefactor: float, exponent: float, count: int = 6, *, noise: float = 0.0, seed: int = 0, steps: int = 5
) -> list[RunRecord]:
    """Runs over three decades of compute, whose last points lie on L = prefactor * C^exponent up to noise."""
    random = np.random.default_rng(seed)
    runs = []
    for index, size in enumerate(np.geomspace(1e6, 1e6 * 10**1.5, count)):
        tokens = 20 * size * np.linspace(1 / steps, 1, steps)
        compute = 6 * size * tokens
        excess = np.linspace(0.5, 0, steps)  # not annealed yet: above the frontier
        loss = prefactor * compute**exponent * np.exp(excess + noise * random.normal())
        curve = Curve(tokens, compute, loss)
        runs.append(RunRecord(f"run{index}", curve, NON_EMBEDDING, 2 * size, size, tokenizer="bpe", corpus="wiki"))
    return runs


def write_run(path: Path, size: int = 1000, *, seen: Sequence[int] = (5, 10), **changes: Any) -> Path:
    """A run folder as the trainer writes it, with two corpora evaluated at the steps `seen` of 10."""
    facts = {
        "name": path.name,
        "parameters": 2 * size + 7,
        "parameters_non_embedding": size + 3,
        "flops_per_token": 12 * size,
        "flops_per_token_non_embedding": 6 * size,
        "flops_per_token_attention": size,
        "tokenizer": {"vocab_size": 512, "fingerprint": "f" * 16},
        "bytes_per_token": {"wiki": 4.0, "books": 3.0},
        "corpora": {"wiki": "a" * 16, "books": "b" * 16},
        "total_steps": 10,
        "tokens_per_step": 100 * size,
    }
    path.mkdir(parents=True)
    (path / "run.json").write_text(json.dumps(facts | changes))
    lines: list[dict[str, Any]] = []
    for step in seen:
        tokens = 100 * size * step
        lines.append({"step": step, "tokens": tokens, "loss_nats_per_token": 9.0, "learning_rate": 1e-3 / step})
        for corpus, weight, more in (("wiki", 300, 0.0), ("books", 100, 1.0)):
            loss = 20 * (6.0 * size * tokens) ** -0.05 + more
            lines.append(
                {"step": step, "tokens": tokens, "split": "validation", "corpus": corpus}
                | {"loss_nats_per_token": loss, "tokens_evaluated": weight}
            )
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path
