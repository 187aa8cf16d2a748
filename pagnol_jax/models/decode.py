"""Decoding with a cache: the prompts in one pass, then a compiled loop of one token a turn."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from pagnol_jax.errors import UserError
from pagnol_jax.models.cache import Cache
from pagnol_jax.models.config import GPTConfig
from pagnol_jax.models.gpt import GPT, Block, Carry, project
from pagnol_jax.models.masks import Mask
from pagnol_jax.models.sampling import History, Sampler

# Prompts and caches are rounded up to these many slots, so that few shapes are ever compiled.
PROMPT_STEP, CACHE_STEP = 32, 64


class Layers(nn.Module):
    """The blocks of a GPT one by one, parameters apart; takes and returns what the scan over them does."""

    config: GPTConfig

    @nn.compact
    def __call__(self, carry: Carry, layers: Any, positions: jax.Array, mask: Mask) -> tuple[Carry, None]:
        layer: Any  # a plain int here: it picks an array of the cache
        for layer in range(self.config.num_layers):
            carry, _ = Block(self.config, name=str(layer))(carry, layer, positions, mask)
        return carry, None


class Decoder(GPT):
    """The GPT on parameters from `unstack`: a slice of stacked weights would be copied at every token."""

    def stack(self) -> nn.Module:
        return Layers(self.config)


@flax.struct.dataclass
class Weights:
    """A configuration and the parameters of its `Decoder`."""

    config: GPTConfig = flax.struct.field(pytree_node=False)
    params: Any

    def features(self, *arguments: Any) -> Any:
        """`GPT.features`."""
        return Decoder(self.config).apply({"params": self.params}, *arguments, method="features")


def unstack(config: GPTConfig, params: Any) -> Weights:
    """From the parameters of a GPT: a tree per block, matrices in the compute dtype."""

    def leaf(x: Any) -> jax.Array:
        return jnp.asarray(x, config.dtype if x.ndim > 1 else None)

    def block(layer: int) -> Any:
        return jax.tree.map(lambda x: leaf(x[layer]), params["blocks"])

    rest = {name: jax.tree.map(leaf, tree) for name, tree in params.items() if name != "blocks"}
    return Weights(config, rest | {"blocks": {str(layer): block(layer) for layer in range(config.num_layers)}})


@flax.struct.dataclass
class State:
    """Decoding under way. `cache.index` slots are run; the token at that slot is known and not yet run.

    tokens: [B, S] int32, prompts padded on the left, then what was chosen.
    start: [B] int32, the slot of each prompt's first token.
    keys: [B] random keys, one per row: a row draws the same alone and in any batch.
    finished: [B] bool, rows that chose an end token; they get the padding token from then on.
    """

    tokens: jax.Array
    start: jax.Array
    keys: jax.Array
    finished: jax.Array
    cache: Cache


class Ending(NamedTuple):
    """Tokens that end a row, and the token that rows get after theirs."""

    stop: Sequence[int] = ()
    pad_id: int = 0


NEVER_ENDING = Ending()


def _features(weights: Weights, state: State, tokens: jax.Array) -> tuple[Any, Any, Cache]:
    """Runs tokens [B, T] standing at slots cache.index.. on: (features [B, T, d_model], head, cache)."""
    slots = jnp.arange(state.tokens.shape[1])
    read = slots >= state.start[:, None]
    positions = state.cache.index + jnp.arange(tokens.shape[1]) - state.start[:, None]
    return weights.features(tokens, jnp.maximum(positions, 0), Mask(read.astype(jnp.int32)), state.cache)


@functools.partial(jax.jit, static_argnames="slots")
def prefill(weights: Weights, prompts: jax.Array, start: jax.Array, keys: jax.Array, slots: int) -> State:
    """prompts [B, T], padded on the left up to `start` [B] -> a state of `slots` slots, all but the last
    token run."""
    batch, length = prompts.shape
    tokens = jnp.zeros((batch, slots), jnp.int32).at[:, :length].set(prompts)
    state = State(tokens, start, keys, jnp.zeros(batch, bool), Cache.empty(weights.config, batch, slots))
    return dataclasses.replace(state, cache=_features(weights, state, prompts[:, :-1])[2])


def _turn(weights: Weights, state: State, sampler: Sampler, ending: Ending) -> State:
    """One more token in every row."""
    here = state.cache.index
    last = jax.lax.dynamic_slice_in_dim(state.tokens, here, 1, axis=1)
    features, head, cache = _features(weights, state, last)
    # A row's draws depend on how many of its own tokens came before, and not on the padding.
    keys = jax.vmap(jax.random.fold_in)(state.keys, here - state.start)
    history = History(state.tokens, state.start, here + 1)
    chosen = sampler(project(features[:, -1], head), keys, history)
    chosen = jnp.where(state.finished, ending.pad_id, chosen)
    finished = state.finished | (chosen[:, None] == jnp.array(ending.stop, jnp.int32)).any(-1)
    tokens = jax.lax.dynamic_update_slice_in_dim(state.tokens, chosen[:, None], here + 1, axis=1)
    return dataclasses.replace(state, tokens=tokens, finished=finished, cache=cache)


@functools.partial(jax.jit, donate_argnames="state")
def advance(weights: Weights, state: State, sampler: Sampler, ending: Ending, limit: int) -> tuple[State, jax.Array]:
    """Chooses tokens until `limit` slots hold one or every row has ended: (state, all rows have ended).

    The state given is used up. Only another shape, configuration or kind of sampler is compiled anew.
    """

    def going(state: State) -> jax.Array:
        return (state.cache.index + 1 < limit) & ~state.finished.all()

    state = jax.lax.while_loop(going, lambda state: _turn(weights, state, sampler, ending), state)
    return state, state.finished.all()


def generate(
    weights: Weights,
    prompts: Sequence[Sequence[int]],
    sampler: Sampler,
    new_tokens: int,
    *,
    keys: jax.Array,
    ending: Ending = NEVER_ENDING,
    chunk: int | None = None,
) -> Iterator[np.ndarray]:
    """Continues prompts of any lengths (none empty) by up to `new_tokens`, `chunk` (default: all) at a time.

    keys [B] are the rows' random keys. Yields int arrays [B, n]; the last comes when every row has ended.
    Raises UserError where the longest prompt and the new tokens exceed the context.
    """
    longest = max(map(len, prompts))
    _check_length(weights.config, longest, new_tokens)
    width = _round_up(longest, PROMPT_STEP)
    end = width + new_tokens
    padded = np.zeros((len(prompts), width), np.int32)
    for row, prompt in zip(padded, prompts, strict=True):
        row[width - len(prompt) :] = prompt
    start = np.array([width - len(prompt) for prompt in prompts], np.int32)
    state = prefill(weights, padded, start, keys, slots=_round_up(end, CACHE_STEP))
    done, ended = width, False
    while done < end and not ended:
        limit = min(done + (chunk or new_tokens), end)
        state, all_ended = advance(weights, state, sampler, ending, limit)
        tokens, reached, ended = jax.device_get((state.tokens, state.cache.index, all_ended))
        yield tokens[:, done : reached + 1]
        done = int(reached) + 1


def _round_up(size: int, step: int) -> int:
    return -(-size // step) * step


def _check_length(config: GPTConfig, prompt: int, new_tokens: int) -> None:
    if prompt + new_tokens > config.max_length:
        raise UserError(
            f"a prompt of {prompt} tokens and {new_tokens} new ones exceed the model's context of {config.max_length}"
        )
