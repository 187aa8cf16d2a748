"""Training of a click model under a rule: Adam on the cross-entropy, stopped early by the AUC on validation rows."""

from __future__ import annotations

import functools
import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from pagnol_jax import dfa
from pagnol_jax.data.zoo.ranking import auc, log_loss
from pagnol_jax.data.zoo.rows import Batch, Batches, Order, Rows, reshuffled
from pagnol_jax.dfa.rules import Rule
from pagnol_jax.errors import UserError, check_counts
from pagnol_jax.train import study
from pagnol_jax.train.record import write_atomically

ALIGNED_ROWS = 512  # as the study measured its alignments


@struct.dataclass
class Best:
    """What the best epoch so far left: its parameters and statistics, its validation AUC, its number from 1."""

    params: Any
    statistics: Any
    auc: jax.Array
    epoch: jax.Array


@struct.dataclass
class State:
    """All that a run is. statistics: batch normalisation's. matrices: of the feedback. worse: epochs since the best."""

    step: jax.Array
    params: Any
    statistics: Any
    optimizer: Any
    matrices: Any
    best: Best
    worse: jax.Array


class Network(NamedTuple):
    """A model with its rule and optimiser, as pure functions.

    init(key) -> State; update(state, Batch) -> (state, {"loss": scalar}); predict(params, statistics, ids int32 [B, F])
    -> logits [B]; align(state, Batch) -> {path of a tap: Alignment} between the rule's signals and backpropagation's.
    loss(params, statistics, ids, labels, key) -> (loss, new statistics), in training mode.
    """

    init: Callable[[jax.Array], State]
    update: Callable[[State, Batch], tuple[State, dict[str, jax.Array]]]
    predict: Callable[[Any, Any, Any], jax.Array]
    align: Callable[[State, Batch], dict[str, dfa.Alignment]]
    loss: Callable[..., tuple[jax.Array, Any]]


def adam(learning_rate: float, clip_norm: float | None = None) -> optax.GradientTransformation:
    """Adam (Kingma and Ba 2015), with gradients clipped by their global norm first where `clip_norm` is given."""
    update = optax.adam(learning_rate)
    return optax.chain(optax.clip_by_global_norm(clip_norm), update) if clip_norm else update


