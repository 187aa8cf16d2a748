"""Choosing the next token: filters on the logits, applied in order, then the best token or a draw.

A filter is a pytree called as `filter(logits [B, V] float32, history) -> logits`; numbers that do not decide
a shape are leaves, so another temperature compiles nothing again.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp

from pagnol_jax.errors import UserError

NEVER = -jnp.inf


class History(NamedTuple):
    """What a filter may look at: tokens [B, S] int, of which slots start[b] <= s < stop are read by row b."""

    tokens: jax.Array
    start: jax.Array
    stop: jax.Array

    def read(self) -> jax.Array:
        """[B, S] bool."""
        slots = jnp.arange(self.tokens.shape[1])
        return (slots >= self.start[:, None]) & (slots < self.stop)


Filter = Callable[[jax.Array, History], jax.Array]
Choose = Callable[[jax.Array, jax.Array], jax.Array]


@flax.struct.dataclass
class Temperature:
    """Logits / value: below 1 sharper, above 1 flatter (Ackley et al. 1985)."""

    value: float

    def __call__(self, logits: jax.Array, history: History) -> jax.Array:
        return logits / self.value


@flax.struct.dataclass
class TopK:
    """Only the k most likely tokens, and those tied with the last of them (Fan et al. 2018)."""

    k: int

    def __call__(self, logits: jax.Array, history: History) -> jax.Array:
        return keep_most_likely(logits, lambda kept, probabilities: kept.sum(-1, keepdims=True) >= self.k)


@flax.struct.dataclass
class Nucleus:
    """Only the smallest set of most likely tokens whose probabilities sum to p or more, and those tied with
    the last of them (Holtzman et al. 2020, section 3.1)."""

    p: float

    def __call__(self, logits: jax.Array, history: History) -> jax.Array:
        def enough(kept: jax.Array, probabilities: jax.Array) -> jax.Array:
            return jnp.where(kept, probabilities, 0).sum(-1, keepdims=True) >= self.p

        return keep_most_likely(logits, enough)


def keep_most_likely(logits: jax.Array, enough: Callable[[jax.Array, jax.Array], jax.Array]) -> jax.Array:
    """logits [B, V], those outside the smallest set of most likely tokens that is `enough` at -inf.

    `enough(kept [B, V] bool, probabilities [B, V]) -> [B, 1] bool` must stay true as the set grows. The least
    probability kept is found by bisection on the bits of the float32 probabilities, which are in the order of
    their values: 30 passes over the row, where a sort of 8,192 logits takes a CPU twenty times as long.
    """
    probabilities = jax.nn.softmax(logits, axis=-1)
    bits = jax.lax.bitcast_convert_type(probabilities, jnp.int32)

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds  # [B, 1]: the set from `low` on is large enough, the set past `high` is not
        middle = (low + high + 1) // 2
        inside = enough(bits >= middle, probabilities)
        return jnp.where(inside, middle, low), jnp.where(inside, high, middle - 1)

    low = jnp.zeros((logits.shape[0], 1), jnp.int32)
    least, _ = jax.lax.fori_loop(0, 30, halve, (low, bits.max(-1, keepdims=True)))
    return jnp.where(bits < least, NEVER, logits)


@flax.struct.dataclass
class RepetitionPenalty:
    """Logits of tokens already read, the prompt's included, divided by `value` where positive and multiplied
    by it where negative (Keskar et al. 2019, section 4.1, with the sign handled)."""

    value: float

    def __call__(self, logits: jax.Array, history: History) -> jax.Array:
        rows = jnp.arange(logits.shape[0])[:, None]
        ids = jnp.where(history.read(), history.tokens, logits.shape[1])  # past the vocabulary: dropped
        seen = jnp.zeros(logits.shape, bool).at[rows, ids].set(True, mode="drop")
        penalised = jnp.where(logits > 0, logits / self.value, logits * self.value)
        return jnp.where(seen, penalised, logits)


@flax.struct.dataclass
class NoRepeatNgram:
    """Never a token that would complete `size` tokens in a row for a second time (Paulus et al. 2018,
    section 2.5)."""

    size: int = flax.struct.field(pytree_node=False)

    def __call__(self, logits: jax.Array, history: History) -> jax.Array:
        tokens, before = history.tokens, self.size - 1
        windows = tokens.shape[1] - before  # an n-gram may begin at slots 0..windows-1
        if windows < 1:
            return logits
        last = jax.lax.dynamic_slice_in_dim(tokens, history.stop - before, before, axis=1)
        firsts = jnp.arange(windows)
        repeats = (firsts >= history.start[:, None]) & (firsts + before < history.stop)
        repeats &= history.stop - history.start[:, None] >= before
        for offset in range(before):
            repeats &= tokens[:, offset : offset + windows] == last[:, offset : offset + 1]
        ids = jnp.where(repeats, tokens[:, before:], logits.shape[1])
        return logits.at[jnp.arange(logits.shape[0])[:, None], ids].set(NEVER, mode="drop")


@flax.struct.dataclass
class Ban:
    """Never these tokens [n] int."""

    ids: jax.Array

    def __call__(self, logits: jax.Array, history: History) -> jax.Array:
        return logits.at[:, self.ids].set(NEVER)


def best(logits: jax.Array, keys: jax.Array) -> jax.Array:
    """logits [B, V] -> the first of the most likely tokens [B] int32; the keys are not used."""
    # Two plain reductions: CPUs vectorise them, and not an argmax.
    top = logits.max(-1, keepdims=True)
    ids = jnp.arange(logits.shape[-1], dtype=jnp.int32)
    return jnp.where(logits == top, ids, logits.shape[-1]).min(-1)


def draw(logits: jax.Array, keys: jax.Array) -> jax.Array:
    """logits [B, V], one key per row [B] -> tokens [B] int32, each drawn from its row's softmax: the largest
    logit after Gumbel noise."""
    noise = jax.vmap(lambda key: jax.random.gumbel(key, logits.shape[1:]))(keys)
    return best(logits + noise, keys)


@flax.struct.dataclass
class Sampler:
    """Filters in order, then `choose`."""

    filters: tuple[Any, ...]
    choose: Choose = flax.struct.field(pytree_node=False)

    def __call__(self, logits: jax.Array, keys: jax.Array, history: History) -> jax.Array:
        for each in self.filters:
            logits = each(logits, history)
        return self.choose(logits, keys)


def greedy(*filters: Filter) -> Sampler:
    """The most likely token after `filters`."""
    return Sampler(filters, best)


def top_k(k: int = 5, temperature: float = 1.0, *filters: Filter) -> Sampler:
    """A draw from the `k` most likely after `filters`. Raises UserError for k < 1 or temperature <= 0."""
    if k < 1:
        raise UserError(f"k must be 1 or more, not {k}")
    return Sampler((*filters, _temperature(temperature), TopK(k)), draw)


def nucleus(p: float = 0.9, temperature: float = 1.0, *filters: Filter) -> Sampler:
    """A draw from the most likely that make up probability `p`, after `filters`. Raises UserError for p
    outside (0, 1] or temperature <= 0."""
    if not 0 < p <= 1:
        raise UserError(f"p must be above 0 and at most 1, not {p}")
    return Sampler((*filters, _temperature(temperature), Nucleus(p)), draw)


def _temperature(value: float) -> Temperature:
    if not value > 0:
        raise UserError(f"temperature must be above 0, not {value} (mode greedy takes the most likely token)")
    return Temperature(value)
