"""A pipeline over the mesh axis `stage`: microbatches follow one another through groups of layers.

Stages are the rows of arrays [stages, ...] that the mesh splits; at every tick all of them run at once, each on
another microbatch, and hand their outputs on by a roll, which the compiler makes a permutation between neighbours. S
stages take S - 1 ticks to fill. Backpropagation then waits for the last microbatch and drains through as many ticks
backwards, as it does when this forward pass is differentiated (GPipe; Huang et al. 2019). A rule that cuts the layers
needs none of these: at the tick at which a microbatch leaves the last stage its error reaches every stage, and each
pulls back what it kept of that microbatch. Of M microbatches' forward and backward passes F and B,

  backpropagation  (M + S - 1) (F + B)
  DFA              (M + S - 1) F + M B

lie on the critical path, and DFA keeps the activations of S microbatches at a time, not of M.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from pagnol_jax import dfa
from pagnol_jax.data.batches import Batch
from pagnol_jax.dfa.cuts import Cuts
from pagnol_jax.dfa.feedback import Tap
from pagnol_jax.dfa.rules import Rule, backprop
from pagnol_jax.errors import UserError
from pagnol_jax.models.config import GPTConfig
from pagnol_jax.models.gpt import GPT
from pagnol_jax.models.masks import Mask
from pagnol_jax.sharding.rules import RULES, constrain
from pagnol_jax.train.loss import Loss, cross_entropy

EMBEDDING = ("token_embedding", "position_embedding", "embedding_norm")
TOP = ("final_norm", "head", "token_embedding")


class Parts(NamedTuple):
    """Microbatches: [M, b, T] arrays, and for dropout the data of a key each [M, 2]."""

    batch: Any  # of the fields of `Batch`
    keys: jax.Array | None

    def at(self, index: Any) -> "Parts":
        """Of the microbatch of an index, or of the [S] microbatches of [S] indices."""
        return jax.tree.map(lambda x: x[index], self)


@flax.struct.dataclass
class Taps:
    """Outputs at feedback points, or signals for them, and what the points are."""

    outputs: list[jax.Array]
    points: tuple[Tap, ...] = flax.struct.field(pytree_node=False)


def strided(batch: Batch, microbatches: int) -> Batch:
    """Rows [B, T] as microbatches [M, B / M, T]: strided, so that each is spread over the devices as the batch is."""
    return jax.tree.map(lambda x: jnp.asarray(x).reshape(-1, microbatches, x.shape[-1]).swapaxes(0, 1), batch)


def split(batch: Batch, microbatches: int, key: jax.Array | None) -> Parts:
    """Microbatches, each with a key of its own."""
    parts = strided(batch, microbatches)
    return Parts(parts, None if key is None else jax.random.key_data(jax.random.split(key, microbatches)))


def value_and_grad(model: GPTConfig, stages: int, rule: Rule, matrices: Any, z_loss: float) -> Callable[..., Any]:
    """(params, parts, tokens) -> ((mean loss, Loss), gradients), `tokens` the weight of all parts.

    Under DFA the pipeline described above; any other rule differentiates the forward pass.
    Raises UserError for DFA without a feedback point after every block.
    """
    pipeline = Pipeline(model, stages, rule, z_loss)
    if rule.feedback:
        return functools.partial(pipeline.by_feedback, matrices=matrices)
    return dfa.value_and_grad(pipeline.mean_loss, rule, has_aux=True)


def check(rule: Rule) -> None:
    """Raises UserError for a rule that a pipeline cannot follow."""
    if rule.feedback and rule.error != "final_norm":
        raise UserError(f"a pipeline takes the error of dfa at final_norm, not at {rule.error!r}")


class Pipeline:
    """The stages of a model; their number divides its layers."""

    def __init__(self, model: GPTConfig, stages: int, rule: Rule, z_loss: float) -> None:
        self.model, self.stages, self.rule, self.z_loss = model, stages, rule, z_loss
        self.stage = GPT(dataclasses.replace(model, num_layers=model.num_layers // stages))
        self.head: dict[str, Any] = {}  # as a constant: a model sets it up whichever of its methods is called

    def mean_loss(self, params: Any, parts: Parts, tokens: jax.Array) -> tuple[jax.Array, Loss]:
        """Of all microbatches. Its derivative goes back through all ticks."""
        self.head = {name: jax.lax.stop_gradient(params[name]) for name in ("head",) if name in params}
        x, _ = self._embedded(params, parts, backprop())
        stages = self._staged(params["blocks"])

        def tick(y: jax.Array, t: jax.Array) -> tuple[jax.Array, jax.Array]:
            y = all_stages(stages, self._entering(x, y, t), self._present(parts, t))
            return y, y[-1]

        def stage(blocks: Any, x: jax.Array, part: Parts) -> jax.Array:
            return self._stage(blocks, x, part, backprop())[0]

        all_stages = jax.vmap(stage, spmd_axis_name=RULES["stages"])
        count = len(parts.batch.inputs)
        _, out = jax.lax.scan(tick, self._empty(x), jnp.arange(count + self.stages - 1))
        each = jax.lax.map(lambda args: self._loss(params, *args), (out[self.stages - 1 :], parts))
        loss = jax.tree.map(lambda leaf: leaf.sum(0), each)
        return (loss.nats + loss.z_loss) / tokens, loss

    def by_feedback(self, params: Any, parts: Parts, tokens: jax.Array, *, matrices: Any) -> Any:
        """((mean loss, Loss), gradients) by DFA; no stage waits for another on the way back."""
        self.head = {name: params[name] for name in ("head",) if name in params}
        count, last = len(parts.batch.inputs), self.stages - 1
        project = functools.partial(self.rule.feedback.project, matrices[self.rule.error])  # type: ignore[union-attr]
        below = {name: params[name] for name in EMBEDDING if name in params}
        (x, embedding_taps), pull_embedding = jax.vjp(lambda p: self._embedded(p, parts, self.rule), below)
        stages, top = self._staged(params["blocks"]), {name: params[name] for name in TOP if name in params}
        at_embedding = jax.tree.map(lambda leaf: leaf[0], embedding_taps)  # of one microbatch
        run = _Kept(stages, lambda blocks, x, part: self._stage(blocks, x, part, self.rule))

        def forward(y: jax.Array, kept: Any, t: jax.Array) -> tuple[jax.Array, Any, Taps]:
            (y, taps), now = run(self._entering(x, y, t), self._present(parts, t))
            return y, jax.tree.map(lambda slots, leaf: slots.at[t % self.stages].set(leaf), kept, now), taps

        def fill(carry: tuple[jax.Array, Any], t: jax.Array) -> tuple[tuple[jax.Array, Any], None]:
            return forward(*carry, t)[:2], None

        def steady(carry: tuple[Any, ...], t: jax.Array) -> tuple[tuple[Any, ...], Any]:
            (y, kept), (loss, grads, top_grads) = carry
            y, kept, taps = forward(y, kept, t)
            now, (top_grad, e) = self._top_gradient(top, y[-1], parts.at(t - last), tokens)
            # Stage s saw the microbatch that leaves the last one at tick t - (S - 1) + s.
            slots = (t + 1 + jnp.arange(self.stages)) % self.stages
            then = jax.tree.map(lambda all_: jax.vmap(lambda one, i: one[i], (1, 0))(all_, slots), kept)
            signals, below_signals = self._signals(project, e, taps, at_embedding)
            grad, back = run.pull(then, (jnp.zeros_like(y), signals))
            sums = jax.tree.map(jnp.add, (loss, grads, top_grads), (now, grad, top_grad))
            return ((y, kept), sums), (back[0], below_signals)

        empty = self._empty(x), run.empty(self._entering(x, self._empty(x), 0), self._present(parts, 0), self.stages)
        (filled, _) = jax.lax.scan(fill, empty, jnp.arange(last))
        zeros = jax.tree.map(jnp.zeros_like, (Loss(*[jnp.zeros(())] * 3), stages, top))
        ticks = jnp.arange(last, last + count)
        ((_, (loss, grads, top_grads)), (back, below_signals)) = jax.lax.scan(steady, (filled, zeros), ticks)

        down = back.astype(x.dtype), below_signals
        sums = {"blocks": jax.tree.map(lambda g, p: g.reshape(p.shape), grads, params["blocks"])}
        for part in (top_grads, pull_embedding(down)[0]):
            sums |= {name: jax.tree.map(jnp.add, sums[name], g) if name in sums else g for name, g in part.items()}
        return ((loss.nats + loss.z_loss) / tokens, loss), {name: sums[name] for name in params}

    def _embedded(self, params: Any, parts: Parts, rule: Rule) -> tuple[jax.Array, Taps]:
        """What the first stage reads [M, b, T, d], and feedback points on the way there."""
        batch = parts.batch

        def embed(inputs: jax.Array, positions: jax.Array, key: jax.Array | None) -> tuple[jax.Array, list[jax.Array]]:
            x, taps = self._applied("embed", params, key, rule, inputs, positions)
            points.extend(taps.points)
            return x, taps.outputs

        points: list[Tap] = []
        x, outputs = jax.vmap(embed)(batch.inputs, batch.positions, parts.keys)
        return x, Taps(outputs, tuple(points[: len(outputs)]))

    def _stage(self, blocks: Any, x: jax.Array, part: Parts, rule: Rule) -> tuple[jax.Array, Taps]:
        """The layers [L/S, ...] of one stage on x [b, T, d], and their feedback points."""
        batch = part.batch
        args = x, batch.positions, Mask(batch.segment_ids)
        (x, _), taps = self._applied("body", {"blocks": blocks}, part.keys, rule, *args)
        if rule.feedback and "blocks" not in [tap.path for tap in taps.points]:
            raise UserError("a pipeline under dfa wants the tap 'blocks': nothing may go back from stage to stage")
        return constrain(x, "batch", "length", "embed"), taps

    def _applied(self, method: str, params: Any, key: Any, rule: Rule, *args: Any) -> tuple[Any, Taps]:
        """A part of the model, cut by the rule. Keys are data, for zeros can be made of that."""
        found: dict[Tap, jax.Array] = {}

        def meet(name: str, error: jax.Array, taps: dict[Tap, jax.Array]) -> jax.Array:
            found.update(taps)
            return error

        rngs = {} if key is None else {"dropout": jax.random.wrap_key_data(key)}
        with Cuts(rule._replace(error=""), meet).made(whole=False):
            out = self.stage.apply({"params": self.head | params}, *args, rngs=rngs, method=method)
        return out, Taps(list(found.values()), tuple(found))

    def _top_gradient(self, top: Any, y: jax.Array, part: Parts, tokens: jax.Array) -> tuple[Loss, Any]:
        """Loss of a microbatch, and the derivatives of the mean by what lies above the blocks, and by the features."""

        def mean(top: Any, shift: jax.Array) -> tuple[jax.Array, Loss]:
            loss = self._loss(top, y, part, shift)
            return (loss.nats + loss.z_loss) / tokens, loss

        (_, loss), grads = jax.value_and_grad(mean, argnums=(0, 1), has_aux=True)(top, jnp.zeros_like(y))
        return loss, grads

    def _loss(self, params: Any, y: jax.Array, part: Parts, shift: Any = 0) -> Loss:
        """Sums over a microbatch of what leaves the last stage [b, T, d]; `shift` is added to the features."""
        features: Any
        head: Any
        features, head = self.stage.apply({"params": params}, constrain(y, "batch", "length", "embed"), method="top")
        args = part.batch.targets, part.batch.weights, self.z_loss, self.model.vocab_size
        return cross_entropy(features + shift, head, *args)

    def _signals(self, project: Callable[..., list[jax.Array]], e: jax.Array, *groups: Taps) -> list[Taps]:
        """Feedback of e [b, T, d] in the shapes of the taps' outputs [(S, L/S,) b, T, ...], for groups of taps."""
        whole = {tap: tap._replace(stack=(self.model.num_layers,) * len(tap.stack)) for g in groups for tap in g.points}
        # All taps at once and by name, as where the matrices were made: they may depend on each other.
        points = sorted(whole, key=lambda tap: tap.path.split("/")[0])
        projected = dict(zip(points, project(e, [whole[tap] for tap in points]), strict=True))

        def shaped(tap: Tap, output: jax.Array) -> jax.Array:
            signal = projected[tap]
            stacked = signal.ndim > e.ndim  # a signal of its own for every layer [L, b, T, width]
            lead = output.shape[: len(tap.stack) + 1] if stacked else ()
            signal = signal.reshape(*lead, *signal.shape[int(stacked) : -1], *tap.features)
            return jnp.broadcast_to(signal, output.shape).astype(output.dtype)

        return [Taps([*map(shaped, taps.points, taps.outputs)], taps.points) for taps in groups]

    def _staged(self, blocks: Any) -> Any:
        """Layers [L, ...] -> [S, L/S, ...]."""
        return jax.tree.map(lambda x: x.reshape(self.stages, -1, *x.shape[1:]), blocks)

    def _empty(self, x: jax.Array) -> jax.Array:
        return jnp.zeros((self.stages, *x.shape[1:]), x.dtype)

    def _entering(self, x: jax.Array, y: jax.Array, t: Any) -> jax.Array:
        """What the stages read at tick t: the next microbatch, and what the stages before them gave."""
        into = jnp.roll(y, 1, axis=0).at[0].set(x[jnp.minimum(t, len(x) - 1)])
        return constrain(into, "stages", "batch", "length", "embed")

    def _present(self, parts: Parts, t: Any) -> Parts:
        """The microbatches that the stages work on at tick t; where there is none, another one for nothing."""
        stages = jnp.arange(self.stages)
        now = parts.at(jnp.clip(t - stages, 0, len(parts.batch.inputs) - 1))
        if now.keys is None:
            return now
        keys = jax.vmap(jax.random.fold_in)(jax.random.wrap_key_data(now.keys), stages)  # each stage its own dropout
        return now._replace(keys=jax.random.key_data(keys))


