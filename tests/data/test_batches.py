import itertools
import time
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_cache import SEP, stream_of, write_cache

from pagnol_jax.data.batches import MixtureBatches, ahead, interleave, packed
from pagnol_jax.errors import UserError

T = 16
RATES = {"a": 3.0, "b": 1.0}


@pytest.fixture(scope="module")
def batches(toy):
    return MixtureBatches(toy[0], RATES, batch_size=8, length=T, seed=5)


def same(one, other):
    return all(np.array_equal(x, y) for x, y in zip(one, other, strict=True))


def test_shapes_and_types(batches):
    batch = batches.batch(0)
    assert all(part.shape == (8, T) for part in batch)
    assert [part.dtype for part in batch] == [np.int32] * 4 + [np.float32]
    assert all(part.flags.c_contiguous for part in batch)


def test_batch_is_a_pure_function_of_seed_and_step(toy, batches):
    again = MixtureBatches(toy[0], RATES, batch_size=8, length=T, seed=5)
    later = again.batch(1000)
    assert same(batches.batch(1000), later)
    assert same(batches.batch(3), again.batch(3))
    other = MixtureBatches(toy[0], RATES, batch_size=8, length=T, seed=6)
    assert not same(batches.batch(3), other.batch(3))
    assert batches.fingerprint == again.fingerprint != other.fingerprint


@pytest.mark.parametrize("hosts", [1, 2, 8])
def test_hosts_rows_make_up_the_batch(batches, hosts):
    rows = 8 // hosts
    parts = [batches.batch(7, host * rows, (host + 1) * rows) for host in range(hosts)]
    assert same([np.concatenate(part) for part in zip(*parts, strict=True)], batches.batch(7))


def test_batch_size_does_not_change_the_stream(toy, batches):
    small = MixtureBatches(toy[0], RATES, batch_size=2, length=T, seed=5)
    assert same([np.concatenate(x) for x in zip(*(small.batch(s) for s in range(4)), strict=True)], batches.batch(0))


def test_each_pass_reads_every_window_once(toy):
    cache, documents = toy
    single = MixtureBatches(cache, {"a": 1.0}, batch_size=1, length=T, seed=1)
    stream = stream_of(documents, "a", "train")
    windows = (len(stream) - 1) // T
    expected = sorted(tuple(stream[w * T + 1 : (w + 1) * T + 1]) for w in range(windows))
    orders = []
    for epoch in range(3):
        drawn = [tuple(single.batch(epoch * windows + i).targets[0].tolist()) for i in range(windows)]
        assert sorted(drawn) == expected
        orders.append(drawn)
    assert orders[0] != orders[1] != orders[2]
    assert single.tokens_per_epoch == windows * T
    assert single.passes(windows) == {"a": 1.0}


def test_rates_are_exact(batches):
    count = sum(int((batches.batch(step).inputs[:, 1:] % 2).any(axis=1).sum()) for step in range(200))
    from_b = sum(
        int(any(token % 2 for token in row if token > SEP)) for step in range(200) for row in batches.batch(step).inputs
    )
    assert count == from_b == 200 * 8 // 4


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=5))
def test_interleaving_is_even_and_counts_itself(rates):
    schedule = interleave(rates)
    period = len(schedule.corpus)
    shares = np.array(rates) / np.sum(rates)
    assert schedule.counts.sum() == period
    assert np.allclose(schedule.counts / period, shares, atol=2 / 2**16)
    for corpus in range(len(rates)):
        mine = schedule.corpus == corpus
        assert np.array_equal(schedule.rank[mine], np.arange(mine.sum()))
        drift = np.cumsum(mine) - np.arange(1, period + 1) * schedule.counts[corpus] / period
        assert np.abs(drift).max() <= max(1, len(rates) / 2)


def test_simple_rates_have_short_periods():
    assert len(interleave([0.7, 0.2, 0.1]).corpus) == 10
    assert interleave([3, 1]).corpus.tolist() == [0, 0, 1, 0]
    assert Fraction(int(interleave([0.9, 0.1]).counts[0]), 10) == Fraction(9, 10)


