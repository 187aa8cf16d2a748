"""Filters against their definitions, and draws against the closed form of their distributions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagnol_jax.errors import UserError
from pagnol_jax.models import sampling

PROBABILITIES = np.array([0.05, 0.4, 0.1, 0.25, 0.2])
LOGITS = jnp.log(jnp.array([PROBABILITIES], jnp.float32))
ROWS = st.lists(st.integers(-40, 40), min_size=8, max_size=8, unique=True)  # tenths of a logit, no ties


def history(tokens, start=None, stop=None) -> sampling.History:
    tokens = jnp.array(tokens, jnp.int32)
    start = [0] * tokens.shape[0] if start is None else start
    return sampling.History(tokens, jnp.array(start), jnp.int32(tokens.shape[1] if stop is None else stop))


NOTHING = history([[0]])


apply = jax.jit(lambda filter, logits, history: filter(logits, history))


def kept(filter, logits) -> list[int]:
    """Ids that the filter leaves possible in one row."""
    return np.flatnonzero(np.isfinite(apply(filter, jnp.array([logits], jnp.float32), NOTHING)[0])).tolist()


def frequencies(sampler: sampling.Sampler, draws: int = 20_000) -> np.ndarray:
    keys = jax.random.split(jax.random.key(0), draws)
    tokens = sampler(jnp.broadcast_to(LOGITS, (draws, 5)), keys, history(np.zeros((draws, 1))))
    return np.bincount(tokens, minlength=5) / draws


@settings(max_examples=40, deadline=None)
@given(row=ROWS, k=st.integers(1, 10))
def test_top_k_keeps_the_k_largest(row, k):
    expected = sorted(np.argsort(row)[::-1][:k].tolist())
    assert kept(sampling.TopK(k), [x / 10 for x in row]) == expected


@settings(max_examples=40, deadline=None)
@given(row=ROWS, p=st.floats(0.01, 0.99))
def test_nucleus_is_the_smallest_set_of_enough_mass(row, p):
    logits = np.array(row) / 10
    probabilities = np.exp(logits) / np.exp(logits).sum()
    order = np.argsort(-probabilities)
    mass = np.cumsum(probabilities[order])
    size = int((mass < p).sum()) + 1
    if np.abs(mass - p).min() > 1e-5:  # float32 sums may fall on either side of an exact hit
        assert kept(sampling.Nucleus(p), logits) == sorted(order[:size].tolist())


def test_nucleus_of_one_keeps_all_and_of_little_the_best():
    assert kept(sampling.Nucleus(1.0), LOGITS[0]) == [0, 1, 2, 3, 4]
    assert kept(sampling.Nucleus(1e-6), LOGITS[0]) == [1]


@pytest.mark.parametrize(
    ("sampler", "expected"),
    [
        (sampling.nucleus(1.0), PROBABILITIES),
        (sampling.nucleus(1.0, 2.0), PROBABILITIES**0.5 / (PROBABILITIES**0.5).sum()),
        (sampling.top_k(2), np.array([0, 0.4, 0, 0.25, 0]) / 0.65),
        (sampling.nucleus(0.7), np.array([0, 0.4, 0, 0.25, 0.2]) / 0.85),
        (sampling.top_k(3, 0.5), np.array([0, 0.16, 0, 0.0625, 0.04]) / 0.2625),
        (sampling.nucleus(1.0, 1.0, sampling.Ban(jnp.array([1]))), np.array([0.05, 0, 0.1, 0.25, 0.2]) / 0.6),
    ],
    ids=["plain", "temperature", "top_k", "nucleus", "top_k-temperature", "ban"],
)
def test_draws_follow_the_closed_form(sampler, expected):
    found = frequencies(sampler)
    assert (found[expected == 0] == 0).all()
    assert np.abs(found - expected).max() < 4 * np.sqrt(0.25 / 20_000)


def test_greedy_takes_the_first_of_the_best():
    logits = jnp.array([[0.0, 2.0, 2.0], [-jnp.inf, -1.0, -3.0]])
    assert sampling.greedy()(logits, None, history([[0], [0]])).tolist() == [1, 1]


def test_repetition_penalty_of_tokens_read():
    logits = jnp.array([[2.0, -2.0, 3.0, -1.0]] * 2)
    # Row 0 read 0 and 1; in row 1 slot 0 is padding, and slot 2 is not read yet.
    out = sampling.RepetitionPenalty(2.0)(logits, history([[0, 1, 2], [0, 1, 2]], [0, 1], 2))
    np.testing.assert_allclose(out, [[1.0, -4.0, 3.0, -1.0], [2.0, -4.0, 3.0, -1.0]])


@settings(max_examples=30, deadline=None)
@given(
    tokens=st.lists(st.integers(0, 2), min_size=2, max_size=12),
    padding=st.integers(0, 3),
    size=st.integers(1, 3),
)
def test_no_repeat_ngram(tokens, padding, size):
    """Against the definition: banned is whatever completes an n-gram of the tokens read."""
    ngrams = {tuple(tokens[i : i + size]) for i in range(len(tokens) - size + 1)}
    last = tuple(tokens[len(tokens) - size + 1 :])
    banned = {id for id in range(3) if len(last) == size - 1 and (*last, id) in ngrams}
    unread = [0] * (16 - padding - len(tokens))
    slots = history([[0] * padding + tokens + unread], [padding], padding + len(tokens))
    out = apply(sampling.NoRepeatNgram(size), jnp.zeros((1, 3)), slots)
    assert set(np.flatnonzero(np.isneginf(out[0])).tolist()) == banned


def test_numbers_out_of_range_are_told():
    for make in (
        lambda: sampling.top_k(0),
        lambda: sampling.nucleus(0.0),
        lambda: sampling.nucleus(1.5),
        lambda: sampling.nucleus(0.9, 0.0),
        lambda: sampling.top_k(5, float("nan")),
    ):
        with pytest.raises(UserError, match="must be"):
            make()
