"""Decoding with a cache says what the model without one says."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pagnol_jax.errors import UserError
from pagnol_jax.models import decode, gpt, positions, sampling
from pagnol_jax.models.config import GPTConfig

SMALL = GPTConfig(vocab_size=61, num_layers=2, d_model=32, num_heads=4, max_length=96, init_stddev=0.2)
SCHEMES = [
    positions.none(),
    positions.learned(),
    positions.rotary(fraction=0.5),
    positions.alibi(),
]


@functools.cache
def parameters(config: GPTConfig):
    return jax.jit(lambda key: nn.unbox(gpt.init(config, key)))(jax.random.key(0))


def run(config, params, prompts, new_tokens, sampler=None, *, seed=0, rows=None, **options) -> np.ndarray:
    """[B, n] tokens; row b draws with the key of `rows[b]` (default b)."""
    keys = jnp.stack([jax.random.fold_in(jax.random.key(seed), row) for row in rows or range(len(prompts))])
    weights, sampler = decode.unstack(config, params), sampler or sampling.greedy()
    chunks = decode.generate(weights, prompts, sampler, new_tokens, keys=keys, **options)
    return np.concatenate(list(chunks), 1)


def assert_greedy(config, params, prompts, tokens) -> None:
    """Each token is the most likely one after prompt and earlier tokens, by the model without a cache."""
    whole = np.zeros((len(prompts), config.max_length), np.int32)
    for row, prompt, new in zip(whole, prompts, tokens, strict=True):
        row[: len(prompt) + len(new)] = [*prompt, *new]
    best = jax.jit(lambda ids: gpt.GPT(config).apply({"params": params}, ids).argmax(-1))(whole)
    for row, prompt, new in zip(best, prompts, tokens, strict=True):
        assert row[len(prompt) - 1 : len(prompt) + len(new) - 1].tolist() == new.tolist()


@pytest.mark.parametrize(
    ("num_kv_heads", "unroll"),
    [(4, 1), (2, 2), (1, 1)],
    ids=["full", "grouped", "multi-query"],
)
@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
def test_cache_is_no_cache(scheme, num_kv_heads, unroll):
    config = dataclasses.replace(SMALL, position=scheme, num_kv_heads=num_kv_heads, unroll=unroll)
    params = parameters(config)
    prompts = [[3, 1, 4, 1, 5, 9, 2], [6], [5] * 40]
    assert_greedy(config, params, prompts, run(config, params, prompts, 12))


@pytest.mark.parametrize(
    "variant",
    [
        {
            "parallel": True,
            "shared_norm": True,
            "use_bias": False,
            "tie_embeddings": True,
        },
        {"embedding_norm": True, "attention_bias": True, "use_bias": False},
        {"remat": "full", "dropout_rate": 0.5},
    ],
    ids=["parallel", "norms", "training-options"],
)
def test_logits_of_every_token_read(variant):
    config = dataclasses.replace(SMALL, position=positions.rotary(), **variant)
    params = parameters(config)
    tokens = jax.random.randint(jax.random.key(1), (2, 9), 0, config.vocab_size)
    expected = jax.jit(lambda tokens: gpt.GPT(config).apply({"params": params}, tokens))(tokens)
    cache, logits, weights = (
        decode.Cache.empty(config, 2, 16),
        [],
        decode.unstack(config, params),
    )

    @jax.jit
    def read(weights, tokens, where, cache):
        features, head, cache = weights.features(tokens, where, None, cache)
        return gpt.project(features, head), cache

    for first, stop in [(0, 5), (5, 6), (6, 9)]:
        where = jnp.broadcast_to(jnp.arange(first, stop), (2, stop - first))
        part, cache = read(weights, tokens[:, first:stop], where, cache)
        logits.append(part)
    assert int(cache.index) == 9
    np.testing.assert_allclose(jnp.concatenate(logits, 1), expected, atol=2e-5)


def test_bfloat16_weights_are_cast_once():
    config = dataclasses.replace(SMALL, dtype="bfloat16")
    params = parameters(config)
    weights = decode.unstack(config, params)
    assert weights.params["blocks"]["0"]["mlp"]["up"]["kernel"].dtype == jnp.bfloat16
    assert weights.params["final_norm"]["scale"].dtype == jnp.float32
    prompts = [[3, 1, 4, 1, 5]]
    assert_greedy(config, params, prompts, run(config, params, prompts, 8))


def test_long_prompt_is_read_in_blocks_of_queries():
    config = dataclasses.replace(SMALL, max_length=700, position=positions.alibi())
    params = parameters(config)
    prompt = jax.random.randint(jax.random.key(2), (600,), 0, config.vocab_size).tolist()
    assert_greedy(config, params, [prompt], run(config, params, [prompt], 4))


@pytest.mark.parametrize(
    "sampler",
    [
        sampling.top_k(5),
        sampling.nucleus(0.9, 1.3),
        sampling.greedy(sampling.RepetitionPenalty(1.5), sampling.NoRepeatNgram(2)),
    ],
    ids=["top_k", "nucleus", "repetition"],
)
def test_ragged_batch_is_each_prompt_alone(sampler):
    params = parameters(SMALL)
    prompts = [[1, 2, 3], [4] * 40, [5, 6, 5, 6, 5]]
    together = run(SMALL, params, prompts, 10, sampler)
    for row, prompt in enumerate(prompts):
        alone = run(SMALL, params, [prompt], 10, sampler, rows=[row])
        assert alone[0].tolist() == together[row].tolist()


def test_seed_decides_the_draws():
    params = parameters(SMALL)
    prompts = [[1, 2, 3], [1, 2, 3]]
    first, again, other = (run(SMALL, params, prompts, 20, sampling.nucleus(), seed=seed) for seed in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any()
    assert (first[0] != first[1]).any()  # rows have their own keys


def test_chunks_join_to_the_whole():
    params = parameters(SMALL)
    prompts = [[1, 2, 3], [4, 5]]
    whole = run(SMALL, params, prompts, 11, sampling.top_k(5))
    for chunk in (1, 4):
        assert (run(SMALL, params, prompts, 11, sampling.top_k(5), chunk=chunk) == whole).all()


def test_rows_stop_and_the_loop_ends_early():
    params = parameters(SMALL)
    prompts = [[3, 1, 4], [1, 5, 9, 2]]
    free = run(SMALL, params, prompts, 30)
    stop = sorted({int(free[0][4]), int(free[1][7])})
    ends = [next(i for i, token in enumerate(row) if token in stop) for row in free]
    stopped = run(SMALL, params, prompts, 30, ending=decode.Ending(stop, 60))
    assert stopped.shape[1] == max(ends) + 1 < 30
    for row, expected, end in zip(stopped, free, ends, strict=True):
        assert row[: end + 1].tolist() == expected[: end + 1].tolist()
        assert (row[end + 1 :] == 60).all()


def test_context_is_the_limit():
    params = parameters(SMALL)
    assert run(SMALL, params, [[1] * 90], 6).shape == (1, 6)
    with pytest.raises(UserError, match=r"prompt of 90 tokens and 7 new ones exceed .* context of 96"):
        run(SMALL, params, [[1], [1] * 90], 7)


def test_another_temperature_or_length_compiles_nothing():
    params = parameters(SMALL)
    run(SMALL, params, [[1, 2]], 5, sampling.nucleus(0.9, 1.0))
    before = decode.advance._cache_size(), decode.prefill._cache_size()
    run(SMALL, params, [[1, 2, 3, 4]], 9, sampling.nucleus(0.5, 0.7))
    assert (decode.advance._cache_size(), decode.prefill._cache_size()) == before
