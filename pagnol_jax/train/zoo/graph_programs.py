"""One run of a graph network as device programs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from pagnol_jax import dfa
from pagnol_jax.dfa.rules import Rule
from pagnol_jax.errors import UserError
from pagnol_jax.train.zoo.graph_tasks import Inputs, Task

AT_ONCE = 10  # epochs that the device runs without the host


class State(NamedTuple):
    """What a seed learns, how far it is, and its constants."""

    params: Any
    optimizer: Any
    epoch: jax.Array
    matrices: Any
    key: jax.Array


class Programs(NamedTuple):
    """A run as device programs.

    matrices: (key, inputs) -> those of the feedback, quick without compilation. start: (key, inputs) -> State.
    advance: (state, inputs) -> the state some epochs on, and {name: [epochs]}: the scores before each, and its loss.
    finish: (state, inputs) -> outputs, scores, {module: {mean, std, counted}}.
    """

    matrices: Callable[..., Any]
    start: Callable[..., State]
    advance: Callable[..., tuple[State, Any]]
    finish: Callable[..., Any]

    def compiled(self, inputs: Inputs) -> Programs:
        """Ready to run in any thread."""
        key = jax.random.key(0)
        state = jax.eval_shape(self.start, key, inputs)
        return Programs(
            self.matrices,
            jax.jit(self.start).lower(key, inputs).compile(),
            jax.jit(self.advance, donate_argnums=0).lower(state, inputs).compile(),
            jax.jit(self.finish).lower(state, inputs).compile(),
        )


def build(
    network: nn.Module,
    task: Task,
    rule: Rule,
    optimizer: optax.GradientTransformation,
    measure: Sequence[str],
    at_once: int,
) -> Programs:
    """The programs of a run, not compiled yet; alignment is measured at the outputs of the modules `measure`."""

    def outputs(params: Any, inputs: Inputs, key: jax.Array | None = None) -> jax.Array:
        rngs = None if key is None else {"dropout": key}
        operands = inputs["features"], inputs["operator"]
        return network.apply({"params": params}, *operands, train=key is not None, rngs=rngs)  # type: ignore[return-value]

    def loss(params: Any, inputs: Inputs, key: jax.Array) -> jax.Array:
        dropout_key, task_key = jax.random.split(key)
        return task.loss(outputs(params, inputs, dropout_key), inputs, task_key)

    def whole(params: Any, inputs: Inputs, key: jax.Array) -> jax.Array:
        return task.whole(outputs(params, inputs), inputs, key)

    def initial(key: jax.Array, inputs: Inputs) -> Any:
        return network.init(key, inputs["features"], inputs["operator"])["params"]

    def matrices(key: jax.Array, inputs: Inputs) -> Any:
        params = jax.eval_shape(initial, key, inputs)
        return nn.unbox(dfa.init(loss, rule, jax.random.split(key, 3)[1])(params, inputs, key))

    def start(key: jax.Array, inputs: Inputs) -> State:
        init_key, _, run_key = jax.random.split(key, 3)
        params = initial(init_key, inputs)
        return State(params, optimizer.init(params), jnp.int32(0), matrices(key, inputs), run_key)

    def epoch(state: State, inputs: Inputs) -> tuple[State, Any]:
        # Before the update: without dropout this forward pass is the very one of the gradient, and computed once.
        scores = task.scores(outputs(state.params, inputs), inputs)
        gradient = dfa.value_and_grad(loss, rule, state.matrices)
        value, grads = gradient(state.params, inputs, jax.random.fold_in(state.key, state.epoch))
        updates, optimizer_state = optimizer.update(grads, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        return State(params, optimizer_state, state.epoch + 1, *state[3:]), {"loss": value, **scores}

    def advance(state: State, inputs: Inputs) -> tuple[State, Any]:
        return jax.lax.scan(lambda state, _: epoch(state, inputs), state, length=at_once)

    def finish(state: State, inputs: Inputs) -> Any:
        out = outputs(state.params, inputs)
        if not measure:
            return out, task.scores(out, inputs), {}
        aligned = dfa.alignment(whole, rule, state.matrices, tuple(measure))(state.params, inputs, state.key)
        return out, task.scores(out, inputs), {name: a._asdict() for name, a in aligned.items()}

    return Programs(matrices, start, advance, finish)


def run_seed(
    seed: int, epochs: int, at_once: int, programs: Programs, task: Task, inputs: Inputs, goes_on: Callable[[int], bool]
) -> dict[str, Any] | None:
    """Trains with compiled `programs`: the line of `seed`, or None where `goes_on(epochs done)` said no.

    Raises UserError for a loss that is not finite.
    """
    begin = time.perf_counter()
    state = programs.start(jax.random.key(seed), inputs)
    pieces = []
    for done in range(0, epochs, at_once):
        if not goes_on(done):
            return None
        state, values = programs.advance(state, inputs)
        pieces.append(jax.device_get(values))
        if not np.isfinite(pieces[-1]["loss"]).all():
            raise UserError(f"seed {seed}: the loss is not finite before epoch {done + at_once}")
    outputs, scores, aligned = jax.device_get(programs.finish(state, inputs))
    before = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
    after = {name: np.append(before[name][1:], scores[name]) for name in scores}
    measured = {name: {key: float(value) for key, value in a.items()} for name, a in aligned.items()}
    line = {"seed": seed} | task.results(after, outputs, inputs) | {"loss": float(before["loss"][-1])}
    return line | {"alignment": measured, "seconds": round(time.perf_counter() - begin, 2)}