def test_packing_against_a_plain_loop(batches):
    for step in range(5):
        batch = batches.batch(step)
        for row in range(8):
            segment, position = 0, 0
            for t, token in enumerate(batch.inputs[row]):
                opens = t == 0 or token == SEP
                segment, position = (segment + 1, 0) if opens else (segment, position + 1)
                assert (batch.segment_ids[row, t], batch.positions[row, t]) == (segment, position)
            assert np.array_equal(batch.inputs[row, 1:], batch.targets[row, :-1])
        assert (batch.weights == 1).all()


def test_no_target_is_predicted_from_another_document():
    tokens = np.array([[5, 6, SEP, 7, SEP, 8, 9]])
    batch = packed(tokens, SEP)
    assert batch.inputs.tolist() == [[5, 6, SEP, 7, SEP, 8]]
    assert batch.segment_ids.tolist() == [[1, 1, 2, 2, 3, 3]]
    assert batch.positions.tolist() == [[0, 1, 0, 1, 0, 1]]
    assert batch.targets.tolist() == [[6, SEP, 7, SEP, 8, 9]]  # 7 from <SEP> alone, <SEP> from its own document


@pytest.mark.parametrize("corpus", ["a", "b"])
@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_validation_covers_the_split_once(toy, corpus, batch_size):
    cache, documents = toy
    batches = MixtureBatches(cache, RATES, batch_size=batch_size, length=T)
    found = list(batches.validation(corpus))
    assert all(batch.inputs.shape == (batch_size, T) for batch in found)
    targets = [t for batch in found for t in batch.targets[batch.weights == 1].tolist()]
    inputs = [t for batch in found for t in batch.inputs[batch.weights == 1].tolist()]
    stream = stream_of(documents, corpus, "validation")
    assert targets == stream[1:]
    assert inputs == stream[:-1]
    assert len(targets) == cache.size(corpus, "validation").tokens
    for batch in found:
        padding = batch.weights == 0
        assert not any(
            part[padding].any() for part in (batch.inputs, batch.targets, batch.segment_ids, batch.positions)
        )
        assert (batch.segment_ids[~padding] >= 1).all()


def test_some_windows_of_validation_are_spread_over_it(batches):
    whole = [row.tobytes() for batch in batches.validation("a") for row in batch.inputs]
    (some,) = batches.validation("a", most=4)
    taken = [whole.index(row.tobytes()) for row in some.inputs[:4]]
    assert taken == sorted(taken)
    assert taken[0] == 0
    assert taken[3] >= len(whole) // 2
    assert not some.weights[4:].any()


def test_validation_in_hosts(toy):
    batches = MixtureBatches(toy[0], RATES, batch_size=4, length=T)
    for whole, low, high in zip(
        batches.validation("b"), batches.validation("b", lo=0, hi=2), batches.validation("b", lo=2, hi=4), strict=True
    ):
        assert same([np.concatenate(part) for part in zip(low, high, strict=True)], whole)


def test_ahead_is_the_batches_and_hands_on_errors(batches):
    with ahead(batches.batch, 11, depth=3) as made:
        for step, batch in zip(range(11, 16), made, strict=False):
            assert same(batch, batches.batch(step))
    with pytest.raises(IndexError), ahead(lambda step: batches.batch(step, 0, -3)) as made:
        next(itertools.islice(made, 0, 1)).inputs[5]


def test_any_step_costs_the_same(batches):
    def seconds(step):
        start = time.perf_counter()
        for _ in range(20):
            batches.batch(step)
        return time.perf_counter() - start

    seconds(0)
    assert min(seconds(10**9) for _ in range(3)) < 20 * min(seconds(0) for _ in range(3))


def test_a_corpus_below_one_window_is_refused(toy):
    with pytest.raises(UserError, match=r"corpus 'b': .* do not fill one window of 5000"):
        MixtureBatches(toy[0], {"b": 1.0}, batch_size=1, length=5000)


def test_wide_vocabulary(tmp_path):
    cache = write_cache(tmp_path / "wide", {"a": {"train": [[[70_000, 5]] * 4], "validation": [[[70_000]]]}}, "<u4")
    batch = MixtureBatches(cache, {"a": 1.0}, batch_size=1, length=12).batch(0)
    assert batch.targets.tolist() == [[70_000, 5, SEP] * 4]
