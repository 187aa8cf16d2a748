"""The training step: one pure function of (state, batch), jitted once for a mesh.

This is the only step there is: what `train` runs is what the ahead-of-time compiler sees.
Call, or lower, the jitted functions inside `jax.set_mesh(mesh)`: the model's constraints read the mesh from there.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from pagnol_jax import dfa
from pagnol_jax.data.batches import Batch
from pagnol_jax.dfa.rules import Rule, backprop
from pagnol_jax.errors import UserError
from pagnol_jax.models import gpt
from pagnol_jax.models.config import GPTConfig
from pagnol_jax.models.masks import Mask
from pagnol_jax.sharding import compiler, rules
from pagnol_jax.train import pipeline
from pagnol_jax.train.loss import Loss, cross_entropy
from pagnol_jax.train.optimizer import Optimizer


@flax.struct.dataclass
class State:
    """Everything that a step changes, and the matrices of a training rule, which it does not.

    `step` counts the updates done; batches and dropout keys derive from it.
    """

    step: jax.Array
    params: Any
    optimizer: Any
    feedback: Any = None


class Metrics(NamedTuple):
    """Float32 scalars of one step; they stay on the device until somebody asks."""

    loss: jax.Array  # nats per counted token
    z_loss: jax.Array
    gradient_norm: jax.Array  # before clipping
    learning_rate: jax.Array


class Steps(NamedTuple):
    """The jitted functions of a run and where their arguments live."""

    init: Callable[[jax.Array], State]
    train: Callable[[State, Batch], tuple[State, Metrics]]  # donates the state
    evaluate: Callable[[Any, Batch], Loss]  # (params, batch) -> sums over the batch
    watch: Callable[[State, Batch], dict[str, jax.Array]]  # {name of a number: its values per layer}, of a rule's taps
    abstract_state: State  # ShapeDtypeStructs with shardings
    batch_sharding: NamedSharding


def batch_loss(model: GPTConfig, params: Any, batch: Batch, key: jax.Array | None, z_loss: float) -> Loss:
    """Sums of the loss over a batch; `key` switches dropout on."""
    inputs, targets, segment_ids, positions, weights = (jnp.asarray(x) for x in batch)
    features, head, _ = gpt.features(model, params, inputs, positions, Mask(segment_ids), dropout_key=key)
    return cross_entropy(features, head, targets, weights, z_loss, model.vocab_size)


def logits_loss(model: GPTConfig, params: Any, batch: Batch, key: jax.Array | None, z_loss: float) -> Loss:
    """The same by way of all logits [B, T, V] at once, the model's own output: for a rule whose error is there."""
    inputs, targets, segment_ids, positions, weights = (jnp.asarray(x) for x in batch)
    rngs = {} if key is None else {"dropout": key}
    logits: Any = gpt.GPT(model).apply({"params": params}, inputs, positions, Mask(segment_ids), rngs=rngs)
    log_z = jax.nn.logsumexp(logits, axis=-1)
    nats = log_z - jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return Loss((weights * nats).sum(), (weights * z_loss * log_z**2).sum(), weights.sum())


BatchLoss = Callable[[GPTConfig, Any, Batch, jax.Array | None, float], Loss]
BACKPROP = backprop()