def network(module: nn.Module, rule: Rule, optimizer: optax.GradientTransformation, seed: int) -> Network:
    """`module`: ids [B, F], train -> logits [B, 1]. Dropout is drawn from `seed` and the step."""

    def loss(params: Any, statistics: Any, ids: jax.Array, labels: jax.Array, key: jax.Array) -> tuple[jax.Array, Any]:
        variables = {"params": params, "batch_stats": statistics}
        logits, changed = module.apply(variables, ids, True, rngs={"dropout": key}, mutable=["batch_stats"])
        return optax.sigmoid_binary_cross_entropy(logits[:, 0], labels).mean(), changed.get("batch_stats", {})

    def init(key: jax.Array) -> State:
        ids = jnp.zeros((2, len(module.sizes)), jnp.int32)
        key, matrices_key = jax.random.split(key)
        variables: Any = module.init(key, ids, False)
        params, statistics = variables["params"], variables.get("batch_stats", {})
        matrices = dfa.init(loss, rule, matrices_key)(params, statistics, ids, jnp.zeros(2), key)
        zero = jnp.zeros((), jnp.int32)
        best = Best(params, statistics, jnp.zeros(()), zero)
        return State(zero, params, statistics, optimizer.init(params), nn.unbox(matrices), best, zero)

    @jax.jit
    def update(state: State, batch: Batch) -> tuple[State, dict[str, jax.Array]]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        gradient = dfa.value_and_grad(loss, rule, state.matrices, has_aux=True)
        (value, statistics), grads = gradient(state.params, state.statistics, batch.ids, batch.labels, key)
        updates, opt = optimizer.update(grads, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        state = replace(state, step=state.step + 1, params=params, statistics=statistics, optimizer=opt)
        return state, {"loss": value}

    @jax.jit
    def predict(params: Any, statistics: Any, ids: jax.Array) -> jax.Array:
        logits: Any = module.apply({"params": params, "batch_stats": statistics}, ids, False)
        return logits[:, 0]

    @jax.jit
    def align(state: State, batch: Batch) -> dict[str, dfa.Alignment]:
        if rule.feedback is None:
            return {}
        measure = dfa.alignment(lambda *args: loss(*args)[0], rule, state.matrices)
        return measure(state.params, state.statistics, batch.ids, batch.labels, jax.random.key(seed))

    return Network(jax.jit(init), update, predict, align, loss)


def scores(net: Network, best: Best | State, batches: Batches, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels float32 [N] of all rows of a part; short batches are filled up, so that one program does."""
    logits, labels = [], []
    for batch in batches.whole(part, batches.batch_size):
        count = len(batch.labels)
        ids = np.pad(batch.ids, ((0, batches.batch_size - count), (0, 0)))
        logits.append(np.asarray(net.predict(best.params, best.statistics, ids))[:count])
        labels.append(batch.labels)
    return np.concatenate(logits), np.concatenate(labels)


def evaluated(net: Network, state: State, batches: Batches) -> tuple[State, dict[str, float]]:
    """After an epoch: its validation AUC and log loss, and the state that remembers the best epoch."""
    logits, labels = scores(net, state, batches, "validation")
    found = {"auc": auc(logits, labels), "log_loss": log_loss(logits, labels)}
    # An equal AUC counts as better, as in the study; the best is kept in float32.
    if np.float32(found["auc"]) >= np.float32(state.best.auc):
        epoch = state.step // batches.steps_per_epoch
        best = Best(state.params, state.statistics, jnp.float32(found["auc"]), epoch.astype(jnp.int32))
        return replace(state, best=best, worse=jnp.zeros((), jnp.int32)), found
    return replace(state, worse=state.worse + 1), found


def alignment(net: Network, state: State, batches: Batches) -> dict[str, dict[str, float]]:
    """Cosines between the rule's signals and backpropagation's at its taps, on one batch of 512 training rows.

    Of the last parameters: those that the feedback has acted on longest. Both sides drop the same units.
    """
    rows = batches.indexes("train", np.arange(min(ALIGNED_ROWS, batches.count("train"))))
    found = net.align(state, Batch(batches.rows.ids[rows], batches.rows.labels[rows].astype(np.float32)))
    # Taps that hear nothing have no signal to compare.
    heard = {name: a for name, a in found.items() if int(a.counted)}
    return {name: {"mean": float(a.mean), "std": float(a.std), "rows": int(a.counted)} for name, a in heard.items()}


def train(
    run_dir: str,
    data: Rows,
    model: Callable[..., nn.Module],
    rule: Rule,
    learning_rate: float,
    clip_norm: float | None = None,
    batch_size: int = 2048,
    epochs: int = 15,
    patience: int = 3,
    order: Order = reshuffled,
    seed: int = 42,
    checkpoint_every: int = 1000,
    log_every: int = 100,
    config_text: Callable[[], str] = str,
) -> dict[str, Any]:
    """Trains one model under one rule, or goes on where its folder stands; returns what results.json holds.

    model: called with `sizes` gives the module. clip_norm: as `adam` takes it. patience: epochs in a row with a
    validation AUC below the best after which training ends; the best epoch is tested. seed: of the split, the order,
    the parameters and dropout.
    Raises UserError for sizes that do not fit, for rows of one class to validate or test on, for predictions that are
    not finite and for a folder of another run; Stopped as `study.fit` does.
    """
    counts = {"batch_size": batch_size, "epochs": epochs, "patience": patience}
    check_counts(**counts)
    batches = Batches(data, batch_size, seed, order)
    check_classes(batches)
    module = model(sizes=data.sizes)
    net = network(module, rule, adam(learning_rate, clip_norm), seed)
    record: dict[str, Any] = {"model": described(module), "rule": rule.to_json()}
    record |= {"data": data.fingerprint, "rows": len(data.labels)}
    record |= {"learning_rate": learning_rate, "clip_norm": clip_norm, "batch_size": batch_size}
    record |= {"patience": patience, "order": order.__name__, "seed": seed}
    state = study.fit(
        run_dir,
        net.init(jax.random.key(seed)),
        net.update,
        epochs * batches.steps_per_epoch,
        record=record,
        batch=batches,
        evaluate=lambda state: evaluated(net, state, batches),
        evaluate_every=batches.steps_per_epoch,
        finished=lambda state: int(state.worse) >= patience,
        checkpoint_every=checkpoint_every,
        log_every=log_every,
        config_text=config_text,
    )
    logits, labels = scores(net, state.best, batches, "test")
    results = record | {
        "parameters": sum(x.size for x in jax.tree.leaves(state.params)),
        "epochs": int(state.step) // batches.steps_per_epoch,
        "best_epoch": int(state.best.epoch),
        "validation_auc": float(state.best.auc),
        "test_auc": auc(logits, labels),
        "test_log_loss": log_loss(logits, labels),
        "rows_per_second": rows_per_second(Path(run_dir), batch_size),
        "alignment": alignment(net, state, batches),
    }
    write_atomically(Path(run_dir) / "results.json", json.dumps(results, indent=2) + "\n")
    return results


def check_classes(batches: Batches) -> None:
    """Raises UserError where the rows to validate or to test on are all of one class: they have no AUC."""
    for part in ("validation", "test"):
        found: set[float] = set()
        for batch in batches.whole(part, batches.batch_size):  # the first has both, as a rule
            found.update(batch.labels.tolist())
            if len(found) > 1:
                break
        else:
            raise UserError(f"the {batches.count(part):,} {part} rows are all of one class: AUC needs both")


def described(module: nn.Module) -> dict[str, Any]:
    """The architecture, its numbers and its initialisers."""
    names = [field.name for field in fields(module) if field.name not in ("parent", "name")]
    values = {name: getattr(module, name) for name in names}
    told = {n: called(v) if callable(v) else list(v) if isinstance(v, Sequence) else v for n, v in values.items()}
    return {"architecture": type(module).__name__} | told


def called(function: Callable[..., Any]) -> str:
    """A function's name with what it was made of, the same in every process: 'normal.init(stddev=0.1)'."""
    function = inspect.unwrap(function)
    parts: Mapping[str, Any] = {}
    if isinstance(function, functools.partial):
        name, parts = called(function.func), {str(i): x for i, x in enumerate(function.args)} | function.keywords
    else:
        name = getattr(function, "__qualname__", type(function).__qualname__).replace(".<locals>", "")
        if inspect.isfunction(function):
            parts = inspect.getclosurevars(function).nonlocals
    told = {n: called(x) if callable(x) else re.sub(" at 0x[0-9a-f]+", "", repr(x)) for n, x in sorted(parts.items())}
    return name + (f"({', '.join(f'{n}={x}' for n, x in told.items())})" if told else "")


def rows_per_second(run_dir: Path, batch_size: int) -> float | None:
    """Training speed with the reading of its batches, the median of the log; None before two lines of it."""
    lines = (run_dir / "speed.jsonl").read_text(encoding="utf-8").splitlines()
    rates = [json.loads(line)["steps_per_second"] for line in lines][1:]  # the first has the compilation in it
    return float(np.median(rates)) * batch_size if rates else None