class _Kept:
    """Stages whose backward passes come later: what they keep is made arrays of a loop, [S, ...] each.

    The parameters, which the backward pass reads too, are not kept again.
    """

    def __init__(self, params: Any, stage: Callable[..., Any]) -> None:
        self.params, self.stage = params, stage
        self.places: list[int | None] = []
        self.treedef: Any = None

    def __call__(self, x: jax.Array, parts: Parts) -> tuple[Any, list[Any]]:
        """What the stages give of x [S, b, T, d], and what they keep."""

        def one(params: Any, x: jax.Array, part: Parts) -> tuple[Any, list[Any]]:
            out, pull = jax.vjp(lambda params, x: self.stage(params, x, part), params, x)
            leaves, self.treedef = jax.tree.flatten(pull)
            known = {id(leaf): i for i, leaf in enumerate(jax.tree.leaves(params))}
            self.places = [known.get(id(leaf)) for leaf in leaves]
            return out, [leaf for leaf, place in zip(leaves, self.places, strict=True) if place is None]

        return jax.vmap(one, spmd_axis_name=RULES["stages"])(self.params, x, parts)

    def empty(self, x: jax.Array, parts: Parts, slots: int) -> list[jax.Array]:
        """Room for what `slots` calls keep."""
        shapes = jax.eval_shape(lambda: self(x, parts)[1])
        return [jnp.zeros((slots, *leaf.shape), leaf.dtype) for leaf in shapes]

    def pull(self, kept: list[Any], cotangents: Any) -> Any:
        """Derivatives by (params, x), [S, ...] each."""

        def one(params: Any, kept: list[Any], cotangent: Any) -> Any:
            rest, known = iter(kept), jax.tree.leaves(params)
            leaves = [next(rest) if place is None else known[place] for place in self.places]
            return jax.tree.unflatten(self.treedef, leaves)(cotangent)

        return jax.vmap(one, spmd_axis_name=RULES["stages"])(self.params, kept, cotangents)