def make_steps(
    model: GPTConfig,
    optimizer: Optimizer,
    mesh: Mesh,
    *,
    z_loss: float = 0.0,
    microbatches: int = 1,
    seed: int = 0,
    rule: Rule = BACKPROP,
    batch_loss: BatchLoss = batch_loss,
) -> Steps:
    """Init, train, evaluate and watch steps with parameters, optimiser state and batches sharded by the table.

    `microbatches` splits a batch into that many gradient accumulations, or parts that follow one another through the
    stages of a pipeline; `watch` looks at the first of them. `rule` says what learns from what, `batch_loss` how the
    loss is made. Raises UserError for a rule or a loss that a pipeline cannot follow.
    """
    stages = rules.count("stages", mesh)
    if stages > 1:
        _check_stages(rule, batch_loss)
    transform = optax.with_extra_args_support(optimizer.transform)

    def mean_loss(params: Any, batch: Batch, key: jax.Array | None, tokens: Any) -> tuple[jax.Array, Loss]:
        loss = batch_loss(model, params, batch, key, z_loss)
        return (loss.nats + loss.z_loss) / tokens, loss

    def init(key: jax.Array) -> State:
        params = gpt.init(model, key)
        one = np.ones((1, 1), np.int32)
        least = Batch(one, one, one, one, one.astype(np.float32))
        matrices = dfa.init(mean_loss, rule, jax.random.fold_in(key, 1))(nn.unbox(params), least, None, 1)
        return State(jnp.zeros((), jnp.int32), params, transform.init(params), matrices or None)

    def train(state: State, batch: Batch) -> tuple[State, Metrics]:
        tokens = batch.weights.sum()
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        if stages > 1:
            value_and_grad = pipeline.value_and_grad(model, stages, rule, state.feedback, z_loss)
            (_, loss), grads = value_and_grad(state.params, pipeline.split(batch, microbatches, key), tokens)
        else:
            value_and_grad = dfa.value_and_grad(mean_loss, rule, state.feedback, has_aux=True)
            loss, grads = accumulate(value_and_grad, state.params, batch, key, tokens, microbatches)
        nats = loss.nats / tokens
        updates, optimizer_state = transform.update(grads, state.optimizer, state.params, value=nats)
        rate = optimizer.schedule(state.step) * optimizer.scale(optimizer_state)
        metrics = Metrics(nats, loss.z_loss / tokens, optax.global_norm(grads), jnp.asarray(rate, jnp.float32))
        if rule.cut or rule.freeze:  # weight decay leaves alone what the rule does
            updates = jax.tree.map(lambda u, learns: u * learns, updates, learning(state, batch))
        params = optax.apply_updates(state.params, updates)
        return State(state.step + 1, params, optimizer_state, state.feedback), metrics

    def learning(state: State, batch: Batch) -> Any:
        def loss(params: Any) -> jax.Array:
            return mean_loss(params, jax.tree.map(lambda x: x[:1], batch), None, 1)[0]

        return dfa.learns(loss, rule, state.feedback)(state.params)

    def evaluate(params: Any, batch: Batch) -> Loss:
        return batch_loss(model, params, batch, None, 0.0)

    def watch(state: State, batch: Batch) -> dict[str, jax.Array]:
        def loss(params: Any, batch: Batch) -> jax.Array:
            return mean_loss(params, batch, None, batch.weights.sum())[0]

        first = jax.tree.map(lambda x: x[::microbatches], batch)  # as `strided`: what a step has no room for
        return watched(loss, rule, state.feedback, state.params, first)

    boxed = jax.eval_shape(init, jax.random.key(0))
    sharding = rules.shardings(boxed, mesh)
    batches = NamedSharding(mesh, P(rules.RULES["batch"], rules.RULES["length"]))
    replicated = NamedSharding(mesh, P())
    jit = functools.partial(jax.jit, compiler_options=compiler.options(mesh))
    return Steps(
        init=jit(lambda key: nn.unbox(init(key)), out_shardings=sharding),
        train=jit(train, in_shardings=(sharding, batches), out_shardings=(sharding, replicated), donate_argnums=0),
        watch=jit(watch, in_shardings=(sharding, batches), out_shardings=replicated),
        evaluate=jit(evaluate, in_shardings=(sharding.params, batches), out_shardings=replicated),
        abstract_state=jax.tree.map(_abstract, nn.unbox(boxed), sharding),
        batch_sharding=batches,
    )


def _check_stages(rule: Rule, loss: BatchLoss) -> None:
    """Raises UserError for what a pipeline cannot do."""
    pipeline.check(rule)
    if loss is not batch_loss:
        raise UserError("a pipeline makes the loss by itself: on a mesh with stages leave batch_loss out")


def watched(loss: Callable, rule: Rule, matrices: Any, params: Any, batch: Batch) -> dict[str, jax.Array]:
    """Of a rule's taps: sizes of their outputs, and under feedback the alignment of their signals; [] or [L] each."""
    if not rule.taps:
        return {}
    found = {f"rms/{path}": size for path, size in dfa.rms(loss, rule.taps)(params, batch).items()}
    if rule.feedback:
        for path, angle in dfa.alignment(loss, rule, matrices)(params, batch).items():
            found |= {f"alignment/{path}": angle.mean, f"alignment_std/{path}": angle.std}
    return found


def accumulate(
    value_and_grad: Callable, params: Any, batch: Batch, key: jax.Array, tokens: jax.Array, microbatches: int
) -> tuple[Loss, Any]:
    """Losses and gradients summed over microbatches, one at a time; `tokens` is the weight of all of them."""
    if microbatches == 1:
        (_, loss), grads = value_and_grad(params, batch, key, tokens)
        return loss, grads
    parts = pipeline.strided(batch, microbatches)

    def add(total: tuple[Loss, Any], part: tuple[Batch, jax.Array]) -> tuple[tuple[Loss, Any], None]:
        (_, loss), grads = value_and_grad(params, *part, tokens)
        return jax.tree.map(jnp.add, total, (loss, grads)), None

    zeros = Loss(*(jnp.zeros(()) for _ in Loss._fields)), jax.tree.map(jnp.zeros_like, params)
    return jax.lax.scan(add, zeros, (parts, jax.random.split(key, microbatches)))[0]


def _abstract(leaf: jax.ShapeDtypeStruct, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
