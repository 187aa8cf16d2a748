"""Our own run folders (`run.json`, `metrics.jsonl`), read into records."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pagnol_jax.errors import UserError
from pagnol_jax.scaling.record import NON_EMBEDDING, Curve, RunRecord

Json = Mapping[str, Any]


def is_run_folder(path: Path) -> bool:
    """Whether `path` is a folder that a training run wrote."""
    return (path / "run.json").is_file()


def read_run_folder(path: Path, corpus: str | None = None) -> RunRecord:
    """The record of one run: its validation losses, compute counted as 6 * N_non_embedding * D.

    Args:
      path: folder with `run.json` and `metrics.jsonl`.
      corpus: the validation corpus to read; None is the mean over all, weighted by tokens evaluated.

    Raises:
      UserError: a file is missing or unreadable, or there is no validation loss (of that corpus) yet.
    """
    facts = _read_facts(path)
    lines = _metric_lines(path)
    steps = _by_step(path, [line for line in lines if line.get("split") == "validation"], corpus)
    # The schedule as it was logged; a peak of nothing but zeros is no learning rate.
    peak = max((line["learning_rate"] for line in lines if "learning_rate" in line), default=None) or None
    try:
        return _record(facts, steps, peak)
    except KeyError as error:
        raise UserError(f"{path}: run.json or a validation line lacks {error}") from None


def _read_facts(path: Path) -> Json:
    try:
        facts = json.loads((path / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path / 'run.json'} cannot be read: {error}") from None
    if not isinstance(facts, dict):
        raise UserError(f"{path / 'run.json'} is not a JSON object")
    return facts


def _metric_lines(path: Path) -> list[Json]:
    file = path / "metrics.jsonl"
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {error}") from None
    found: list[Json] = []
    for number, line in enumerate(lines, start=1):
        try:
            metrics = json.loads(line)
        except ValueError:
            if number == len(lines):  # a run that is being written, or was killed, may end in half a line
                break
            raise UserError(f"{file} line {number} is not JSON") from None
        if not isinstance(metrics, dict):
            raise UserError(f"{file} line {number} is not a JSON object")
        found.append(metrics)
    return found


def _by_step(path: Path, lines: Sequence[Json], corpus: str | None) -> list[list[Json]]:
    """Validation lines of the chosen corpora by step, in order, without the steps that lack a corpus."""
    known = sorted({line["corpus"] for line in lines})
    if not lines or (corpus is not None and corpus not in known):
        of = "" if corpus is None else f" on corpus {corpus!r}"
        there = f"; it has {', '.join(known)}" if known else " yet"
        raise UserError(f"{path} has no validation loss{of}{there}")
    wanted = known if corpus is None else [corpus]
    # Keyed, so that a step evaluated again after a restart counts once.
    by_step: dict[int, dict[str, Json]] = {}
    for line in lines:
        if line["corpus"] in wanted:
            by_step.setdefault(line["step"], {})[line["corpus"]] = line
    return [[lines[name] for name in wanted] for _, lines in sorted(by_step.items()) if len(lines) == len(wanted)]


def _record(facts: Json, steps: Sequence[Sequence[Json]], learning_rate: float | None) -> RunRecord:
    # N is what FLOPs count, the weights of the matrix products (Kaplan et al. 2020, section 2.1: 12 L d^2,
    # and V d with embeddings), so that C = 6 N D holds to the digit. run.json also counts biases and norms.
    tokens = np.array([lines[0]["tokens"] for lines in steps], np.float64)
    losses = [_mean(lines, [line["loss_nats_per_token"] for line in lines]) for lines in steps]
    corpora = [line["corpus"] for line in steps[-1]]
    tokenizer, bytes_per_token = facts["tokenizer"], facts["bytes_per_token"]
    return RunRecord(
        name=facts["name"],
        curve=Curve(
            tokens=tokens,
            compute_flops=facts["flops_per_token_non_embedding"] * tokens,
            loss_nats_per_token=np.array(losses),
        ),
        convention=NON_EMBEDDING,
        parameters=facts["flops_per_token"] / 6,
        parameters_non_embedding=facts["flops_per_token_non_embedding"] / 6,
        attention_flops_per_token=facts["flops_per_token_attention"],
        annealed=steps[-1][0]["step"] >= facts["total_steps"],
        tokenizer=f"{tokenizer['fingerprint'][:12]} of {tokenizer['vocab_size']:,}",
        bytes_per_token=_mean(steps[-1], [bytes_per_token[name] for name in corpora]),
        corpus=" + ".join(f"{name} {_fingerprint(facts['corpora'], name)}" for name in corpora),
        learning_rate=learning_rate,
        batch_tokens=facts.get("tokens_per_step"),
    )


def _fingerprint(corpora: Json, name: str) -> str:
    """Of a corpus, which is listed under its name, or under what it serves for and its name."""
    found = [str(value)[:12] for key, value in corpora.items() if key == name or key.endswith(f" {name}")]
    return "/".join(found)


def _mean(lines: Sequence[Json], values: Sequence[float]) -> float:
    """Mean over corpora weighted by tokens evaluated; of one corpus, its value."""
    if len(values) == 1:
        return float(values[0])
    return float(np.average(values, weights=[line["tokens_evaluated"] for line in lines]))
