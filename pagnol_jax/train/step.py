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
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from pagnol_jax.data.batches import Batch
from pagnol_jax.models import gpt
from pagnol_jax.models.config import GPTConfig
from pagnol_jax.models.masks import Mask
from pagnol_jax.sharding import compiler, rules
from pagnol_jax.train.loss import Loss, cross_entropy
from pagnol_jax.train.optimizer import Optimizer


@flax.struct.dataclass
class State:
    """Everything that a step changes. `step` counts the updates done; batches and dropout keys derive from it."""

    step: jax.Array
    params: Any
    optimizer: Any


class Metrics(NamedTuple):
    """Float32 scalars of one step; they stay on the device until somebody asks."""

    loss: jax.Array  # nats per counted token
    z_loss: jax.Array
    gradient_norm: jax.Array  # before clipping


class Steps(NamedTuple):
    """The jitted functions of a run and where their arguments live."""

    init: Callable[[jax.Array], State]
    train: Callable[[State, Batch], tuple[State, Metrics]]  # donates the state
    evaluate: Callable[[Any, Batch], Loss]  # (params, batch) -> sums over the batch
    abstract_state: State  # ShapeDtypeStructs with shardings
    batch_sharding: NamedSharding


def make_steps(
    model: GPTConfig,
    optimizer: Optimizer,
    mesh: Mesh,
    *,
    z_loss: float = 0.0,
    microbatches: int = 1,
    seed: int = 0,
    gradient: Callable = jax.value_and_grad,
) -> Steps:
    """Init, train and evaluate steps with parameters, optimiser state and batches sharded by the table.

    `microbatches` splits a batch into that many gradient accumulations. `gradient` has the signature of
    `jax.value_and_grad`: another training rule drops in there.
    """

    def init(key: jax.Array) -> State:
        params = gpt.init(model, key)
        return State(jnp.zeros((), jnp.int32), params, optimizer.transform.init(params))

    def train(state: State, batch: Batch) -> tuple[State, Metrics]:
        tokens = batch.weights.sum()

        def objective(params: Any, part: Batch, key: jax.Array) -> tuple[jax.Array, Loss]:
            loss = batch_loss(model, params, part, key, z_loss)
            return (loss.nats + loss.z_loss) / tokens, loss

        key = jax.random.fold_in(jax.random.key(seed), state.step)
        value_and_grad = gradient(objective, has_aux=True)
        loss, grads = accumulate(value_and_grad, state.params, batch, key, microbatches)
        updates, optimizer_state = optimizer.transform.update(grads, state.optimizer, state.params)
        metrics = Metrics(loss.nats / tokens, loss.z_loss / tokens, optax.global_norm(grads))
        return State(state.step + 1, optax.apply_updates(state.params, updates), optimizer_state), metrics

    def evaluate(params: Any, batch: Batch) -> Loss:
        return batch_loss(model, params, batch, None, 0.0)

    boxed = jax.eval_shape(init, jax.random.key(0))
    sharding = rules.shardings(boxed, mesh)
    batches = NamedSharding(mesh, P(rules.RULES["batch"], rules.RULES["length"]))
    replicated = NamedSharding(mesh, P())
    jit = functools.partial(jax.jit, compiler_options=compiler.options(mesh))
    return Steps(
        init=jit(lambda key: nn.unbox(init(key)), out_shardings=sharding),
        train=jit(train, in_shardings=(sharding, batches), out_shardings=(sharding, replicated), donate_argnums=0),
        evaluate=jit(evaluate, in_shardings=(sharding.params, batches), out_shardings=replicated),
        abstract_state=jax.tree.map(_abstract, nn.unbox(boxed), sharding),
        batch_sharding=batches,
    )


def batch_loss(model: GPTConfig, params: Any, batch: Batch, key: jax.Array | None, z_loss: float) -> Loss:
    """Sums of the loss over a batch; `key` switches dropout on."""
    inputs, targets, segment_ids, positions, weights = (jnp.asarray(x) for x in batch)
    features, head, _ = gpt.features(model, params, inputs, positions, Mask(segment_ids), dropout_key=key)
    return cross_entropy(features, head, targets, weights, z_loss, model.vocab_size)


def accumulate(
    value_and_grad: Callable, params: Any, batch: Batch, key: jax.Array, microbatches: int
) -> tuple[Loss, Any]:
    """Losses and gradients summed over microbatches, one at a time."""
    if microbatches == 1:
        (_, loss), grads = value_and_grad(params, batch, key)
        return loss, grads
    # Strided rows: each part is spread over the devices as the whole batch is.
    parts = jax.tree.map(lambda x: x.reshape(-1, microbatches, x.shape[-1]).swapaxes(0, 1), batch)

    def add(total: tuple[Loss, Any], part: tuple[Batch, jax.Array]) -> tuple[tuple[Loss, Any], None]:
        (_, loss), grads = value_and_grad(params, *part)
        return jax.tree.map(jnp.add, total, (loss, grads)), None

    zeros = Loss(*(jnp.zeros(()) for _ in Loss._fields)), jax.tree.map(jnp.zeros_like, params)
    return jax.lax.scan(add, zeros, (parts, jax.random.split(key, microbatches)))[0]


def _abstract(leaf: jax.ShapeDtypeStruct, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
