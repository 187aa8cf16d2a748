"""Decoding with a cache of keys and values: the prompts in one pass, then a compiled loop of one token a turn."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

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
    def __call__(
        self, carry: Carry, layers: Any, positions: jax.Array, mask: Mask
    ) -> tuple[Carry, None]:
        for layer in range(self.config.num_layers):
            carry, _ = Block(self.config, name=str(layer))(
                carry, layer, positions, mask
            )
        return carry, None


class Decoder(GPT):
    """The GPT on parameters from `unstack`: a slice of stacked weights would be copied at every token."""

    def stack(self) -> nn.Module:
        return Layers(self.config)


def unstack(config: GPTConfig, params: Any) -> Any:
    """Parameters of a GPT -> those of its `Decoder`: a tree per block, matrices in the compute dtype."""

    def leaf(x: Any) -> jax.Array:
        return jnp.asarray(x, config.dtype if x.ndim > 1 else None)

    blocks = {
        str(layer): jax.tree.map(lambda x: leaf(x[layer]), params["blocks"])
        for layer in range(config.num_layers)
    }
    rest = {
        name: jax.tree.map(leaf, tree)
        for name, tree in params.items()
        if name != "blocks"
    }
    return rest | {"blocks": blocks}


@flax.struct.dataclass
class State:
    """Decoding under way. `cache.index` slots are run; the token at that slot is known and not yet run.

    tokens: [B, S] int32, prompts padded on the left, then what was chosen.
    start: [B] int32, the slot of each prompt's first token.
    keys: [B] random keys, one per row: a row draws the same alone and in any batch.
    finished: [B] bool, rows that chose an end token; they get `pad_id` from then on.
    """

    tokens: jax.Array
    start: jax.Array
    keys: jax.Array
    finished: jax.Array
    cache: Cache


def _features(
    config: GPTConfig, params: Any, state: State, tokens: jax.Array
) -> tuple[Any, Any, Cache]:
    """Runs tokens [B, T] standing at slots cache.index.. on: (features [B, T, d_model], head, cache)."""
    slots = jnp.arange(state.tokens.shape[1])
    read = slots >= state.start[:, None]
    positions = state.cache.index + jnp.arange(tokens.shape[1]) - state.start[:, None]
    arguments = (
        tokens,
        jnp.maximum(positions, 0),
        Mask(read.astype(jnp.int32)),
        state.cache,
    )
    return Decoder(config).apply({"params": params}, *arguments, method="features")


@functools.partial(jax.jit, static_argnums=(0, 5))
def prefill(
    config: GPTConfig,
    params: Any,
    prompts: jax.Array,
    start: jax.Array,
    keys: jax.Array,
    slots: int,
) -> State:
    """prompts [B, T], padded on the left up to `start` [B] -> a state of `slots` slots, all but the last token run."""
    batch, length = prompts.shape
    tokens = jnp.zeros((batch, slots), jnp.int32).at[:, :length].set(prompts)
    empty = Cache.empty(config, batch, slots)
    state = State(tokens, start, keys, jnp.zeros(batch, bool), empty)
    return state.replace(cache=_features(config, params, state, prompts[:, :-1])[2])


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=3)
def _advance(
    config: GPTConfig,
    choose: Any,
    params: Any,
    state: State,
    filters: Any,
    stop: jax.Array,
    pad_id: Any,
    limit: Any,
) -> tuple[State, jax.Array]:
    def going(state: State) -> jax.Array:
        return (state.cache.index + 1 < limit) & ~state.finished.all()

    def turn(state: State) -> State:
        here = state.cache.index
        last = jax.lax.dynamic_slice_in_dim(state.tokens, here, 1, axis=1)
        features, head, cache = _features(config, params, state, last)
        # A row's draws depend on how many of its own tokens came before, and not on the padding.
        keys = jax.vmap(jax.random.fold_in)(state.keys, here - state.start)
        history = History(state.tokens, state.start, here + 1)
        chosen = Sampler(filters, choose)(project(features[:, -1], head), keys, history)
        chosen = jnp.where(state.finished, pad_id, chosen)
        finished = state.finished | (chosen[:, None] == stop).any(-1)
        tokens = jax.lax.dynamic_update_slice_in_dim(
            state.tokens, chosen[:, None], here + 1, axis=1
        )
        return state.replace(tokens=tokens, finished=finished, cache=cache)

    state = jax.lax.while_loop(going, turn, state)
    return state, state.finished.all()


def advance(
    config: GPTConfig,
    params: Any,
    state: State,
    sampler: Sampler,
    stop: Sequence[int],
    pad_id: int,
    limit: int,
) -> tuple[State, bool]:
    """Chooses tokens until `limit` slots hold one or every row has chosen one of `stop`: (state, all rows ended).

    The state given is used up. Only shapes, `config`, and the kind of sampler are compiled anew.
    """
    arguments = (
        params,
        state,
        sampler.filters,
        jnp.array(stop, jnp.int32),
        pad_id,
        limit,
    )
    state, ended = _advance(config, sampler.choose, *arguments)
    return state, bool(ended)


def generate(
    config: GPTConfig,
    params: Any,
    prompts: Sequence[Sequence[int]],
    sampler: Sampler,
    new_tokens: int,
    keys: jax.Array,
    stop: Sequence[int] = (),
    pad_id: int = 0,
    chunk: int | None = None,
) -> Iterator[np.ndarray]:
    """Continues prompts of any lengths (none empty) by up to `new_tokens`, `chunk` (default: all) at a time.

    params are those of `unstack`; keys [B]. Yields int arrays [B, n]; rows that have ended go on with `pad_id`.
    Raises UserError where the longest prompt and the new tokens exceed the context.
    """
    longest = max(map(len, prompts))
    check_length(config, longest, new_tokens)
    width = -(-longest // PROMPT_STEP) * PROMPT_STEP
    slots = -(-(width + new_tokens) // CACHE_STEP) * CACHE_STEP
    padded = np.zeros((len(prompts), width), np.int32)
    for row, prompt in zip(padded, prompts, strict=True):
        row[width - len(prompt) :] = prompt
    start = np.array([width - len(prompt) for prompt in prompts], np.int32)
    state = prefill(config, params, padded, start, keys, slots)
    done, ended = width, False
    while done < width + new_tokens and not ended:
        limit = min(done + (chunk or new_tokens), width + new_tokens)
        state, ended = advance(config, params, state, sampler, stop, pad_id, limit)
        reached = int(state.cache.index) + 1
        yield np.asarray(state.tokens[:, done:reached])
        done = reached


def check_length(config: GPTConfig, prompt: int, new_tokens: int) -> None:
    """Raises UserError unless prompt and new tokens fit into the context."""
    if prompt + new_tokens > config.max_length:
        raise UserError(
            f"prompt of {prompt} tokens + {new_tokens} new tokens exceed the model's context of {config.max_length}"
        )
