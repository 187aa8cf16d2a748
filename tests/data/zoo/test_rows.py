"""Splits and batches as functions of the step; rankings."""

from collections.abc import Callable

import numpy as np
import pytest

from pagnol_jax.data.zoo.ranking import auc, average_precision, log_loss
from pagnol_jax.data.zoo.rows import Batches, Rows, as_split
from pagnol_jax.errors import UserError


def rows(count: int) -> Rows:
    """Row i has the id i, so that batches tell which rows they took."""
    return Rows(np.arange(count, dtype=np.int32)[:, None], np.zeros(count, np.uint8), (count,), "")


def taken(batches: Batches, part: str) -> set[int]:
    return {int(i) for batch in batches.whole(part, 7) for i in batch.ids[:, 0]}


def test_parts_are_disjoint_and_whole_and_depend_on_the_seed() -> None:
    parts = {part: taken(Batches(rows(203), 10, 3), part) for part in ("train", "validation", "test")}
    assert {part: len(found) for part, found in parts.items()} == {"train": 162, "validation": 20, "test": 21}
    assert set.union(*parts.values()) == set(range(203))
    assert taken(Batches(rows(203), 10, 4), "test") != parts["test"]


def test_an_epoch_takes_every_row_once_and_the_next_in_another_order() -> None:
    batches = Batches(rows(100), 10, 0)
    epochs = [[int(i) for step in range(8 * e, 8 * e + 8) for i in batches(step).ids[:, 0]] for e in (0, 1)]
    assert set(epochs[0]) == set(epochs[1]) == taken(batches, "train")
    assert epochs[0] != epochs[1]
    np.testing.assert_array_equal(batches(9).ids[:, 0], epochs[1][10:20])


def test_as_published_every_epoch_has_the_order_of_the_split() -> None:
    batches = Batches(rows(100), 10, 0, as_split)
    np.testing.assert_array_equal(batches(3).ids, batches(11).ids)
    whole = np.concatenate([batch.ids for batch in batches.whole("train", 10)])
    np.testing.assert_array_equal(batches(3).ids, whole[30:40])


def test_too_few_rows() -> None:
    with pytest.raises(UserError, match="batch_size 81 is more than the 80 rows"):
        Batches(rows(100), 81, 0)
    with pytest.raises(UserError, match="9 rows are too few"):
        Batches(rows(9), 1, 0)


@pytest.mark.parametrize("seed", [-1, 2**63, 1.0])
def test_seeds_are_whole_numbers(seed: int) -> None:
    with pytest.raises(UserError, match=f"seed {seed} is not a whole number from 0"):
        Batches(rows(100), 10, seed)
    Batches(rows(100), 10, 2**63 - 1)(0)


@pytest.mark.parametrize("rank", [auc, average_precision])
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_what_is_not_finite_is_not_ranked(rank: Callable[..., float], wrong: float) -> None:
    with pytest.raises(UserError, match="1 of 3 predictions are not finite"):
        rank(np.array([0.5, wrong, 1.0], np.float32), np.array([0, 1, 1]))


def test_auc_counts_pairs() -> None:
    random = np.random.default_rng(0)
    scores, labels = random.integers(0, 8, 60).astype(float), random.integers(0, 2, 60)
    pairs = [(a > b) + (a == b) / 2 for a in scores[labels == 1] for b in scores[labels == 0]]
    assert auc(scores, labels) == pytest.approx(np.mean(pairs), abs=1e-12)
    assert np.isnan(auc(scores, np.ones(60)))


def test_auc_of_probabilities_is_its_expectation() -> None:
    p = np.array([0.1, 0.7, 0.7, 0.4])
    scores = np.array([1.0, 2.0, 2.0, 3.0])
    won = total = 0.0
    for i in range(4):
        for j in range(4):
            if i != j:
                weight = p[i] * (1 - p[j])
                total += weight
                won += weight * ((scores[i] > scores[j]) + (scores[i] == scores[j]) / 2)
    assert auc(scores, p) == pytest.approx(won / total, abs=1e-12)


def test_log_loss() -> None:
    logits, labels = np.array([2.0, -1.0, 800.0]), np.array([1, 0, 1])
    expected = np.mean([np.log(1 + np.exp(-2.0)), np.log(1 + np.exp(-1.0)), 0.0])
    assert log_loss(logits, labels) == pytest.approx(expected, abs=1e-12)
