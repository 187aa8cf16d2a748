"""Training of graph networks under a rule: the whole graph at once, many seeds, a line of results for each."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from tqdm import tqdm

from pagnol_jax.data.zoo.planetoid import Graph
from pagnol_jax.dfa.rules import Rule
from pagnol_jax.dfa.select import Where
from pagnol_jax.errors import Stopped, UserError, check_counts
from pagnol_jax.models.zoo.graph import Architecture
from pagnol_jax.train.interrupt import Interrupt
from pagnol_jax.train.record import Lines, RunFolder, versions, write_atomically
from pagnol_jax.train.zoo.graph_programs import AT_ONCE, build, run_seed
from pagnol_jax.train.zoo.graph_tasks import Task

Results = list[dict[str, Any]]
# What a folder's results have in common; more seeds may join them.
IDENTITY = ("graph", "architecture", "task", "rule", "feedback", "learning_rate", "decay", "epochs")


def train(
    run_dir: str | Path,
    graph: Graph,
    architecture: Architecture,
    task: Task,
    rule: Rule,
    learning_rate: float,
    decay: Mapping[str, float],
    epochs: int,
    seeds: int,
    measure: Sequence[str] = (),
    paper: Mapping[str, Mapping[str, float]] | None = None,
    config_text: Callable[[], str] = str,
) -> Results:
    """Trains with seeds 0 to `seeds` - 1 those whose results `run_dir` does not hold yet; returns all, by seed.

    Adam (Kingma & Ba 2015) over the whole graph. decay: {pattern of parameters: c}, c times the parameter is added to
    its gradient. measure: the modules at whose outputs a rule's signals are compared with backpropagation's in the end.
    paper: {graph: {result: what the paper reports}}, for the record.

    Writes run.json, config.gin and results.jsonl: a line a seed, as soon as it is done. Seeds run side by side, one a
    core, and depend on nothing but their number. Raises UserError for settings that make no sense, for a folder of
    another experiment and, once the other seeds have ended, for one that diverges; Stopped after a signal.
    """
    check_counts(epochs=epochs, seeds=seeds)
    at_once = math.gcd(epochs, AT_ONCE)
    optimizer = adam(learning_rate, decay)
    programs = build(architecture.network(graph.classes), task, rule, optimizer, measure, at_once)
    first = task.inputs(graph, architecture, 0)
    record = {
        "graph": {"name": graph.name, "digest": _digest(graph.edges, graph.features.data, graph.features.indices)},
        "architecture": architecture.definition,
        "task": task.definition,
        "rule": {"name": rule.name, "taps": _told(rule.taps), "error": _told(rule.error)},
        "feedback": _digest(*jax.tree.leaves(programs.matrices(jax.random.key(0), first))),
        "learning_rate": learning_rate,
        "decay": dict(decay),
        "epochs": epochs,
        "paper": (paper or {}).get(graph.name, {}),
        "versions": versions(),
        "total_steps": epochs,
    }
    folder = RunFolder(run_dir, IDENTITY)
    with folder.locked():
        folder.open(record, None, config_text())
        done = read_results(folder.path)
        left = [seed for seed in range(seeds) if seed not in {line["seed"] for line in done}]
        if left:
            compiled = programs.compiled(first)

            def run(seed: int, goes_on: Callable[[int], bool]) -> dict[str, Any] | None:
                inputs = task.inputs(graph, architecture, seed)
                return run_seed(seed, epochs, at_once, compiled, task, inputs, goes_on)

            _run_seeds(folder.path, left, epochs, run)
        return [line for line in read_results(folder.path) if line["seed"] < seeds]


def read_results(folder: Path) -> Results:
    """The lines of results.jsonl by seed; one that a kill left unfinished is dropped from the file."""
    path = folder / "results.jsonl"
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        write_atomically(path, whole)
    try:
        return sorted(map(json.loads, whole.splitlines()), key=lambda line: line["seed"])
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"{path} is damaged: {error}") from None


def adam(learning_rate: float, decay: Mapping[str, float]) -> optax.GradientTransformation:
    """Adam, `decay` added to the gradient before it."""

    def masked(pattern: str) -> Callable[[Any], Any]:
        return lambda params: jax.tree_util.tree_map_with_path(
            lambda path, _: fnmatchcase(_name(path), pattern), params
        )

    decays = [optax.add_decayed_weights(rate, mask=masked(pattern)) for pattern, rate in decay.items()]
    return optax.chain(*decays, optax.adam(learning_rate))


def _name(path: Sequence[Any]) -> str:
    return "/".join(str(key.key) for key in path)


def _run_seeds(
    folder: Path,
    seeds: Sequence[int],
    epochs: int,
    run: Callable[[int, Callable[[int], bool]], dict[str, Any] | None],
) -> None:
    """Runs `seeds`, one a core, and writes their lines as they come.

    Raises the first error of a seed when all others have ended, and Stopped after a signal.
    """
    lines = Lines(folder / "results.jsonl")
    bar = tqdm(total=len(seeds) * epochs, desc=folder.name, unit="epoch", smoothing=0.1)
    with contextlib.closing(lines), contextlib.closing(bar), Interrupt() as interrupt:
        done = dict.fromkeys(seeds, 0)
        errors: list[BaseException] = []

        def goes_on(seed: int, epoch: int) -> bool:
            done[seed] = epoch
            bar.update(sum(done.values()) - bar.n)
            return interrupt.signal is None

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for future in as_completed([pool.submit(run, seed, partial(goes_on, seed)) for seed in seeds]):
                if error := future.exception():
                    errors.append(error)
                elif line := future.result():
                    goes_on(line["seed"], epochs)
                    lines.write(json.dumps(line) + "\n")
                    lines.flush()
    if errors:
        raise errors[0]
    if interrupt.signal:
        raise Stopped(interrupt.signal, "finished seeds are kept")


def _told(where: Where) -> Any:
    """As JSON."""
    return where.__qualname__ if callable(where) else where


def _digest(*arrays: Any) -> str:
    """Of the bytes of arrays, in short."""
    return hashlib.blake2b(b"".join(np.ascontiguousarray(x).tobytes() for x in arrays), digest_size=8).hexdigest()
